"""The decoupled coupling: it contracts the replicas towards their center."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from flatjax import _checks
from flatjax._coupling import Coupling
from flatjax._masks import Mask, map_masked, of_weights
from flatjax._outer import pull_to_outer_center
from flatjax._schedules import Gamma, ScalarOrSchedule, as_scoping, at_step


class PullToCenterState(NamedTuple):
    """State of `pull_to_center`. The center is computed, not stored.

    Attributes:
      count: number of updates so far.
      gamma: the gamma of the last update, for logging.
      gamma_state: state of the schedule of gamma.

    See Also:
      `pull_to_center` (its transformation), `coupling_diagnostics` (numbers to log).
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    gamma: jax.Array
    gamma_state: optax.OptState


def pull_to_center(
    gamma: Gamma,
    learning_rate: ScalarOrSchedule,
    *,
    axis_name: str | None = None,
    replica_axis: int | None = None,
    period: int = 1,
    offset: int | None = None,
    mask: Mask = None,
    communication_dtype: DTypeLike | None = None,
    overlapped: bool = False,
    outer: optax.GradientTransformation | None = None,
    delay: int | None = None,
    num_replicas: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Contracts the replicas towards their center, stably for every gamma.

    The base optimizer moves the weights of replica a to :math:`w'_a = w_a + u_a`. With the center
    :math:`\bar w'` of these, this transformation then sets

    .. math:: w_a \leftarrow \bar w' + (w'_a - \bar w') \, e^{-K \eta_t \gamma_t}

    which is the exact flow of the coupling energy over a time :math:`K \eta_t`. Chain it *last*,
    after any optimizer; AdamW decouples weight decay in the same way. For small
    :math:`\eta \gamma` and plain SGD it agrees with `couple_replicas`. Momentum multiplies the
    force in the gradient by up to 1 / (1 - momentum), but it does not multiply this pull. For the
    same effect, gamma must therefore be larger by this factor.

    Args:
      gamma: coupling, as in `couple_replicas`; `inf` puts every replica on the center, so that
        a period K is local SGD (averaging every K steps).
      learning_rate: :math:`\eta`, the base optimizer's learning rate, a number or a schedule of the
        step count. The pull decays together with it.
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread.
      replica_axis: axis of the leaves along which replicas are stacked.
      period: K, the number of steps between pulls.
      offset: see `couple_replicas`.
      mask: pytree of bools (or a function of params returning one); leaves marked False are not
        pulled.
      communication_dtype: see `couple_replicas`.
      overlapped: measure the displacement of the weights that the step started from,
        :math:`w_a \leftarrow w'_a - (1 - e^{-K \eta_t \gamma_t}) (w_a - \bar w)`, so that
        communication overlaps with the computation of the gradient. Stable for every gamma; at
        gamma = inf the replicas differ by their last updates.
      outer: optimizer of the center, including its learning rate, as in DiLoCo. The state then
        holds the center as a separate point :math:`\theta`. At every K-th step `outer` moves it by
        the mean displacement :math:`\theta - \bar w'`, before the replicas are pulled to it.
        `optax.sgd(1.0)` moves it to the mean, which equals the pull without `outer`.
        See `diloco`, and `flatjax.OuterPullState` for the stored arrays.
      delay: with `outer`, :math:`\tau` < K: a displacement that was measured at one step is used
        :math:`\tau` steps later, so that communication may take :math:`\tau` steps. 0 if None.
      num_replicas: see `couple_replicas`.

    Returns:
      The transformation. `update` needs `params`.

    Raises:
      ValueError: negative gamma or learning rate, period < 1, offset or delay out of range. A delay
        without `outer`, or `overlapped` with it. Neither `axis_name` nor `replica_axis`. Leaves
        that disagree on the number of replicas or with `num_replicas`. Missing params. `init`
        raises it for an `outer` that ascends.

    Examples:
      >>> import jax.numpy as jnp, optax, flatjax
      >>> tx = optax.chain(
      ...     optax.adamw(1e-3), flatjax.pull_to_center(float("inf"), 1e-3, replica_axis=0)
      ... )
      >>> params = jnp.array([[0.0], [2.0]])
      >>> updates, _ = tx.update(jnp.zeros((2, 1)), tx.init(params), params)
      >>> optax.apply_updates(params, updates).round(2)
      Array([[1.],
             [1.]], dtype=float32)

    See Also:
      `couple_replicas` (the paper's force in the gradient), `replicated_sgd` (the complete
      optimizer), `schedules.meeting` (a gamma without tuning).
    """
    gamma = _checks.check_schedule("gamma", gamma, finite=False)
    learning_rate = _checks.check_schedule("learning_rate", learning_rate)
    _checks.check_flag("overlapped", overlapped)
    coupling = Coupling(
        axis_name, replica_axis, period, offset, mask, communication_dtype, num_replicas
    )
    scoping = as_scoping(gamma)

    def contraction(count, gamma_t):
        """e^{-K eta gamma} - 1."""
        eta_t = at_step(learning_rate, count)
        # At learning rate 0 the product with an infinite gamma is NaN; the pull must be complete.
        is_infinite = jnp.isinf(gamma_t)
        exponent = period * eta_t * jnp.where(is_infinite, 0.0, gamma_t)
        return jnp.expm1(-jnp.where(is_infinite, jnp.inf, exponent))

    _check_delay(delay, period, outer, overlapped)
    if outer is not None:
        return pull_to_outer_center(coupling, scoping, contraction, outer, delay or 0)
    return _pull_to_mean(coupling, scoping, contraction, overlapped)


def _pull_to_mean(coupling, scoping, contraction, overlapped):
    """Makes the transformation without an outer optimizer; it stores no center."""

    def init_fn(params):
        coupling.check_start(scoping, params)
        return PullToCenterState(
            count=jnp.zeros([], jnp.int32), gamma=jnp.zeros([]), gamma_state=scoping.init()
        )

    def update_fn(updates, state, params, **extra_args):
        coupling.check_params(params)
        measure = functools.partial(coupling.measure, params, extra_args)
        gamma_t, gamma_state = scoping.step(state.gamma_state, measure, extra_args)
        factor = contraction(state.count, gamma_t)

        def pull_leaf(u, w):
            # u + (e^{-K eta gamma} - 1) d, with d = w' - center: the contraction, as an update.
            d = coupling.displacement(w if overlapped else w + u)
            return (u + factor * d).astype(u.dtype)

        pull = lambda updates: map_masked(pull_leaf, coupling.mask, params, updates, params)
        return coupling.when_coupled(state.count, pull, updates), PullToCenterState(
            count=optax.safe_increment(state.count),
            gamma=gamma_t.astype(state.gamma.dtype),
            gamma_state=gamma_state,
        )

    return of_weights(init_fn, update_fn)


def _check_delay(delay, period, outer, overlapped):
    if delay is None:
        delay = 0
    _checks.check_count("delay", delay, minimum=0)
    if delay >= period and delay > 0:
        raise ValueError(f"delay must be < period = {period}, got {delay}.")
    if delay and outer is None:
        raise ValueError(
            f"delay ({delay}) needs outer: pass outer=optax.sgd(1.0), which moves the center to "
            "the mean, as the pull without outer does."
        )
    if overlapped and outer is not None:
        raise ValueError("overlapped must be False where outer is given: use delay=1 instead.")
