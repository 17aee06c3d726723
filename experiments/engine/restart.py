"""Continues a run with another number of replicas, in a new directory.

This is for a lost host, or for more devices. The replicas of the newest checkpoint are merged or
forked, see `flatjax.resize_replicas`: their center does not move. Each replica takes as many steps
as it would have taken, so schedules continue. The budget of gradients counts all replicas together,
and therefore changes with their number.
"""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flatjax
from experiments.engine import steps
from experiments.engine.config import TrainConfig
from experiments.engine.feed import moved_position
from experiments.engine.loop import Run
from experiments.engine.plan import Plan, hyper_of, make_plan
from experiments.engine.run_directory import RunDirectory, Saved, read_config


def with_replicas(config: TrainConfig, num_replicas: int) -> TrainConfig:
    """Changes the number of replicas, and keeps the number of steps of each.

    Raises:
      ValueError: the algorithm has no replicas.

    Examples:
      >>> with_replicas(TrainConfig.of(replicas=4, epochs=20), 3).epochs
      15.0
    """
    if num_replicas == config.num_replicas:
        return config
    epochs = config.epochs * num_replicas / config.num_replicas
    return config.changed(replicas=num_replicas, epochs=epochs)


def continued(config: TrainConfig, asked: TrainConfig) -> TrainConfig:
    """Returns the configuration with which a run continues.

    Args:
      config: configuration of the run.
      asked: the same settings, except for the number of replicas.

    Raises:
      ValueError: another setting differs.
    """
    y, same = config.num_replicas, asked
    if asked.algorithm.name == config.algorithm.name and asked.num_replicas != y:
        same = asked.changed(replicas=y)
    _checked(config, same)
    return with_replicas(config, asked.num_replicas)


def _checked(config: TrainConfig, asked: TrainConfig) -> None:
    wanted, found = config.flat(), asked.flat()
    if names := [name for name in wanted | found if wanted.get(name) != found.get(name)]:
        raise ValueError(
            f"{', '.join(names)}: a run continues with the settings that it was started with, "
            "except for replicas; leave the option out."
        )


def go_on_from(run: Run, directory: pathlib.Path) -> None:
    """Brings a new run to the state of the run in another directory.

    Args:
      run: a run with the other run's configuration, except for the number of replicas.
      directory: directory of the other run.

    Raises:
      FileNotFoundError: there is no run, or no checkpoint.
      ValueError: the configurations differ in something else, or a file is damaged.
    """
    config = read_config(directory / "config.json")
    _checked(with_replicas(config, run.config.num_replicas), run.config)
    plan = make_plan(config, run.task)
    about = {"data": run.task.fingerprint, "network": run.task.network_fingerprint}
    saved = RunDirectory(directory, config, **about).restore(_spread(plan, run.plan))
    if saved is None:
        raise FileNotFoundError(f"{directory} holds no checkpoint yet.")
    run.go_on(_resized(saved, plan, run, str(directory)))


def _spread(plan: Plan, new: Plan) -> dict[str, Any]:
    """Describes the restored state: the old plan's, on the new plan's devices."""

    def place(leaf, sharding):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            # Orbax recognises a key only inside an array.
            return jax.jit(lambda: jax.random.key(0), out_shardings=sharding)()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    init = functools.partial(steps.init_state, plan)
    state = steps.arrays_of(jax.eval_shape(init, hyper_of(plan.config), 0))
    return jax.tree.map(place, state, new.placement.shardings(state))


def _resized(saved: Saved, plan: Plan, run: Run, directory: str) -> Saved:
    """Converts a checkpoint of the old plan to the new plan."""
    new, hyper = run.plan, hyper_of(run.config)

    def resize(state):
        # Batch statistics are merged like the parameters.
        networks = {"params": state.params, "batch_stats": state.batch_stats}
        init = lambda networks: new.optimizer(hyper).init(networks["params"])
        resized = flatjax.resize_replicas(init, state.opt_state, networks, new.num_replicas)
        return steps.State(state.step, opt_state=resized[1], **resized[0])

    old = steps.State(**saved.state)
    state = new.placement.jit_init(resize, jax.eval_shape(resize, old))(old)
    losses = np.asarray(saved.losses, np.float32).reshape(-1, plan.num_replicas)
    if len(losses):
        merge = functools.partial(flatjax.resize_replicas, lambda _: (), (), replica_axis=1)
        losses = np.asarray(merge(losses, new.num_replicas)[0])
    step, gradients = int(old.step), saved.gradients
    origin = {"directory": directory, "step": step, "replicas": plan.num_replicas}
    return Saved(
        steps.arrays_of(state),
        losses.tolist(),
        saved.history,
        moved_position(run.task.stream, saved.position, run.row_of(step), plan.num_replicas),
        step * plan.num_replicas if gradients is None else gradients,
        origin,
    )
