"""Diagnostics of a replicated run."""

import chex
import jax
import optax

from flatjax import _checks
from flatjax._center import replica_distance
from flatjax._couple_replicas import CoupleReplicasState
from flatjax._masks import Mask
from flatjax._outer import OuterPullState
from flatjax._pull_to_center import PullToCenterState
from flatjax._states import find_state


def coupling_diagnostics(
    params: optax.Params,
    state: optax.OptState,
    learning_rate: chex.Numeric,
    *,
    axis_name: str | None = None,
    replica_axis: int | None = None,
    mask: Mask = None,
) -> dict[str, jax.Array]:
    r"""What to log of a replicated run: is it stable, and have the replicas collapsed?

    Args:
      params: the replicas' parameters.
      state: an optimizer state with one `couple_replicas` or `pull_to_center` in it, at any depth.
      learning_rate: the present learning rate.
      axis_name: see `couple_replicas`.
      replica_axis: see `couple_replicas`.
      mask: that of the coupling; leaves marked False do not count.

    Returns:
      `gamma`; `lr_gamma`, to be compared with the stability limits of the in-gradient form;
      `replica_distance` :math:`D`; `coupling_energy` :math:`\frac{\gamma}{2} D`, a replica's share.

    Raises:
      ValueError: there is no coupling in the state, neither knob is given, or the learning rate
        is negative or not finite.

    Examples:
      >>> import jax.numpy as jnp, flatjax
      >>> params = jnp.array([[0.0], [2.0]])
      >>> tx = flatjax.couple_replicas(0.5, replica_axis=0)
      >>> _, state = tx.update(jnp.zeros((2, 1)), tx.init(params), params)
      >>> found = flatjax.coupling_diagnostics(params, state, 0.1, replica_axis=0)
      >>> {name: round(float(value), 3) for name, value in found.items()}
      {'gamma': 0.5, 'lr_gamma': 0.05, 'replica_distance': 1.0, 'coupling_energy': 0.25}
    """
    gamma = find_state(state, CoupleReplicasState, PullToCenterState, OuterPullState).gamma
    learning_rate = _checks.check_scalar("learning_rate", learning_rate)
    distance = replica_distance(params, axis_name=axis_name, replica_axis=replica_axis, mask=mask)
    return {
        "gamma": gamma,
        "lr_gamma": learning_rate * gamma,
        "replica_distance": distance,
        "coupling_energy": 0.5 * gamma * distance,
    }
