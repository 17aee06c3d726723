"""A check that an optimizer chains its transformations in the right order."""

import chex
import jax
import jax.numpy as jnp
import optax

from flatjax import _masks, _precision, _vectors
from flatjax._averaging import AverageParamsState
from flatjax._center import replica_center, replica_distance
from flatjax._couple_replicas import CoupleReplicasState
from flatjax._entropy_sgd import EntropySGDState
from flatjax._eval_params import eval_params
from flatjax._limit_distance import LimitDistanceState
from flatjax._outer import OuterPullState
from flatjax._pull_to_center import PullToCenterState
from flatjax._states import find_states

_MOST_STEPS = 100
_COUPLED = (CoupleReplicasState, PullToCenterState, LimitDistanceState, OuterPullState)

_OFF_ANCHOR = (
    "tx must leave the parameters on the anchor of entropy_sgd, esgd or parle when it moves: put "
    "it last in the chain, after what scales or clips gradients."
)
_OFF_AVERAGE = (
    "tx must begin the average of average_params at the parameters: put it last in the chain, "
    "after all that changes the updates."
)
_APART = (
    "tx must not drive replicas apart, but it does when the gradient is 0: put couple_replicas "
    "first in the chain, before the learning rate, and pull_to_center and limit_distance last."
)


def check_chain(
    tx: optax.GradientTransformation, params: optax.Params, *, replica_axis: int | None = None
) -> None:
    """Raises if a transformation of flatjax has the wrong place in a chain.

    `entropy_sgd` replaces the parameters. A transformation after it (a scale, a clip) moves them
    away from its anchor. `average_params` averages what reaches it: it must see the last update.
    `couple_replicas` adds a force to the gradient: if it comes after the learning rate, it drives
    replicas apart, and so do `pull_to_center` and `limit_distance` before the learning rate. Such
    chains train without an error, because no transformation sees the others. This function
    therefore tries the whole optimizer for some steps on random numbers. Call it once, before
    training.

    Args:
      tx: the optimizer.
      params: the parameters that it will train. Only their structure and shapes matter.
      replica_axis: axis of the leaves along which replicas are stacked. Without it, the coupling is
        not checked.

    Raises:
      ValueError: the parameters leave the anchor when it moves, an average begins elsewhere, or
        coupled replicas move apart.

    Examples:
      >>> import jax.numpy as jnp, optax, flatjax
      >>> params = {"w": jnp.ones((2, 3))}
      >>> flatjax.check_chain(flatjax.esgd(0.1, gamma=0.1), params)
      >>> tx = optax.chain(optax.sgd(0.1), flatjax.couple_replicas(1.0, replica_axis=0))
      >>> flatjax.check_chain(tx, params, replica_axis=0)
      Traceback (most recent call last):
      ...
      ValueError: tx must not drive replicas apart, ...

    See Also:
      `per_replica` (norms of each replica), `couple_replicas` (comes first in a chain),
      `pull_to_center` and `limit_distance` (come last), `average_params` (comes behind them).
    """
    tx = optax.with_extra_args_support(tx)
    start, grads = (_random(seed, params) for seed in (0, 1))

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params, value=1.0, grad_fn=lambda *_: grads)
        return optax.apply_updates(params, updates), state

    _check_points(step, start, tx.init(start), grads, EntropySGDState, "anchor", _OFF_ANCHOR)
    _check_points(step, start, tx.init(start), grads, AverageParamsState, "average", _OFF_AVERAGE)
    if replica_axis is not None:
        still = jax.tree.map(jnp.zeros_like, grads)
        _check_coupling(step, start, tx.init, still, replica_axis)


def _random(seed: int, params: optax.Params) -> chex.ArrayTree:
    """Draws weights in at least float32; zeros for other leaves."""
    weights = _masks.moving(params, None)
    shapes = jax.tree.map(lambda w: jax.ShapeDtypeStruct(jnp.shape(w), jnp.result_type(w)), weights)
    numbers = _vectors.normal_like(jax.random.key(seed), shapes)
    draw = lambda w, z: z.astype(jnp.promote_types(w.dtype, jnp.float32))
    numbers = jax.tree.map(draw, shapes, numbers)
    is_none = lambda leaf: leaf is None
    zero = lambda z, w: jnp.zeros_like(w) if z is None and w is not None else z
    return jax.tree.map(zero, numbers, params, is_leaf=is_none)


def _check_points(step, params, state, grads, kind, which, message):
    """Checks that the parameters are on the points of a state when these have moved."""
    points = lambda state: [getattr(found, which) for found in find_states(state, kind)]
    if not points(state):
        return
    for _ in range(_MOST_STEPS):
        before = points(state)
        params, state = step(params, state, grads)
        moved = _distance(points(state), before)
        if moved > 0:
            rounding = 1e-6 * float(_precision.norm(_masks.moving(params, None)))
            off = _distance(eval_params(state, params, which=which), params)
            if off > 1e-3 * moved + rounding:
                raise ValueError(message)
            return


def _check_coupling(step, params, init, still, replica_axis):
    """Checks that coupled replicas approach each other when there is no gradient.

    Noise drives them apart, too. It does so for replicas that start together, and is subtracted.
    """
    if not find_states(init(params), *_COUPLED):
        return
    distance = lambda params: float(replica_distance(params, replica_axis=replica_axis))
    limit = (1 + 1e-5) * distance(params)
    center = replica_center(params, replica_axis=replica_axis, keepdims=True)
    together = jax.tree.map(lambda leaf, mean: jnp.broadcast_to(mean, leaf.shape), params, center)
    own, other = (params, init(params)), (together, init(together))
    for _ in range(_MOST_STEPS):
        own, other = step(*own, still), step(*other, still)
    apart = own[0], _precision.difference(own[0], other[0])
    if min(map(distance, apart)) > limit:
        raise ValueError(_APART)


def _distance(tree, other):
    weights = lambda tree: _masks.moving(tree, None)
    return float(_precision.norm(_precision.difference(weights(tree), weights(other))))
