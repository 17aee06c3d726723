"""The mixture at finite size: minima of the risk, and training by optax.

These simulations with some hundreds of features test the theory of infinitely many.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from flatjax import _checks, _keys
from flatjax._entropy_sgd import EntropySGDState
from flatjax._langevin import langevin_noise
from flatjax.gaussian_mixture._minimum import Minimum, minimise
from flatjax.gaussian_mixture._mixture import Sample
from flatjax.gaussian_mixture.losses import Loss

__all__ = [
    "Minimum",
    "ThermalNoiseState",
    "Trajectory",
    "add_thermal_noise",
    "minimise",
    "train",
]


class ThermalNoiseState(NamedTuple):
    """State of `add_thermal_noise`.

    Attributes:
      count: number of steps so far.
      key: numbers of the random key, or the key that `train` put there. It never changes; the
        step is folded in.

    See Also:
      `add_thermal_noise` (its transformation).
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    key: tuple[jax.Array, ...] | chex.PRNGKey


def add_thermal_noise(
    learning_rate: float, beta: float, key: chex.PRNGKey | int, *, replica_axis: int | None = None
) -> optax.GradientTransformation:
    r"""Adds the noise of Langevin dynamics; the last of a chain.

    It adds :math:`\sqrt{2 \eta / \beta}\, z` to the update, with z standard normal. Plain gradient
    descent of a risk E then samples :math:`e^{-\beta E}`, up to errors of the order of the learning
    rate.

    Args:
      learning_rate: :math:`\eta`, the learning rate of the chain.
      beta: inverse temperature.
      key: PRNG key or a seed.
      replica_axis: axis along which replicas are stacked; each has its own noise.

    Returns:
      The transformation.

    Raises:
      ValueError: learning_rate or beta is out of range.

    Examples:
      >>> import optax
      >>> tx = optax.chain(optax.sgd(0.1), add_thermal_noise(0.1, 5.0, jax.random.key(0)))
      >>> updates, _ = tx.update(jnp.zeros(10_000), tx.init(jnp.zeros(10_000)))
      >>> round(float(updates.std()), 2)
      0.2

    See Also:
      `train` (with any optimizer), `flatjax.langevin_noise` (noise of a fixed scale).
    """
    _checks.check_scalar("learning_rate", learning_rate, exclusive_minimum=True)
    _checks.check_scalar("beta", beta, exclusive_minimum=True)
    _checks.check_key("key", key)

    def init(params):
        del params
        numbers = _keys.numbers_of(_keys.as_key("key", key))
        return ThermalNoiseState(jnp.zeros([], jnp.int32), numbers)

    def update(updates, state, params=None):
        del params
        own_key = _keys.from_numbers("state.key", state.key, _keys.implementation(key))
        noise = langevin_noise(
            jax.random.fold_in(own_key, state.count),
            updates,
            learning_rate,
            1 / np.sqrt(beta),
            replica_axis=replica_axis,
        )
        state = ThermalNoiseState(optax.safe_increment(state.count), state.key)
        return jax.tree.map(jnp.add, updates, noise), state

    return optax.GradientTransformation(init, update)


class Trajectory(NamedTuple):
    """Result of a training run on the mixture.

    Attributes:
      weights: the last weights, shape (y, N).
      opt_state: the last state of the transformation.
      mean: average of the weights over the last part of the run, shape (y, N).
      second_moment: average of w_a . w_b / N over the same part, shape (y, y).
    """

    weights: jax.Array
    opt_state: optax.OptState
    mean: jax.Array
    second_moment: jax.Array


