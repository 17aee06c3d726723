"""Exchanges between temperatures, counted on energies whose probabilities are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatjax._sampling.exchange import exchange_neighbours

BETAS = np.float32([0, 1, 2, 4])
exchange = jax.jit(exchange_neighbours)


def test_neighbours_swap_in_turn_with_all_that_they_hold():
    """The colder rung always takes a lower energy; the other pairs wait for their turn."""
    energy = np.float32([[0, 1, 2, 3]])
    held = {"weights": np.float32(np.arange(8)).reshape(1, 4, 2), "name": np.arange(4)[None]}
    uniform = np.full((1, 3), 0.999, np.float32)
    even, even_energy, rate = exchange(held, energy, BETAS, 0, uniform)
    np.testing.assert_array_equal(even["name"], [[1, 0, 3, 2]])
    np.testing.assert_array_equal(even_energy, [[1, 0, 3, 2]])
    np.testing.assert_array_equal(even["weights"], [[[2, 3], [0, 1], [6, 7], [4, 5]]])
    np.testing.assert_array_equal(rate, np.ones(3))
    odd, _, _ = exchange(held, energy, BETAS, 1, uniform)
    np.testing.assert_array_equal(odd["name"], [[0, 2, 1, 3]])


def test_rates_are_those_of_metropolis():
    energy = np.float32([[1.5, 1.0, 0.5, 0.0], [np.inf, np.inf, 1.0, 1.0]])
    never = np.full((2, 3), 0.99, np.float32)
    held, _, rate = exchange(energy, energy, BETAS, 0, never)
    np.testing.assert_allclose(
        rate, [(np.exp(-0.5) + 1) / 2, np.exp(-0.5) / 2, (np.exp(-1) + 1) / 2]
    )
    # The second chain swaps: between infinite energies, and between equal ones.
    np.testing.assert_array_equal(held, energy)


@pytest.mark.slow
def test_each_rung_keeps_its_distribution():
    """Two values of the energy, drawn independently at two betas, and exchanged once."""
    key, swap_key = jax.random.split(jax.random.key(0))
    betas, num = jnp.array([0.0, 1.5]), 200_000
    high = 1 / (1 + jnp.exp(betas))
    energy = (jax.random.uniform(key, (num, 2)) < high).astype(float)
    uniform = jax.random.uniform(swap_key, (num, 1))
    _, energy, _ = exchange_neighbours(energy, energy, betas, 0, uniform)
    assert np.all(np.abs(energy.mean(axis=0) - high) < 4 * np.sqrt(high * (1 - high) / num))
