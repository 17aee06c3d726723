"""Many runs in one program: the same as one after another, whatever the algorithm."""

import dataclasses

import jax
import numpy as np
import pytest

import flatjax
from experiments.engine.config import TrainConfig
from experiments.engine.population import Population, make_tasks
from experiments.engine.train import train
from experiments.engine.trainer import Trainer

BASE = TrainConfig(
    dataset="digits",
    epochs=4,
    batch_size=32,
    train_size=200,
    gamma=0.1,
    replica_gamma=0.1,
    inner_steps=3,
    local_energy_samples=2,
    validation=0.2,
    evaluate_on="validation",
)
NAMES = ("learning_rate", "weight_decay", "gamma", "sam_rho")
SETTINGS = [
    {"learning_rate": 0.05, "weight_decay": 1e-3, "gamma": 0.3, "sam_rho": 0.1},
    {"learning_rate": 0.02, "weight_decay": 1e-2, "gamma": 0.01, "sam_rho": 0.3},
]


@pytest.fixture(scope="module")
def tasks():
    return make_tasks(BASE, [0, 1])


@pytest.mark.parametrize(
    "algorithm", ["sam", pytest.param("rsam", marks=pytest.mark.slow), "parle"]
)
def test_runs_are_those_of_the_trainer(tasks, algorithm):
    config = dataclasses.replace(BASE, algorithm=algorithm)
    population = Population(config, tasks, NAMES)
    found = population.train(SETTINGS, [3, 4], [0, 1], progress=False)
    for settings, seed, task, run in zip(SETTINGS, [3, 4], tasks, found, strict=True):
        trainer = Trainer(dataclasses.replace(config, **settings, seed=seed), task)
        expected = train(trainer, progress=False, evaluate_epochs=False)
        held_out = run.task.evaluate(run.params, run.batch_stats)
        assert float(held_out["loss"]) == pytest.approx(expected["test_loss"], rel=1e-3)
        assert run.train_loss == pytest.approx(expected["history"][-1]["train_loss"], rel=1e-3)


def test_side_by_side_and_in_turn_are_the_same(tasks, monkeypatch):
    config = dataclasses.replace(BASE, algorithm="rsgd")
    losses = []
    for loops in (True, False):
        seen = {}
        monkeypatch.setattr(Trainer, "loops_on_device", loops)
        found = Population(config, tasks, NAMES).train(
            SETTINGS,
            [3, 4],
            [1, 0],
            progress=False,
            watch=lambda run, done, read, seen=seen: seen.setdefault(run, []).append(
                (done, read())
            ),
        )
        for run, model in enumerate(found):  # what was watched becomes the model
            done, arrays = zip(*seen[run], strict=True)
            assert done == (0.5, 1.0)
            for place, is_same in ((0, False), (1, True)):
                center = flatjax.replica_center(arrays[place]["params"], replica_axis=0)
                leaves = zip(*map(jax.tree.leaves, (center, model.params)), strict=True)
                assert all(np.allclose(a, b, rtol=1e-5) for a, b in leaves) == is_same
        losses.append([float(run.task.evaluate(run.params, {})["loss"]) for run in found])
        losses[-1] += [run.train_loss for run in found]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_tasks_have_their_own_data_and_share_programs(tasks):
    first, second = tasks
    assert not np.array_equal(first.train.label, second.train.label)
    assert first.eval_fn is second.eval_fn
    assert first.local_energy is second.local_energy
    assert first.normalization is second.normalization


def test_divergence_is_seen(tasks):
    settings = [SETTINGS[0] | {"learning_rate": 1e6}, SETTINGS[1]]
    bad, good = Population(BASE, tasks, NAMES).train(settings, [0, 0], [0, 0], progress=False)
    assert not np.isfinite(bad.train_loss)
    assert np.isfinite(good.train_loss)
