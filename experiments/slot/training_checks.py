"""Checks of runs on the present device: one program, memory, formats, resuming."""

import functools
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine import programs
from experiments.engine.config import TrainConfig
from experiments.engine.loop import Run
from experiments.engine.plan import hyper_of, make_plan
from experiments.engine.steps import arrays_of
from experiments.engine.task import Task, make_task
from experiments.engine.time_limit import TimeIsUp, TimeLimit
from experiments.engine.train import train

# 64 images, two replicas: numbers do not matter here, only that they agree.
TINY = TrainConfig.of(
    algorithm="rsgd",
    replicas=2,
    gamma=0.1,
    dataset="digits",
    model="small_convnet",
    model_options=("features=(4, 8)", "hidden=(16,)"),
    train_size=64,
    held_out_size=64,
    batch_size=16,
    epochs=4,
    validation=0.0,
    sigmas=(0.1,),
    local_energy_samples=2,
    local_energy_examples=64,
)


def half_precision() -> dict[str, Any]:
    """A network in bfloat16 has a state in float32, and learns."""
    options = (*TINY.network.model_options, "dtype=bfloat16")
    found = {}
    for name, config in (("float32", TINY), ("bfloat16", TINY.changed(model_options=options))):
        task = make_task(config)
        run = Run(make_plan(config, task), config, task)
        losses = run.take_steps(4)
        state = (run.state.params, run.state.opt_state)
        floats = [
            leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)
        ]
        assert all(leaf.dtype == jnp.float32 for leaf in floats), "the state is not float32"
        found[name] = float(losses.mean())
    np.testing.assert_allclose(found["bfloat16"], found["float32"], rtol=0.05)
    return found


def _run(config: TrainConfig = TINY) -> tuple[Task, Any]:
    task = make_task(config)
    return task, make_plan(config, task)


def resume() -> dict[str, Any]:
    """A run that stops for want of time ends where it would have ended."""
    # An epoch of dense layers is one program everywhere: the clock ticks as often on all devices.
    config = TINY.changed(model="mlp", model_options=("hidden=(16,)",))
    task, _ = _run(config)
    expected = train(config, task, progress=False)
    calls = 0
    with tempfile.TemporaryDirectory() as folder:
        while True:
            calls += 1
            assert calls < 20, "the run does not come to an end"
            limit = TimeLimit(5, clock=functools.partial(next, iter(range(10**6))))
            try:
                result = train(config, task, directory=folder, progress=False, limit=limit)
                break
            except TimeIsUp:
                pass
    assert calls > 1, "the run was not interrupted"
    np.testing.assert_allclose(result["test_loss"], expected["test_loss"], rtol=1e-3)
    return {"calls": calls, "test losses": [result["test_loss"], expected["test_loss"]]}


def memory() -> dict[str, Any]:
    """Three replicas take three times the memory of one, and no more."""
    found = {}
    for replicas in (1, 3):
        config = TINY.changed(replicas=replicas)
        task, plan = _run(config)
        compiled, hyper = programs.programs_of(plan), plan.placement.put(hyper_of(config))
        state = compiled.init(hyper, 0)
        args = (hyper, state, task.device_train, compiled.draw(0, 0))
        analysis = compiled.step.lower(*args).compile().memory_analysis()
        state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
        found[replicas] = {
            "state": state_bytes,
            "alias": analysis.alias_size_in_bytes,
            "temporary": analysis.temp_size_in_bytes,
        }
        # The old state is donated: the new one takes its place.
        assert analysis.alias_size_in_bytes >= 0.95 * state_bytes, found[replicas]
    one, three = found[1], found[3]
    assert abs(three["state"] / (3 * one["state"]) - 1) < 0.01, found
    assert three["temporary"] < 3.6 * one["temporary"] + 2**20, found
    return {f"y = {replicas}": own for replicas, own in found.items()}


def compilations() -> dict[str, int]:
    """Runs that differ in seed and hyperparameters, and epochs, share one program."""
    task, plan = _run()
    for changes in ({"seed": 1}, {"learning_rate": 0.01, "gamma": 0.5}):
        run = Run(plan, TINY.changed(**changes), task)
        for _ in range(2):
            run.take_steps(plan.steps_per_epoch)
    compiled = programs.programs_of(plan)
    own = "steps" if programs.loops_on_device(plan) else "step"
    size = getattr(compiled, own)._cache_size()
    assert size == 1, f"{own} was compiled {size} times"
    return {own: size}


def transfers() -> dict[str, Any]:
    """An epoch is one program without transfers, and has one state."""
    config = TINY.changed(augment=("flip", "crop"))
    task, plan = _run(config)
    compiled, hyper = programs.programs_of(plan), plan.placement.put(hyper_of(config))
    state, draw = compiled.init(hyper, 0), compiled.draw(0, 0)
    steps = jax.device_put(jnp.int32(plan.steps_per_epoch))
    jax.block_until_ready((state, draw, task.device_train))
    with jax.transfer_guard("disallow"):
        new, losses = compiled.steps(hyper, state, task.device_train, draw, steps)
        jax.block_until_ready(losses)
    kept = [leaf for leaf in jax.tree.leaves(arrays_of(state)) if not leaf.is_deleted()]
    assert not kept, f"{len(kept)} arrays of the old state were not donated"
    assert int(new.step) == plan.steps_per_epoch
    return {"steps in one program": plan.steps_per_epoch}
