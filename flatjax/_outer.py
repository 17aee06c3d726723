r"""A center with its own optimizer: the outer optimizer of DiLoCo.

Between couplings each replica trains alone and reaches :math:`w'_a`. At every K-th step an
optimizer moves the center :math:`\theta` by the mean displacement of the y replicas. Then the
center pulls the replicas:

.. math:: \Delta = \frac{1}{y} \sum_a Q(\theta - w'_a) \tag{1}

.. math:: \theta \leftarrow \theta + \mathrm{outer}(\Delta) \tag{2}

.. math:: w_a \leftarrow \theta + (w'_a - \theta) \, e^{-K \eta_t \gamma_t} \tag{3}

Q rounds the messages. With gamma = inf, outer Nesterov momentum and any inner optimizer this is
DiLoCo [Douillard et al., 2023, arXiv:2311.08105, algorithm 1]. With `outer` = SGD(1) the center is
the mean of the replicas. With SGD(beta) and a finite gamma it is elastic averaging [Zhang et al.,
2015, arXiv:1412.6651] in which the center moves first. With a delay, eqs. (2) and (3) use the
displacement of tau steps ago [Streaming DiLoCo, Douillard et al., 2025, arXiv:2501.18512].
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flatjax import _masks
from flatjax._center import leaf_center
from flatjax._coupling import Coupling, when
from flatjax._direction import check_direction

_OUTER_ASCENDS = (
    "outer must be an optimizer with its learning rate, such as optax.sgd(0.7, momentum=0.9, "
    "nesterov=True): its output is added to the center. Got one that moves params{path} along its "
    "gradient."
)


class OuterPullState(NamedTuple):
    """State of `pull_to_center` with an outer optimizer, and of `diloco`.

    Each replica stores copies of the parameters in at least float32: one for the center, one for
    each momentum of the outer optimizer, and one more with a delay. Stacked replicas share them,
    and their replica axis has size 1. Leaves that the mask marks False have None.

    Attributes:
      count: number of updates so far.
      gamma: the gamma of the last update, for logging.
      gamma_state: state of the schedule of gamma.
      center: theta; moves at coupled steps only.
      outer_state: state of the outer optimizer; changes at coupled steps only.
      pending: with a delay, the mean displacement that was measured last, shaped like the center.
        Otherwise an empty tuple.
      is_shared: with an axis name, whether all replicas have the same center. This is False before
        the first coupling, because `init` may see only its own weights. Otherwise an empty tuple.

    See Also:
      `diloco` (its transformation), `pull_to_center` (with `outer`, this is its state).
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    gamma: jax.Array
    gamma_state: optax.OptState
    center: optax.Params
    outer_state: optax.OptState
    pending: optax.Params
    is_shared: Any


def pull_to_outer_center(
    coupling: Coupling,
    scoping: Any,
    contraction: Callable[[jax.Array, jax.Array], jax.Array],
    outer: optax.GradientTransformation,
    delay: int,
) -> optax.GradientTransformationExtraArgs:
    """Makes the `pull_to_center` of a center with an outer optimizer.

    Args:
      coupling: where the replicas are, and when they are coupled.
      scoping: the schedule of gamma.
      contraction: a function (count, gamma) -> e^{-K eta gamma} - 1.
      outer: the optimizer of the center.
      delay: tau, in steps.
    """
    outer = optax.with_extra_args_support(outer)

    def init_fn(params):
        coupling.check_start(scoping, params)
        center = center_of(params, coupling.mask, coupling.replica_axis)
        check_direction(outer, center, -1, _OUTER_ASCENDS)
        return OuterPullState(
            count=jnp.zeros([], jnp.int32),
            gamma=jnp.zeros([]),
            gamma_state=scoping.init(),
            center=center,
            outer_state=outer.init(center),
            pending=jax.tree.map(jnp.zeros_like, center) if delay else (),
            is_shared=() if coupling.axis_name is None else jnp.array(False),
        )

    def update_fn(updates, state, params, **extra_args):
        coupling.check_params(params)
        measure = functools.partial(coupling.measure, params, extra_args)
        gamma_t, gamma_state = scoping.step(state.gamma_state, measure, extra_args)
        factor = contraction(state.count, gamma_t)

        def send(center, is_shared):
            """Returns the center and the mean of the replicas' messages, eq. (1)."""
            center = _shared(center, is_shared, coupling)
            displaced = lambda theta, w, u: _typed(coupling.mean(theta - (w + u)), theta)
            displacement = _map(displaced, center, params, updates)
            return center, displacement, jax.tree.map(jnp.ones_like, is_shared)

        def move(updates, center, outer_state, displacement):
            """Moves the center, which then pulls the replicas."""
            moves, outer_state = outer.update(displacement, outer_state, center, **extra_args)
            center = optax.apply_updates(center, moves)  # eq. (2)

            def pull(u, w, theta):  # eq. (3), as an update
                return (u + factor * (w + u - theta)).astype(u.dtype)

            updates = _masks.map_masked(pull, coupling.mask, params, updates, params, center)
            return updates, center, outer_state

        def at_once(updates, center, outer_state, is_shared):
            center, displacement, is_shared = send(center, is_shared)
            return *move(updates, center, outer_state, displacement), is_shared

        center, outer_state, is_shared = state.center, state.outer_state, state.is_shared
        pending = state.pending
        if delay:
            start = lambda center, _, is_shared: send(center, is_shared)
            center, pending, is_shared = coupling.when_coupled(
                state.count, start, center, pending, is_shared
            )
            finish = functools.partial(move, displacement=pending)
            updates, center, outer_state = when(
                _is_due(state.count, coupling, delay), finish, updates, center, outer_state
            )
        else:
            updates, center, outer_state, is_shared = coupling.when_coupled(
                state.count, at_once, updates, center, outer_state, is_shared
            )
        return updates, OuterPullState(
            count=optax.safe_increment(state.count),
            gamma=gamma_t.astype(state.gamma.dtype),
            gamma_state=gamma_state,
            center=center,
            outer_state=outer_state,
            pending=pending,
            is_shared=is_shared,
        )

    return _masks.of_weights(init_fn, update_fn)


def center_of(params: optax.Params, mask: _masks.Mask, replica_axis: int | None) -> Any:
    """Returns the center that `init` can see: a stack's mean, or the weights."""
    # Copies, because the state outlives donated parameters.
    mean = lambda w: jnp.array(leaf_center(w, replica_axis=replica_axis), copy=True)
    return jax.tree.map(mean, _masks.moving(params, mask))


def _shared(center, is_shared, coupling):
    """Averages the replicas' centers if they may differ: once, at the first coupling."""
    if coupling.axis_name is None:
        return center

    def agree(center):
        mean = lambda theta: _typed(leaf_center(theta, axis_name=coupling.axis_name), theta)
        return jax.tree.map(mean, center)

    return jax.lax.cond(is_shared, lambda center: center, agree, center)


def _typed(mean, theta):
    """Gives a mean over replicas the type of theta ("varying" in a shard_map)."""
    return jnp.where(True, mean, theta)


def _is_due(count, coupling, delay):
    """Whether a displacement measured `delay` steps ago is due at this step."""
    due = coupling.last_step + delay
    return (count % coupling.period == due % coupling.period) & (count >= due)


def _map(fn, center, *trees):
    """Maps over the leaves that have a center."""
    is_none = lambda leaf: leaf is None
    keep = lambda theta, *leaves: None if theta is None else fn(theta, *leaves)
    return jax.tree.map(keep, center, *trees, is_leaf=is_none)
