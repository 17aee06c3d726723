"""Many runs in one program: the same as one after another, whatever the algorithm."""

import jax
import numpy as np
import pytest
from fast import slow
from run_helpers import changed

import flatjax
from experiments.engine import programs
from experiments.engine.algorithm_settings import takers
from experiments.engine.config import TrainConfig
from experiments.engine.loop import Run
from experiments.engine.plan import make_plan
from experiments.engine.population import Population, Trained, meeting_record
from experiments.engine.population_files import PopulationFile
from experiments.engine.task import make_tasks
from experiments.engine.train import train
from experiments.report.meeting import not_met

BASE = TrainConfig.of(
    dataset="digits",
    epochs=4,
    batch_size=32,
    train_size=200,
    gamma=0.1,
    local_energy_samples=2,
    validation=0.2,
    evaluate_on="validation",
)
OWN = {"gamma": 0.1, "replica_gamma": 0.1, "inner_steps": 3}
SETTINGS = [
    {"learning_rate": 0.05, "weight_decay": 1e-3, "gamma": 0.3, "sam_rho": 0.1},
    {"learning_rate": 0.02, "weight_decay": 1e-2, "gamma": 0.01, "sam_rho": 0.3},
]


def settings_of(algorithm):
    """Those of the settings that an algorithm has."""
    has = lambda name: not takers(name) or algorithm in takers(name)
    return [{name: value for name, value in one.items() if has(name)} for one in SETTINGS]


@pytest.fixture(scope="module")
def tasks():
    return make_tasks(BASE, [0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sam", slow("rsam"), slow("parle")])
def test_runs_are_those_of_the_trainer(tasks, algorithm, monkeypatch):
    monkeypatch.setattr(programs, "train_together", lambda: True)
    config, varied = changed(BASE, OWN, algorithm=algorithm), settings_of(algorithm)
    found = Population(config, tasks).train(varied, [3, 4], [0, 1], progress=False)
    for settings, seed, task, run in zip(varied, [3, 4], tasks, found, strict=True):
        own = config.changed(**settings, seed=seed)
        expected = train(own, task, progress=False, evaluate_epochs=False)
        held_out = run.task.evaluate(run.params, run.batch_stats)
        assert float(held_out["loss"]) == pytest.approx(expected["test_loss"], rel=1e-3)
        assert run.train_loss == pytest.approx(expected["history"][-1]["train_loss"], rel=1e-3)


@pytest.mark.slow
def test_side_by_side_and_in_turn_are_the_same(tasks, monkeypatch):
    varied = settings_of("rsgd")
    losses = []
    for together in (True, False):
        seen = {}
        monkeypatch.setattr(programs, "train_together", lambda together=together: together)
        found = Population(BASE, tasks).train(
            varied,
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
        losses[-1] += [run.meeting[name] for run in found for name in ("center", "replicas")]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_tasks_have_their_own_data_and_share_programs(tasks):
    first, second = tasks
    assert not np.array_equal(first.train.label, second.train.label)
    assert first.objective is second.objective


def test_seed_and_hyperparameters_share_a_plan_and_its_programs(tasks):
    plan = make_plan(BASE, tasks[0])
    for changes in ({"seed": 1}, {"learning_rate": 0.1}, {"gamma": 2.0, "weight_decay": 0.0}):
        assert make_plan(BASE.changed(**changes), tasks[0]) == plan
    for changes in ({"gamma": None}, {"period": 2}, {"momentum": 0.5}, {"epochs": 8}):
        assert make_plan(BASE.changed(**changes), tasks[0]) != plan
    losses = {}
    for rate in (0.01, 0.02):
        run = Run(plan, BASE.changed(learning_rate=rate), tasks[0])
        losses[rate] = run.take_steps(2)[1].mean()
    assert losses[0.01] > losses[0.02]
    assert programs.programs_of(plan).steps._cache_size() == 1


@pytest.mark.slow
def test_divergence_is_seen(tasks):
    first, second = settings_of("rsgd")
    settings = [first | {"learning_rate": 1e6}, second]
    bad, good = Population(BASE, tasks).train(settings, [0, 0], [0, 0], progress=False)
    assert not np.isfinite(bad.train_loss)
    assert (bad.meeting, meeting_record(bad)) == (None, {})
    assert np.isfinite(good.train_loss)


def test_what_shapes_the_program_is_refused(tasks):
    with pytest.raises(ValueError, match=r"settings must hold hyperparameters only.*batch_size"):
        Population(BASE, tasks).train([{"batch_size": 64}], [0], [0], progress=False)


@pytest.mark.slow
def test_whether_replicas_have_met_is_known_at_the_end(tasks):
    """One run is hardly coupled: its center is none of the networks that learned."""
    own = {"replicas": 2, "gamma_factor": 1.0, "epochs": 8}
    settings = [{"learning_rate": 0.1, "gamma": gamma} for gamma in (1e-6, 3.0)]
    apart, together = Population(BASE.changed(**own), tasks).train(
        settings, [0, 0], [0, 0], progress=False
    )
    assert apart.meeting["center"] > 2 * apart.meeting["replicas"]
    assert apart.meeting["distance"] > 0.5 > 0.1 > together.meeting["distance"]
    for run in (apart, together):  # measured as the record's own error is
        error = 100 * float(run.task.evaluate(run.params, run.batch_stats)["error"])
        assert run.meeting["center"] == pytest.approx(error, abs=1e-3)
    found = not_met([apart.meeting, together.meeting], ["weak", "sane"])
    assert found.startswith("in 1 of 2 runs replicas have not met (distance 0.")
    assert found.endswith("They belong to: weak (1).")


def test_a_checkpoint_without_meetings_is_read(tmp_path):
    file = PopulationFile(tmp_path / "networks.npz", {})
    meeting = {"center": 16.6, "replicas": 8.0, "distance": 0.71}
    new = Trained(None, {"w": np.ones(2)}, {}, 0.5, meeting)
    old = new.arrays()
    del old["meeting"]
    file.save({"run": 2}, {"done": {"0": old, "1": new.arrays()}})
    done = file.restore()[1]["done"]
    assert [Trained.of_arrays(None, done[name]).meeting for name in "01"] == [None, meeting]
