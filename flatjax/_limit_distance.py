"""A coupling that limits the distance of the replicas."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from flatjax import _checks
from flatjax._center import leaf_center
from flatjax._coupling import Coupling
from flatjax._masks import Mask, map_masked, of_weights
from flatjax._precision import at_least_float32
from flatjax._schedules import at_step


class LimitDistanceState(NamedTuple):
    """State of `limit_distance`.

    Attributes:
      count: number of updates so far.
      target: the largest relative distance allowed at the last update, for logging.

    See Also:
      `limit_distance` (its transformation), `coupling_diagnostics` (numbers to log).
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    target: jax.Array


def limit_distance(
    target: chex.Numeric | optax.Schedule,
    *,
    axis_name: str | None = None,
    replica_axis: int | None = None,
    period: int = 1,
    offset: int | None = None,
    mask: Mask = None,
    communication_dtype: DTypeLike | None = None,
    num_replicas: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps the relative distance of the replicas below a target, in each leaf.

    The relative distance r of a leaf is 0 if the replicas coincide, and at most 1. For y
    independent replicas it is :math:`\sqrt{1 - 1/y}`:

    .. math::
      r = \sqrt{\frac{\langle \lVert w_a - \bar w \rVert^2 \rangle_a}
                     {\langle \lVert w_a \rVert^2 \rangle_a}} \tag{1}

    After the base optimizer has moved the weights, each leaf whose r is above the target
    :math:`r_t` is contracted. Other leaves are not changed:

    .. math:: w_a \leftarrow \bar w + \min(1, r_t / r) \, (w_a - \bar w) \tag{2}

    A few such steps bring r to the target (the norm of :math:`w_a` shrinks too). This is the
    coupling of Replicated-SGD with a separate gamma for each leaf and step. If the target falls to
    0, the replicas always meet. Chain this transformation *last*.

    Args:
      target: :math:`r_t`; a number or a schedule of the step count, such as
        `optax.linear_schedule(1.0, 0.0, steps)`.
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread.
      replica_axis: axis of the leaves along which replicas are stacked.
      period: K, the number of steps between couplings.
      offset: see `couple_replicas`.
      mask: pytree of bools (or a function of params returning one); leaves marked False are not
        coupled.
      communication_dtype: see `couple_replicas`.
      num_replicas: see `couple_replicas`.

    Returns:
      The transformation. `update` needs `params`.

    Raises:
      ValueError: a negative target, period < 1, offset out of range, neither `axis_name` nor
        `replica_axis`, leaves that disagree on the number of replicas or with `num_replicas`, or
        missing params.

    Examples:
      >>> import jax.numpy as jnp, optax, flatjax
      >>> tx = flatjax.limit_distance(0.5, replica_axis=0)
      >>> params = jnp.array([[1.0], [-1.0], [3.0]])
      >>> updates, _ = tx.update(jnp.zeros((3, 1)), tx.init(params), params)
      >>> (params + updates).round(1).ravel()  # they were at a relative distance of 0.85
      Array([ 1. , -0.2,  2.2], dtype=float32)

    See Also:
      `pull_to_center` (a coupling of fixed strength), `schedules.meeting` (a strength for which
      replicas meet), `coupling_diagnostics` (the distance).
    """
    target = _checks.check_schedule("target", target)
    coupling = Coupling(
        axis_name, replica_axis, period, offset, mask, communication_dtype, num_replicas
    )

    def init_fn(params):
        coupling.check_params(params)
        return LimitDistanceState(count=jnp.zeros([], jnp.int32), target=jnp.zeros([]))

    def update_fn(updates, state, params, **extra_args):
        del extra_args
        coupling.check_params(params)
        target_t = at_step(target, state.count)

        def pull_leaf(u, w):
            moved = at_least_float32(w + u)
            d = coupling.displacement(moved)
            r = jnp.sqrt(_mean_square(d, coupling) / _mean_square(moved, coupling))  # eq. (1)
            # If all weights are 0, r is nan and there is nothing to pull.
            factor = jnp.where(r > target_t, target_t / r, 1.0)  # eq. (2)
            return (u + (factor - 1) * d).astype(u.dtype)

        pull = lambda updates: map_masked(pull_leaf, mask, params, updates, params)
        return coupling.when_coupled(state.count, pull, updates), LimitDistanceState(
            count=optax.safe_increment(state.count), target=target_t.astype(state.target.dtype)
        )

    return of_weights(init_fn, update_fn)


def _mean_square(leaf, coupling):
    """The mean over replicas and weights of |w|^2, of one leaf."""
    axes = tuple(axis for axis in range(leaf.ndim) if axis != coupling.replica_axis)
    of_replica = jnp.mean(jnp.square(jnp.abs(leaf)), axis=axes, keepdims=True)
    return leaf_center(of_replica, **coupling.where)
