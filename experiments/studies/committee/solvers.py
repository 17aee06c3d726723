"""Trains committees by gradients: units tanh(beta h) become signs as beta grows."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import flatjax
from experiments.studies.committee.description import GradientSolver, Solver
from experiments.studies.committee.task import Patterns
from flatjax.committee import (
    Committee,
    belief_propagation,
    focusing_bp,
    stay_on_sphere,
    to_sphere,
)


def transformation(solver: GradientSolver, num_steps: int) -> optax.GradientTransformation:
    """Makes the optimizer of stacked weights (y, K, N)."""
    sgd = {"momentum": solver.momentum}
    if solver.algorithm == "esgd":
        tx = flatjax.esgd(
            solver.learning_rate,
            solver.gamma,
            weight_decay=0.0,
            inner_steps=solver.inner_steps,
            noise_scale=0.0,
            key=jax.random.key(0),
            replica_axis=0,
            decoupled=True,
            **sgd,
        )
    else:
        gamma = optax.linear_schedule(0.0, solver.gamma, num_steps)
        tx = flatjax.replicated_sgd(
            solver.learning_rate,
            gamma if solver.replicas > 1 else 0.0,
            replica_axis=0,
            decoupled=False,
            **sgd,
        )
    return optax.chain(tx, stay_on_sphere())


def train(
    solver: GradientSolver, num_units: int, patterns: Patterns, key: chex.PRNGKey
) -> tuple[jax.Array, jax.Array]:
    """Trains from random weights.

    Args:
      solver: the settings.
      num_units: K.
      patterns: training patterns.
      key: random key of the start and of the order of the patterns.

    Returns:
      The solution (center or anchor), and the replicas, of norm sqrt(N): (K, N) and (y, K, N).
    """
    return _train(solver, num_units, jnp.asarray(patterns.x), jnp.asarray(patterns.y), key)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _train(solver, num_units, x, y, key):
    model, num_features = Committee(num_units), x.shape[1]
    num_steps = solver.num_steps(len(x))
    per_epoch = len(x) // solver.batch_size
    tx = transformation(solver, num_steps)
    init_key, order_key = jax.random.split(key)
    growth = solver.beta[1] / solver.beta[0]

    def loss(weights, batch, beta):
        votes = model.apply({"params": {"weights": weights}}, x[batch], beta=beta)
        # Components of weights, patterns and this gradient are all of order 1.
        return np.sqrt(num_features) * jnp.mean(jax.nn.softplus(-2 * y[batch] * votes)) / 2

    def epoch(carry, number):
        keys = jax.random.split(jax.random.fold_in(order_key, number), solver.replicas)
        order = jax.vmap(jax.random.permutation, (0, None))(keys, len(x))
        order = order[:, : per_epoch * solver.batch_size]
        batches = jnp.swapaxes(order.reshape(solver.replicas, per_epoch, -1), 0, 1)

        def step(carry, batch):
            weights, state, count = carry
            beta = solver.beta[0] * growth ** (count / num_steps)
            grads = jax.vmap(jax.grad(loss), (0, 0, None))(weights, batch, beta)
            updates, state = tx.update(grads, state, weights)
            return (optax.apply_updates(weights, updates), state, count + 1), None

        return jax.lax.scan(step, carry, batches)

    init = lambda key: model.init(key, x)["params"]["weights"]
    if solver.common_start:
        start = init(init_key)
        start = jnp.broadcast_to(start, (solver.replicas, *start.shape))
    else:
        start = jax.vmap(init)(jax.random.split(init_key, solver.replicas))
    carry = (start, tx.init(start), jnp.zeros([], jnp.int32))
    (weights, state, _), _ = jax.lax.scan(epoch, carry, jnp.arange(solver.epochs))
    if solver.algorithm == "esgd":
        weights = flatjax.eval_params(state, weights)
    return to_sphere(jnp.mean(to_sphere(weights), axis=0)), to_sphere(weights)


def solve(solver: Solver, num_units: int, patterns: Patterns, key: chex.PRNGKey) -> jax.Array:
    """Returns weights that an algorithm finds, (K, N), of norm sqrt(N)."""
    if isinstance(solver, GradientSolver):
        return train(solver, num_units, patterns, key)[0]
    if solver.num_replicas == 1:
        found = belief_propagation(
            patterns.x, patterns.y, key, num_units=num_units, damping=solver.damping
        )
    else:
        replicas = solver.num_replicas
        if isinstance(replicas, tuple):
            replicas = np.geomspace(*replicas, solver.num_gammas)
        found = focusing_bp(
            patterns.x,
            patterns.y,
            key,
            num_units=num_units,
            num_replicas=replicas,
            gamma=np.geomspace(*solver.gamma, solver.num_gammas),
            damping=solver.damping,
        )
    return to_sphere(jnp.asarray(found.weights, jnp.float32))
