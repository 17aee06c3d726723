"""The steps of a run as pure functions of plan, hyperparameters, state and batch.

The plan is static. Everything else may be traced. The same `train_step` therefore serves a run, a
vmapped population, a run on a mesh, and a program of a whole epoch.
"""

import dataclasses
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

import flatjax
from experiments.engine.algorithms import Hyper, seed_noise
from experiments.engine.datasets import Examples
from experiments.engine.plan import Plan
from flatjax import data


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """The arrays that change during training, as a pytree.

    Attributes:
      step: number of gradients that each replica has taken.
      params: the parameters of all replicas, stacked.
      opt_state: state of the optimizer of all replicas.
      batch_stats: the batch statistics of all replicas, stacked; empty without batch norm.
    """

    step: jax.Array
    params: chex.ArrayTree
    opt_state: optax.OptState
    batch_stats: chex.ArrayTree


class Draw(NamedTuple):
    """The random choices of one epoch.

    Attributes:
      order: indices of the training examples, (batches, y, B); an empty tuple if the device holds a
        window of their batches.
      key: random key of the augmentation.
    """

    order: jax.Array | tuple[()]
    key: chex.PRNGKey


class _RunKeys(NamedTuple):
    """Independent random keys, one for each random choice in a run."""

    weights: chex.PRNGKey
    order: chex.PRNGKey
    augmentation: chex.PRNGKey
    noise: chex.PRNGKey


def _run_keys(seed: chex.Numeric) -> _RunKeys:
    return _RunKeys(*jax.random.split(jax.random.key(seed), 4))


def init_state(plan: Plan, hyper: Hyper, seed: chex.Numeric) -> State:
    """Makes the state before the first step, from independent weights by default."""
    own = _run_keys(seed)
    keys = jax.random.split(own.weights, plan.num_replicas)
    if getattr(plan.config.algorithm, "common_init", False):
        keys = jnp.broadcast_to(keys[0], keys.shape)
    network, problem = plan.objective.network, plan.objective.problem
    inputs = jnp.zeros((1, *problem.input_shape), problem.input_dtype)
    variables = flatjax.stack_replicas(lambda key: network.init(key, inputs), keys)
    opt_state = seed_noise(plan.optimizer(hyper).init(variables["params"]), own.noise)
    return State(
        step=jnp.zeros([], jnp.int32),
        params=variables["params"],
        # Copies: some optimizers keep the parameters themselves, and a buffer is donated once.
        opt_state=jax.tree.map(jnp.copy, opt_state),
        batch_stats=variables.get("batch_stats", {}),
    )


def draw_epoch(plan: Plan, seed: chex.Numeric, epoch: chex.Numeric) -> Draw:
    """Draws the order of the data in an epoch and a key, from seed and epoch alone."""
    key = _run_keys(seed).augmentation
    return Draw(() if plan.window_rows is not None else epoch_order(plan, seed, epoch), key)


def epoch_order(plan: Plan, seed: chex.Numeric, epoch: chex.Numeric) -> jax.Array:
    """Draws positions of the training examples in an epoch, (batches, y, B)."""
    return data.epoch_order(
        jax.random.fold_in(_run_keys(seed).order, epoch),
        plan.num_examples,
        plan.config.batch_size,
        plan.num_replicas,
    )


def take_batch(plan: Plan, train: Examples, draw: Draw, step: jax.Array) -> dict[str, jax.Array]:
    """Returns the batch of a step: examples of every replica, and keys.

    Args:
      plan: the static part of the run.
      train: the training examples, or a window of their batches, (rows, y, B, ...).
      draw: the random choices of the epoch.
      step: number of gradients taken before, in all epochs.
    """
    number = step // plan.algorithm.batch_repeats
    row = number % plan.batches_per_epoch
    where = row % plan.window_rows if plan.window_rows is not None else draw.order[row]
    examples = jax.tree.map(lambda leaf: leaf[where], train)
    batch = plan.objective.batch(examples, jax.random.fold_in(draw.key, number))
    return plan.placement.constrain(batch)


def train_step(
    plan: Plan, hyper: Hyper, state: State, batch: dict[str, jax.Array]
) -> tuple[State, jax.Array]:
    """Takes one gradient of every replica, and makes the update.

    Args:
      plan: the static part of the run.
      hyper: the hyperparameters.
      state: the state before the step.
      batch: see `take_batch`.

    Returns:
      The new state and the losses of the replicas, (y,).
    """
    gradient = flatjax.map_replicas(plan.objective.value_and_grad, mesh=plan.placement.mesh)
    (losses, batch_stats), grads = gradient(state.params, state.batch_stats, batch)
    grads = plan.placement.constrain_weights(grads)
    updates, opt_state = plan.optimizer(hyper).update(
        grads, state.opt_state, state.params, value=losses.mean()
    )
    params = optax.apply_updates(state.params, updates)
    return State(optax.safe_increment(state.step), params, opt_state, batch_stats), losses


def train_next(
    plan: Plan, hyper: Hyper, state: State, train: Examples, draw: Draw
) -> tuple[State, jax.Array]:
    """Makes `train_step` on the next batch of the epoch."""
    return train_step(plan, hyper, state, take_batch(plan, train, draw, state.step))


def train_steps(
    plan: Plan,
    hyper: Hyper,
    state: State,
    train: Examples,
    draw: Draw,
    num_steps: chex.Numeric,
) -> tuple[State, jax.Array]:
    """Makes up to an epoch of steps; `num_steps` may be traced.

    Returns:
      The new state and the losses, (y, steps of a whole epoch); zero after `num_steps`.
    """

    def body(i, carry):
        state, losses = carry
        state, loss = train_next(plan, hyper, state, train, draw)
        return state, losses.at[:, i].set(loss)

    losses = jnp.zeros((plan.num_replicas, plan.steps_per_epoch))
    return jax.lax.fori_loop(0, num_steps, body, (state, losses))


def coupling(plan: Plan, hyper: Hyper, state: State) -> dict[str, jax.Array]:
    """Measures the coupling after a step; see `flatjax.coupling_diagnostics`."""
    step = jnp.maximum(state.step - 1, 0)  # the state holds the gamma of the previous step
    members = flatjax.eval_params(state.opt_state, state.params)
    if hyper.get("distance") is not None:  # no gamma is known
        distance = flatjax.replica_distance(members, replica_axis=0)
        squared = optax.tree.norm(members, squared=True) / plan.num_replicas
        relative = jnp.sqrt(distance / squared)
        return {"replica_distance": distance, "relative_distance": relative}
    rate = plan.learning_rate(hyper)(step)
    return flatjax.coupling_diagnostics(members, state.opt_state, rate, replica_axis=0)


def arrays_of(state: State) -> dict[str, Any]:
    """Returns a state as checkpoints hold it."""
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
