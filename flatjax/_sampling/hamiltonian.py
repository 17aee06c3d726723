"""Hamiltonian Monte Carlo with a step size that adapts during burn-in."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flatjax._sampling.drawing import draw

TARGET = 0.8  # mean acceptance at which the step size stops changing


class HamiltonianState(NamedTuple):
    """State of one chain.

    Attributes:
      x: position of the chain.
      log_size: logarithm of the step size.
      count: number of moves so far.
    """

    x: jax.Array
    log_size: jax.Array
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count


def hamiltonian_start(x: jax.Array, size: jax.Array) -> HamiltonianState:
    """Makes a chain that has not moved yet."""
    return HamiltonianState(x, jnp.log(size), jnp.asarray(0))


def hamiltonian_step(
    energy: Callable[[jax.Array], jax.Array], num_steps: int, burn_in: int
) -> Callable[[HamiltonianState, jax.Array], tuple[HamiltonianState, jax.Array]]:
    """Makes the move of a chain that samples exp(-energy).

    Args:
      energy: a differentiable function of x.
      num_steps: number of leapfrog steps.
      burn_in: number of moves after which the step size stays constant.

    Returns:
      A function (state, key) -> (next state, probability with which the move was accepted).
    """
    energy_and_slope = jax.value_and_grad(energy)

    def step(state, key):
        momentum, (for_size, for_acceptance) = draw(key, state.x.shape, 2)
        # The length is random, so that trajectories do not return to their start.
        size = jnp.exp(state.log_size) * (0.6 + 0.6 * for_size)
        before, slope = energy_and_slope(state.x)

        def leap(_, now):
            x, momentum, _, slope = now
            momentum -= size / 2 * slope
            x += size * momentum
            after, slope = energy_and_slope(x)
            return x, momentum - size / 2 * slope, after, slope

        start = (state.x, momentum, before, slope)
        x, last_momentum, after, _ = jax.lax.fori_loop(0, num_steps, leap, start)
        rise = after - before + (jnp.sum(last_momentum**2) - jnp.sum(momentum**2)) / 2
        probability = jnp.nan_to_num(jnp.exp(jnp.minimum(-rise, 0)))
        accepted = for_acceptance < probability
        rate = jnp.where(state.count < burn_in, 1 / jnp.sqrt(state.count + 1.0), 0)
        log_size = state.log_size + rate * (probability - TARGET)
        x = jnp.where(accepted, x, state.x)
        return HamiltonianState(x, log_size, state.count + 1), probability

    return step
