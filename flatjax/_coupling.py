r"""Replicated-SGD: replicas attracted to their center.

Replicated-SGD minimises, over y replicas :math:`w_a` with center :math:`\bar w`,

.. math:: L_R(\{w_a\}) = \sum_a L(w_a) + \frac{\gamma}{2} \sum_a \lVert w_a - \bar w \rVert^2

[Pittorino et al., 2021, eq. 6; Baldassi et al., 2016]. Its gradient is each replica's own plus
:math:`\gamma (w_a - \bar w)`. Two forms of the coupling are offered.

`couple_replicas` adds that term to the gradient, before weight decay and momentum: the paper's
algorithm. It is explicit Euler, stable while learning_rate * gamma stays below 2 (plain SGD),
2 (1 + b) (heavy ball) or 2 (1 + b) / (1 + 2 b) (Nesterov, 1.36 at b = 0.9), and loses its meaning
behind an adaptive preconditioner, which rescales it with the gradient.

`pull_to_center` contracts the replicas towards the center after the base optimizer, the way AdamW
decays weights: stable for every gamma and sound behind any optimizer. With gamma = inf and a period
K it is local SGD (parameter averaging every K steps), and at K = 1 data-parallel SGD.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from flatjax import _center, _checks, _replicas, communication, schedules
from flatjax._masks import Mask, map_masked, of_weights
from flatjax._schedules import as_scoping, at_step, loss_of


class CoupleReplicasState(NamedTuple):
    """State of `couple_replicas`. No center is stored: it can be computed.

    Attributes:
      count: number of updates so far.
      gamma: the gamma of the last update, for logging.
      gamma_state: state of the schedule of gamma.
      pending: with `delayed`, the displacement from the center measured at the last coupling, to
        act at the next; like the parameters. Else an empty tuple.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    gamma: jax.Array
    gamma_state: optax.OptState
    pending: optax.Params


