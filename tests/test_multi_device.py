"""One run in four places ends in the same weights: jit, one device, four devices, two processes."""

import functools

import jax
import numpy as np
import pytest
from fast import slow
from test_processes import from_slurm, start

from experiments.engine import steps
from experiments.engine.config import TrainConfig
from experiments.engine.placement import OnMesh, make_mesh
from experiments.engine.plan import hyper_of, make_plan
from experiments.engine.task import make_task
from experiments.engine.train import load_run, train
from experiments.faults import raw

CONFIG = TrainConfig.of(
    algorithm="rsgd",
    replicas=2,
    gamma=0.1,
    model_options=("hidden=(4,)",),
    train_size=160,
    batch_size=40,
    epochs=6,
    seed=3,
    sigmas=(0.1,),
    local_energy_samples=2,
    local_energy_examples=40,
)


@functools.cache
def by_jit():
    """The reference: `jax.jit` of the pure step on stacked replicas, in a plain loop."""
    task = make_task(CONFIG)
    plan, hyper = make_plan(CONFIG, task), hyper_of(CONFIG)
    state = steps.init_state(plan, hyper, CONFIG.seed)
    step = jax.jit(functools.partial(steps.train_step, plan))
    for epoch, num_steps in enumerate(plan.epoch_lengths()):
        draw = steps.draw_epoch(plan, CONFIG.seed, epoch)
        for _ in range(num_steps):
            batch = steps.take_batch(plan, task.device_train, draw, state.step)
            state, _ = step(hyper, state, batch)
    return state


def on_one_device(directory):
    train(CONFIG, directory=directory / "run", progress=False)


def on_four_devices(directory):
    placement = OnMesh(make_mesh("replica=2,data=2", CONFIG))
    train(CONFIG, placement=placement, directory=directory / "run", progress=False)


def in_two_processes(directory):
    """One device in each, started as SLURM starts them."""
    codes = [process.wait(timeout=240) for process in start(directory, 60, from_slurm, CONFIG)]
    texts = [(directory / f"{i}.txt").read_text() for i in range(2)]
    assert codes == [0, 0], texts
    # The first process alone writes and prints.
    assert ["test error" in text for text in texts] == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize("place", [on_one_device, slow(on_four_devices), slow(in_two_processes)])
def test_a_run_ends_in_the_same_weights_wherever_it_is(place, tmp_path):
    place(tmp_path)
    found, expected = load_run(tmp_path / "run").state, by_jit()
    assert int(found.step) == 12
    for leaves in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(*map(raw, leaves), rtol=1e-4, atol=1e-5)
