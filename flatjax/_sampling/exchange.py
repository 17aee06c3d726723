"""Replica exchange: swaps between chains at neighbouring temperatures."""

from typing import TypeVar

import chex
import jax
import jax.numpy as jnp

Configurations = TypeVar("Configurations", bound=chex.ArrayTree)


def exchange_neighbours(
    configurations: Configurations,
    energy: jax.Array,
    betas: jax.Array,
    parity: chex.Numeric,
    uniform: jax.Array,
) -> tuple[Configurations, jax.Array, jax.Array]:
    r"""Swaps configurations between every second pair of neighbouring rungs.

    Rungs k and k + 1, with energies E, swap with the probability
    :math:`\min(1, e^{(\beta_{k+1} - \beta_k)(E_{k+1} - E_k)})`. This does not change the
    distribution at either rung.

    Args:
      configurations: pytree of arrays (C, K, ...): C chains with K rungs.
      energy: energies of the configurations, (C, K).
      betas: inverse temperatures, (K,).
      parity: 0 or 1. The pairs (parity, parity + 1), (parity + 2, parity + 3), ... may swap.
      uniform: uniform random numbers, (C, K - 1).

    Returns:
      The configurations and their energies after the swaps, and the mean swap probability of each
      pair, (K - 1,), including the pairs that could not swap this time.
    """
    difference = jnp.diff(betas)[None] * jnp.diff(energy, axis=1)
    # The difference of two infinite energies is NaN: such a pair may swap.
    log_ratio = jnp.nan_to_num(difference, nan=0.0)
    probability = jnp.exp(jnp.minimum(log_ratio, 0.0))
    is_turn = jnp.arange(len(betas) - 1)[None] % 2 == parity
    up = jnp.pad(is_turn & (uniform < probability), ((0, 0), (0, 1))).astype(int)
    source = jnp.arange(len(betas))[None] + up - jnp.roll(up, 1, axis=1)

    def swap(leaf):
        return jnp.take_along_axis(leaf, jnp.expand_dims(source, range(2, leaf.ndim)), axis=1)

    return jax.tree.map(swap, configurations), swap(energy), probability.mean(axis=0)