class PullToCenterState(NamedTuple):
    """State of `pull_to_center`. No center is stored: it can be computed.

    Attributes:
      count: number of updates so far.
      gamma: the gamma of the last update, for logging.
      gamma_state: state of the schedule of gamma.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    gamma: jax.Array
    gamma_state: optax.OptState


def couple_replicas(
    gamma: chex.Numeric | optax.Schedule | schedules.BalancedScoping,
    *,
    axis_name: str | None = None,
    replica_axis: int | None = None,
    period: int = 1,
    mask: Mask = None,
    communication_dtype: DTypeLike | None = None,
    delayed: bool = False,
    num_replicas: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the force towards the center to the gradients: the coupling of Replicated-SGD.

    .. math:: g_a \leftarrow g_a + \gamma_t (w_a - \bar w)

    Chain it *before* weight decay and momentum. With a period K, the force :math:`K \gamma_t` acts
    on every K-th step (count = K-1, 2K-1, ...) and none in between; replicas held by different
    devices communicate on those steps only.

    Inside `optax.inject_hyperparams`, name `replica_axis`, `period`, `mask`, `delayed`,
    `communication_dtype` and a `BalancedScoping` in its `static_args`; likewise for all
    transformations of flatjax.

    Args:
      gamma: coupling; a number, a schedule of the step count (see `flatjax.schedules.scoping`) or
        `flatjax.schedules.BalancedScoping`. In units of 1 / (learning rate); see the module's
        docstring for the largest stable learning_rate * gamma.
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread.
      replica_axis: axis of the leaves along which replicas are stacked. At least one of the two
        must be given; both for local stacks on each device of a mesh axis.
      period: K, the number of steps between couplings.
      mask: pytree of bools (or a function of params returning one); leaves marked False, such as
        frozen ones or the biases, are not coupled.
      communication_dtype: what replicas send is rounded to it: a floating-point dtype, or int8 with
        a scale for each leaf; see `flatjax.communication`. Under jit with sharded stacks, set the
        mesh (`jax.set_mesh`), or float32 is sent all the same. None sends float32.
      delayed: apply the force computed at the previous coupling, K steps ago (zero at the first),
        so that a step never waits for communication. Stable only while learning_rate * K gamma < 1
        (plain SGD). Costs one more copy of the parameters.
      num_replicas: y, if it is to be checked: `init` and `update` then refuse parameters that hold
        another number of replicas, as those inside `optax.flatten` do.

    Returns:
      The transformation. `update` needs `params`.

    Raises:
      ValueError: negative or non-finite gamma, period < 1, neither `axis_name` nor `replica_axis`,
        leaves that disagree on the number of replicas or with `num_replicas`, or missing params.

    Examples:
      Stacked replicas:

      >>> import jax.numpy as jnp, optax, flatjax
      >>> tx = optax.chain(
      ...     flatjax.couple_replicas(gamma=0.1, replica_axis=0),
      ...     optax.add_decayed_weights(5e-4),
      ...     optax.sgd(0.1, momentum=0.9, nesterov=True),
      ... )
      >>> params = jnp.array([[0.0], [2.0]])
      >>> coupling = flatjax.couple_replicas(gamma=0.1, replica_axis=0)
      >>> coupling.update(jnp.zeros((2, 1)), coupling.init(params), params)[0]
      Array([[-0.1],
             [ 0.1]], dtype=float32)

      One replica per program, under a named axis:

      >>> import jax
      >>> coupling = flatjax.couple_replicas(gamma=0.1, axis_name="replica")
      >>> def step(grads, params):
      ...     return coupling.update(grads, coupling.init(params), params)[0]
      >>> jax.vmap(step, axis_name="replica")(jnp.zeros((2, 1)), params)
      Array([[-0.1],
             [ 0.1]], dtype=float32)
    """
    gamma = _checks.check_schedule("gamma", gamma)
    _checks.check_count("period", period)
    _checks.check_flag("delayed", delayed)
    where = _where(axis_name, replica_axis, num_replicas)
    displacement = _displacement(where, communication_dtype)
    scoping = as_scoping(gamma)

    def init_fn(params):
        _check_start(scoping, params, where, num_replicas, mask)
        return CoupleReplicasState(
            count=jnp.zeros([], jnp.int32),
            gamma=jnp.zeros([]),
            gamma_state=scoping.init(),
            pending=jax.tree.map(jnp.zeros_like, params) if delayed else (),
        )

    def update_fn(updates, state, params, **extra_args):
        _replicas.check_num_replicas(params, num_replicas, **where._asdict())
        measure = functools.partial(_measure, params, extra_args, where, mask)
        gamma_t, gamma_state = scoping.step(state.gamma_state, measure, extra_args)

        def add_force(g, d):
            return (g + period * gamma_t * d).astype(g.dtype)

        def couple(updates, pending):
            if not delayed:
                at_once = lambda g, w: add_force(g, displacement(w))
                return map_masked(at_once, mask, params, updates, params), pending
            updates = map_masked(add_force, mask, params, updates, pending)
            measured = lambda d, w: displacement(w).astype(d.dtype)
            return updates, map_masked(measured, mask, params, pending, params)

        updates, pending = _every(period, state.count, couple, updates, state.pending)
        return updates, CoupleReplicasState(
            count=optax.safe_increment(state.count),
            gamma=gamma_t.astype(state.gamma.dtype),
            gamma_state=gamma_state,
            pending=pending,
        )

    return of_weights(init_fn, update_fn)


