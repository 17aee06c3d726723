"""Diagnostics of chains, on series whose correlations are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from flatjax._sampling.diagnostics import effective_sample_size, has_converged, split_r_hat


def test_effective_sample_size_and_r_hat():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((4, 4000, 2))
    persistence = np.array([0.0, 0.8])
    series = scipy.signal.lfilter([1], [1, -0.8], noise[..., 1], axis=1)
    series = np.stack([noise[..., 0], series], axis=-1)
    expected = 16000 * (1 - persistence) / (1 + persistence)
    np.testing.assert_allclose(effective_sample_size(series), expected, rtol=0.15)
    np.testing.assert_allclose(split_r_hat(series), 1.0, atol=0.01)

    apart = series + 5 * np.arange(4)[:, None, None]
    assert np.all(split_r_hat(apart) > 2)
    assert np.all(effective_sample_size(apart) < 20)
    drift = series + np.linspace(0, 20, 4000)[:, None]
    assert np.all(split_r_hat(drift) > 1.5)
    constant = np.ones((3, 10))
    assert split_r_hat(constant) == 1
    assert effective_sample_size(constant) == 30
    assert split_r_hat(constant * np.arange(3)[:, None]) == np.inf
    constant[0, 0] = np.inf
    assert np.isnan(split_r_hat(constant))
    assert np.isnan(effective_sample_size(constant))


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize("draws", [10, 201])
def test_chains_frozen_at_different_values_are_not_in_equilibrium(xp, draws):
    """Also where the mean of equal numbers is not quite that number, as of 0.1 or 0.3."""
    frozen = np.ones((3, draws, 1)) * np.array([0.0, 0.1, 0.3])
    apart = frozen + np.array([0.0, 0.0, 0.1])[:, None, None]
    run = jax.jit(split_r_hat) if xp is jnp else split_r_hat
    np.testing.assert_array_equal(run(xp.asarray(frozen)), np.ones(3))
    np.testing.assert_array_equal(run(xp.asarray(apart)), np.full(3, np.inf))
    stepped = frozen + (np.arange(draws) >= draws // 2)[:, None]  # each half is constant
    np.testing.assert_array_equal(run(xp.asarray(stepped[:, : draws // 2 * 2])), np.full(3, np.inf))
    if xp is np:
        np.testing.assert_array_equal(effective_sample_size(frozen), np.full(3, 3 * draws))
        assert np.all(effective_sample_size(apart) < 3)
    one_moves = apart + np.linspace(0, 1e-3, draws)[:, None] * np.array([1, 0, 0])[:, None, None]
    assert np.all(np.isfinite(run(xp.asarray(one_moves))) & (run(xp.asarray(one_moves)) > 2))


def test_r_hat_is_the_same_in_numpy_and_jax():
    series = np.random.default_rng(0).standard_normal((4, 101, 3)) + np.arange(3)
    expected = split_r_hat(series)
    np.testing.assert_allclose(jax.jit(split_r_hat)(jnp.asarray(series)), expected, rtol=1e-5)
    series[0, 0, 0] = np.nan
    assert np.isnan(split_r_hat(series)[0])
    assert np.isnan(split_r_hat(jnp.asarray(series))[0])


@pytest.mark.parametrize(
    ("changed", "good"),
    [
        ({}, True),
        ({"share_below": None}, True),
        ({"r_hat": np.array([9.0, 1.05, 1.0]), "ess": np.array([1.0, 100.0, 100.0])}, True),
        ({"r_hat": np.array([1.0, 1.0, 1.06])}, False),
        ({"r_hat": np.array([1.0, np.nan, 1.0])}, False),
        ({"ess": np.array([100.0, 100.0, 99.0])}, False),
        ({"exchange": np.array([0.5, 0.04])}, False),
        ({"share_below": 0.009}, False),
    ],
)
def test_what_has_converged_asks_for(changed, good):
    fine = {
        "r_hat": np.ones(3),
        "ess": np.full(3, 100.0),
        "exchange": np.full(2, 0.05),
        "share_below": 0.01,
    }
    assert has_converged(**fine | changed) == good
