"""Diagnostics of replicated training: stability, distance, collapse."""

import warnings
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from flatjax import _checks, _masks, _precision
from flatjax._batches import Batches, repeatable
from flatjax._center import mean_over_replicas, replica_center, replica_distance
from flatjax._couple_replicas import CoupleReplicasState
from flatjax._evaluation import EvalFn, evaluate
from flatjax._limit_distance import LimitDistanceState
from flatjax._masks import Mask
from flatjax._outer import OuterPullState
from flatjax._pull_to_center import PullToCenterState
from flatjax._replicas import stacked_size, unstack_replicas
from flatjax._states import find_state, find_states


def coupling_diagnostics(
    params: optax.Params,
    state: optax.OptState,
    learning_rate: chex.Numeric,
    *,
    axis_name: str | None = None,
    replica_axis: int | None = None,
    mask: Mask = None,
) -> dict[str, jax.Array]:
    r"""Computes numbers to log: stability and distance of coupled replicas.

    Args:
      params: the replicas' parameters.
      state: an optimizer state with a `couple_replicas`, `pull_to_center` or `limit_distance` in
        it, at any depth.
      learning_rate: the current learning rate.
      axis_name: see `couple_replicas`.
      replica_axis: see `couple_replicas`.
      mask: the mask of the coupling; leaves marked False do not count.

    Returns:
      A dict. `gamma` is the coupling. Compare `lr_gamma`, the product with the learning rate, with
      `flatjax.schedules.stability_limit` if the coupling is in the gradient. `replica_distance`
      is the mean squared distance :math:`D` to the center. `relative_distance` is
      :math:`\sqrt{D / \langle \lVert w_a \rVert^2 \rangle}`: 0 if replicas coincide, and
      :math:`\sqrt{1 - 1/y}` if they are independent. `coupling_energy` is
      :math:`\frac{\gamma}{2} D`, one replica's share. The dict has only the two distances if the
      state has no gamma (`limit_distance`) or several (`diloco` with `fragments`).

    Raises:
      ValueError: the state has no coupling, neither `axis_name` nor `replica_axis` is given, or
        the learning rate is negative or not finite.

    Examples:
      >>> import jax.numpy as jnp, flatjax
      >>> params = jnp.array([[0.0], [2.0]])
      >>> tx = flatjax.couple_replicas(0.5, replica_axis=0)
      >>> _, state = tx.update(jnp.zeros((2, 1)), tx.init(params), params)
      >>> found = flatjax.coupling_diagnostics(params, state, 0.1, replica_axis=0)
      >>> for name, value in found.items():
      ...     print(f"{name}: {value:.3f}")
      gamma: 0.500
      lr_gamma: 0.050
      replica_distance: 1.000
      relative_distance: 0.707
      coupling_energy: 0.250

    See Also:
      `check_collapsed` (compares center and replicas at the end), `replica_distance` (the distance
      alone).
    """
    with_gamma = (CoupleReplicasState, PullToCenterState, OuterPullState)
    couplings = find_states(state, *with_gamma)
    if not couplings and not find_states(state, LimitDistanceState):
        find_state(state, *with_gamma, LimitDistanceState)  # raises
    learning_rate = _checks.check_scalar("learning_rate", learning_rate)
    where: dict[str, Any] = {"axis_name": axis_name, "replica_axis": replica_axis}
    distance = replica_distance(params, **where, mask=mask)
    relative = relative_distance(params, **where, mask=mask)
    if len(couplings) != 1:
        return {"replica_distance": distance, "relative_distance": relative}
    gamma = couplings[0].gamma
    return {
        "gamma": gamma,
        "lr_gamma": learning_rate * gamma,
        "replica_distance": distance,
        "relative_distance": relative,
        "coupling_energy": 0.5 * gamma * distance,
    }


def relative_distance(
    params: optax.Params,
    *,
    axis_name: str | None = None,
    replica_axis: int | None = None,
    mask: Mask = None,
) -> jax.Array:
    """Computes root mean square distance to the center / norm, in [0, 1]."""
    where: dict[str, Any] = {"axis_name": axis_name, "replica_axis": replica_axis}
    distance = replica_distance(params, **where, mask=mask)
    local = 1 if replica_axis is None else max(stacked_size(params, replica_axis), 1)
    squared = _precision.norm(_masks.moving(params, mask), squared=True) / local
    squared = mean_over_replicas(squared, **where)
    return jnp.sqrt(distance / jnp.where(squared > 0, squared, 1.0))


class Collapse(NamedTuple):
    """Says whether replicas have become one network.

    Attributes:
      has_met: whether the center is as good as the replicas, up to the tolerance. It is False if
        the center or a replica is not finite.
      center: the quantity at the center.
      replicas: the mean of the quantity over the replicas.
      relative_distance: relative distance of the replicas; 0 if they coincide.
    """

    has_met: bool
    center: float
    replicas: float
    relative_distance: float