def pull_to_center(
    gamma: chex.Numeric | optax.Schedule | schedules.BalancedScoping,
    learning_rate: chex.Numeric | optax.Schedule,
    *,
    axis_name: str | None = None,
    replica_axis: int | None = None,
    period: int = 1,
    mask: Mask = None,
    communication_dtype: DTypeLike | None = None,
    overlapped: bool = False,
    num_replicas: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Contracts the replicas towards their center: the decoupled, always stable coupling.

    After the base optimizer has moved the weights to :math:`w'_a = w_a + u_a`,

    .. math:: w_a \leftarrow \bar w' + (w'_a - \bar w') \, e^{-K \eta_t \gamma_t}

    which is the exact flow of the coupling energy over a time :math:`K \eta_t`. Chain it *last*,
    after any optimizer, as weight decay is decoupled in AdamW. For small
    :math:`\eta \gamma` and plain SGD it agrees with `couple_replicas`; momentum multiplies the
    in-gradient force by up to 1 / (1 - momentum), and this one not at all: the same effect needs a
    gamma that much larger.

    Args:
      gamma: coupling, as in `couple_replicas`; `inf` puts every replica on the center, so that
        a period K is local SGD (averaging every K steps).
      learning_rate: :math:`\eta`, a number or a schedule of the step count: the base optimizer's,
        so that the pull cools down with it.
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread.
      replica_axis: axis of the leaves along which replicas are stacked.
      period: K, the number of steps between pulls.
      mask: pytree of bools (or a function of params returning one); leaves marked False are not
        pulled.
      communication_dtype: see `couple_replicas`.
      overlapped: measure the displacement of the weights that the step started from,
        :math:`w_a \leftarrow w'_a - (1 - e^{-K \eta_t \gamma_t}) (w_a - \bar w)`, so that
        communication overlaps with the computation of the gradient. Stable for every gamma; at
        gamma = inf the replicas differ by their last updates.
      num_replicas: see `couple_replicas`.

    Returns:
      The transformation. `update` needs `params`.

    Raises:
      ValueError: negative gamma or learning rate, period < 1, neither `axis_name` nor
        `replica_axis`, leaves that disagree on the number of replicas or with `num_replicas`, or
        missing params.

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
    """
    gamma = _checks.check_schedule("gamma", gamma, finite=False)
    learning_rate = _checks.check_schedule("learning_rate", learning_rate)
    _checks.check_count("period", period)
    _checks.check_flag("overlapped", overlapped)
    where = _where(axis_name, replica_axis, num_replicas)
    displacement = _displacement(where, communication_dtype)
    scoping = as_scoping(gamma)

    def init_fn(params):
        _check_start(scoping, params, where, num_replicas, mask)
        return PullToCenterState(
            count=jnp.zeros([], jnp.int32), gamma=jnp.zeros([]), gamma_state=scoping.init()
        )

    def update_fn(updates, state, params, **extra_args):
        _replicas.check_num_replicas(params, num_replicas, **where._asdict())
        measure = functools.partial(_measure, params, extra_args, where, mask)
        gamma_t, gamma_state = scoping.step(state.gamma_state, measure, extra_args)
        eta_t = at_step(learning_rate, state.count)
        # An infinite gamma averages at any learning rate, at 0 too, where the product is NaN.
        is_infinite = jnp.isinf(gamma_t)
        exponent = period * eta_t * jnp.where(is_infinite, 0.0, gamma_t)
        exponent = jnp.where(is_infinite, jnp.inf, exponent)

        def pull_leaf(u, w):
            # u + (e^{-K eta gamma} - 1) d, with d = w' - center: the contraction, as an update.
            d = displacement(w if overlapped else w + u)
            return (u + jnp.expm1(-exponent) * d).astype(u.dtype)

        pull = lambda updates: map_masked(pull_leaf, mask, params, updates, params)
        return _every(period, state.count, pull, updates), PullToCenterState(
            count=optax.safe_increment(state.count),
            gamma=gamma_t.astype(state.gamma.dtype),
            gamma_state=gamma_state,
        )

    return of_weights(init_fn, update_fn)


# --- shared by the two forms ----------------------------------------------------------------------


class _Where(NamedTuple):
    """Where the replicas are, as the functions of `_replicas` are told."""

    axis_name: str | None
    replica_axis: int | None


def _where(axis_name: str | None, replica_axis: int | None, num_replicas: int | None) -> _Where:
    """The two knobs, checked."""
    _checks.check_replica_placement(axis_name, replica_axis)
    if num_replicas is not None:
        _checks.check_count("num_replicas", num_replicas)
    return _Where(axis_name, replica_axis)


def _displacement(
    where: _Where, communication_dtype: DTypeLike | None
) -> Callable[[jax.Array], jax.Array]:
    _checks.check_communication_dtype(communication_dtype)
    return functools.partial(
        communication.displacement, **where._asdict(), dtype=communication_dtype
    )


def _check_start(scoping, params, where, num_replicas, mask):
    """Raises on stacks of wrong sizes, and on a start that no gamma_0 balances."""
    _replicas.check_num_replicas(params, num_replicas, **where._asdict())
    leaves = jax.tree.leaves(params)
    can_be_seen = leaves and all(_is_concrete(leaf) for leaf in leaves)
    if can_be_seen and where.axis_name is None:
        scoping.check_start(lambda: _center.replica_distance(params, **where._asdict(), mask=mask))


def _is_concrete(leaf) -> bool:
    return not isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct)


def _measure(params, extra_args, where, mask):
    """The loss and the distance of the replicas, from which `BalancedScoping` starts."""
    is_stacked = where.replica_axis is not None
    stacked = _replicas.stacked_size(params, where.replica_axis) if is_stacked else None
    value = _center.mean_over_replicas(loss_of(extra_args, stacked), **where._asdict())
    return value, _center.replica_distance(params, **where._asdict(), mask=mask)


def _every(period: int, count: jax.Array, couple: Callable[..., Any], *operands: Any) -> Any:
    """Couples at every period-th step; returns the operands as they are at the others."""
    if period == 1:
        return couple(*operands)
    # A cond, not a select: replicas on different devices communicate only when coupled.
    is_coupled = count % period == period - 1
    keep = lambda *operands: operands if len(operands) > 1 else operands[0]
    return jax.lax.cond(is_coupled, couple, keep, *operands)