def train(
    patterns: Sample,
    loss: Loss,
    tx: optax.GradientTransformation,
    *,
    lam: float,
    num_steps: int,
    key: chex.PRNGKey,
    num_replicas: int = 1,
    batch_size: int | None = None,
    init_scale: float = 0.0,
    average_from: float = 0.5,
) -> Trajectory:
    r"""Trains y replicas of a linear classifier with any optax transformation.

    Each replica minimises the risk of `minimise` without bias. Every step gives `tx` the gradients,
    from all patterns or from a separate batch for each replica, scaled up to all patterns. A
    transformation is compiled once for many keys, if you make it outside of loops.

    Args:
      patterns: the sample.
      loss: a loss of `flatjax.gaussian_mixture.losses`; its derivative is used.
      tx: optax transformation of stacked weights (y, N).
      lam: ridge; 0 for none.
      num_steps: gradients of each replica.
      key: random key, or a seed, of the initial weights, the batches and the noise. It replaces
        the keys in the state of `tx`: all new-style keys, as in `optax.add_noise`, and the keys of
        `add_thermal_noise`, `entropy_sgd`, `esgd` and `parle`.
      num_replicas: y.
      batch_size: patterns of a batch, drawn with replacement; the default is all patterns.
      init_scale: standard deviation of the initial weights.
      average_from: fraction of the run after which averages are taken.

    Returns:
      The end of the run, and averages over its last part.

    Raises:
      ValueError: a count is below 1, or a scale is negative.

    Examples:
      Two coupled replicas meet at the minimum:

      >>> import flatjax
      >>> from flatjax.gaussian_mixture import losses, sample
      >>> patterns = sample(jax.random.key(0), 100, alpha=2.0, delta=1.0)
      >>> tx = optax.chain(flatjax.couple_replicas(1.0, replica_axis=0), optax.sgd(0.1))
      >>> options = {"lam": 1.0, "num_steps": 300, "key": jax.random.key(1), "init_scale": 1.0}
      >>> found = train(patterns, losses.square(), tx, num_replicas=2, **options)
      >>> expected = minimise(patterns, losses.square(), lam=1.0).weights
      >>> bool(jnp.allclose(found.weights, expected, atol=1e-4))
      True

    See Also:
      `minimise` (the minimum at once), `add_thermal_noise` (at a temperature),
      `flatjax.gaussian_mixture.sample` (the data).
    """
    for name, value in (("num_steps", num_steps), ("num_replicas", num_replicas)):
        _checks.check_count(name, value)
    _checks.check_count("batch_size", len(patterns.x) if batch_size is None else batch_size)
    _checks.check_scalar("lam", lam)
    _checks.check_scalar("init_scale", init_scale)
    _checks.check_scalar("average_from", average_from, maximum=1.0, exclusive_maximum=True)
    return _train(
        patterns,
        _keys.from_numbers("key", _keys.as_key("key", key), None),
        lam,
        init_scale,
        loss=loss,
        tx=tx,
        num_steps=num_steps,
        num_replicas=num_replicas,
        batch_size=batch_size,
        first_kept=int(average_from * num_steps),
    )


@functools.partial(
    jax.jit,
    static_argnames=("loss", "tx", "num_steps", "num_replicas", "batch_size", "first_kept"),
)
def _train(
    patterns, key, lam, init_scale, *, loss, tx, num_steps, num_replicas, batch_size, first_kept
):
    num, num_features = patterns.x.shape
    design = patterns.label[:, None] * patterns.x / np.sqrt(num_features)
    init_key, batch_key, noise_key = jax.random.split(key, 3)
    slope = jax.vmap(jax.grad(loss.value))

    def gradient(weights, rows):
        return rows.T @ slope(rows @ weights) * (num / len(rows)) + lam * weights

    def step(i, carry):
        weights, opt_state, mean, second_moment = carry
        if batch_size is None:
            grads = jax.vmap(gradient, (0, None))(weights, design)
        else:
            shape = (num_replicas, batch_size)
            rows = jax.random.randint(jax.random.fold_in(batch_key, i), shape, 0, num)
            grads = jax.vmap(gradient)(weights, design[rows])
        updates, opt_state = tx.update(grads, opt_state, weights)
        weights = optax.apply_updates(weights, updates)
        kept = i >= first_kept
        mean += kept * weights
        second_moment += kept * (weights @ weights.T / num_features)
        return weights, opt_state, mean, second_moment

    weights = init_scale * jax.random.normal(init_key, (num_replicas, num_features))
    opt_state = _reseed(tx.init(weights), noise_key)
    start = (weights, opt_state, jnp.zeros_like(weights), jnp.zeros([num_replicas] * 2))
    weights, opt_state, mean, second_moment = jax.lax.fori_loop(0, num_steps, step, start)
    num_kept = num_steps - first_kept
    return Trajectory(weights, opt_state, mean / num_kept, second_moment / num_kept)


def _reseed(opt_state, key):
    """Replaces every PRNG key of an optimizer's state by a new one."""
    # Their keys are stored as numbers, which look like counts.
    is_noisy = lambda node: isinstance(node, EntropySGDState | ThermalNoiseState)
    nodes, treedef = jax.tree.flatten(opt_state, is_leaf=is_noisy)

    def fresh(i, node):
        own = jax.random.fold_in(key, i)
        if isinstance(node, ThermalNoiseState):
            return node._replace(key=own)
        if isinstance(node, EntropySGDState):
            inner, outer = jax.random.split(own)
            inner, outer = _reseed(node.inner_state, inner), _reseed(node.outer_state, outer)
            return node._replace(key=own, inner_state=inner, outer_state=outer)
        return own if _keys.is_typed(node) else node

    return jax.tree.unflatten(treedef, [fresh(i, node) for i, node in enumerate(nodes)])