def check_collapsed(
    eval_fn: EvalFn,
    params: optax.Params,
    batches: Batches,
    *state: Any,
    center_state: tuple[Any, ...] | None = None,
    replica_axis: int = 0,
    quantity: str = "error",
    tolerance: float = 0.01,
) -> Collapse:
    """Warns if the center of the replicas is much worse than the replicas themselves.

    Replicated-SGD trains several networks and evaluates their center. If the coupling was too
    weak, the center of good networks can be a bad network. Call this once, at the end of training.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}` of one network, see
        `flatjax.evaluate`.
      params: the replicas' parameters, stacked; for Parle, the anchors (`flatjax.eval_params`).
      batches: batches of examples: a list, or a loader that can be iterated again.
      *state: other inputs of `eval_fn`, stacked like the parameters (batch statistics).
      center_state: a tuple of the same inputs for the center, re-estimated there
        (`flatjax.batch_stats.reestimate`); must be given where `state` is.
      replica_axis: axis of the leaves along which replicas are stacked.
      quantity: name of the compared quantity, as `eval_fn` returns it; lower is better.
      tolerance: by how much the center may be worse than the mean of its replicas.

    Returns:
      The compared values, and whether the replicas have met.

    Raises:
      TypeError: `center_state` is no tuple.
      ValueError: an unknown quantity, a negative tolerance, or a state without `center_state`.

    Warns:
      UserWarning: the center is worse than the replicas by more than the tolerance. Or a replica
        or the center has a weight, or a value of the quantity, that is NaN or infinite.

    Examples:
      >>> import jax.numpy as jnp, flatjax
      >>> def eval_fn(params, batch):  # two networks on either side of a barrier
      ...     return {"error": len(batch) * jnp.abs(jnp.abs(params) - 1), "count": len(batch)}
      >>> flatjax.check_collapsed(eval_fn, jnp.array([-1.0, -1.0]), [jnp.ones(8)]).has_met
      True

    See Also:
      `coupling_diagnostics` (the distance during training), `schedules.meeting` (replicas meet at
      the end), `replica_center` (the network that is compared).
    """
    tolerance = _checks.check_number("tolerance", tolerance, minimum=0.0)
    if state and center_state is None:
        raise ValueError(
            "center_state must be given with state: the center needs its own statistics, see "
            "flatjax.batch_stats.reestimate."
        )
    if center_state is not None and not isinstance(center_state, tuple):
        raise TypeError(
            "center_state must be a tuple of the inputs that follow the batch, such as (stats,), "
            f"got {_checks.described(center_state)}."
        )
    data = repeatable(batches)

    def measure(params, state):
        found = evaluate(eval_fn, params, data, *state)
        if quantity not in found:
            raise ValueError(
                f"quantity must be one of the sums that eval_fn returns, {sorted(found)}, got "
                f"{quantity!r}. Return the sum {quantity!r} too, or pass another name as quantity."
            )
        return float(found[quantity])

    replicas = unstack_replicas((params, state), replica_axis)
    networks = {f"replica {i}": replica for i, replica in enumerate(replicas)}
    networks["center"] = replica_center(params, replica_axis=replica_axis), center_state or ()
    values = {name: measure(*network) for name, network in networks.items()}
    diverged = [name for name, (own, _) in networks.items() if not _is_finite((own, values[name]))]
    center = values.pop("center")
    mean = sum(values.values()) / len(replicas)
    found = Collapse(
        has_met=not diverged and center <= mean + tolerance,
        center=center,
        replicas=mean,
        relative_distance=float(relative_distance(params, replica_axis=replica_axis)),
    )
    if diverged:
        warnings.warn(
            f"replicas have not met: weights or {quantity} are NaN or infinite for "
            f"{', '.join(diverged)}. Training has diverged: lower the learning rate.",
            stacklevel=2,
        )
    elif not found.has_met:
        warnings.warn(
            f"replicas have not met: {quantity} is {center:.4g} at the center, but {mean:.4g} in "
            f"the mean of the replicas, at relative distance {found.relative_distance:.2g}. "
            "Evaluate a replica, or train with a coupling that ends strong "
            "(replicated_sgd(steps=...), schedules.meeting).",
            stacklevel=2,
        )
    return found


def _is_finite(tree: chex.ArrayTree) -> bool:
    """Whether all floats in a tree are finite."""
    return bool(_are_finite([leaf for leaf in jax.tree.leaves(tree) if _masks.is_weight(leaf)]))


@jax.jit
def _are_finite(leaves):
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
