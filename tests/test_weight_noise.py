"""The noise that a network tolerates, where it is known, and its standard error."""

import jax.numpy as jnp
import numpy as np
import pytest

from flatjax.flatness import local_energy, pac_bayes_sigma, weight_noise
from flatjax.flatness._weight_noise import tolerances

CURVATURE = jnp.linspace(0.5, 8.0, 40)
BATCHES = [jnp.zeros(4), jnp.zeros(2)]


def parabola(params, batch):
    """At its minimum, and a concave rise far from it."""
    loss = 0.5 * jnp.sum(CURVATURE * params**2)
    return {
        "error": loss * len(batch),
        "bounded": -jnp.expm1(-loss) * len(batch),
        "count": len(batch),
    }


SIGMAS = (0.05, 0.1, 0.2)
MEASURE = weight_noise(
    parabola, sigmas=SIGMAS, target_rise=[0.05, 0.5, 50.0], num_samples=20, noise="additive"
)
ENERGY = local_energy(parabola, sigmas=SIGMAS, num_samples=20, noise="additive")
POINT = np.zeros(40, np.float32)


def test_a_parabola_has_no_error_of_interpolation():
    """At its minimum the rise of the mean of S draws is a multiple of sigma^2."""
    found = MEASURE(POINT, BATCHES, 3)
    rise = ENERGY(POINT, BATCHES, 3).mean["error"]
    np.testing.assert_allclose(found.energy.mean["error"], rise)
    expected = SIGMAS[1] * np.sqrt(np.array([0.05, 0.5]) / rise[1])
    np.testing.assert_allclose(found.tolerance[:2], expected, rtol=1e-5)
    assert np.isnan([found.tolerance[2], found.sem[2]]).all()  # beyond the grid


@pytest.mark.slow
def test_the_standard_error_is_the_spread_over_keys():
    found = [MEASURE(POINT, BATCHES, key) for key in range(60)]
    tolerances = np.array([one.tolerance[:2] for one in found])
    # sigma* = sqrt(2 target / tr H) up to the draws.
    exact = np.sqrt(2 * np.array([0.05, 0.5]) / CURVATURE.sum())
    spread = tolerances.std(axis=0, ddof=1)
    assert np.all(np.abs(tolerances.mean(axis=0) - exact) < 4 * spread / np.sqrt(60) + 0.01 * exact)
    # The spread of 60 numbers is known to 1 / sqrt(118), its mean estimate better.
    mean_sem = np.array([one.sem[:2] for one in found]).mean(axis=0)
    np.testing.assert_allclose(mean_sem, spread, rtol=0.35)


def test_it_is_the_bisection_of_pac_bayes_between_near_sigmas():
    find = pac_bayes_sigma(
        parabola, target_rise=0.3, quantity="bounded", num_samples=10, noise="additive", rtol=1e-4
    )
    point = POINT + 0.1
    near = find(point, BATCHES, 1).sigma
    grid = [0.98 * near, 1.02 * near]
    measure = weight_noise(
        parabola,
        sigmas=grid,
        target_rise=[0.3],
        quantity="bounded",
        num_samples=10,
        noise="additive",
    )
    assert measure(point, BATCHES, 1).tolerance[0] == pytest.approx(near, rel=1e-3)


def test_the_first_crossing_counts_and_below_the_grid_is_interpolated():
    bumpy = lambda params, batch: {"error": jnp.abs(jnp.sin(params[0])), "count": 1}
    # The draw is z for all sigmas; with one weight, rises are |sin(sigma z)|.
    measure = weight_noise(
        bumpy, sigmas=[1.0, 2.0, 4.0], target_rise=[1e-3], num_samples=5, noise="additive"
    )
    found = measure(jnp.zeros(1), [0], 0)
    slope = found.energy.mean["error"][0]
    assert found.tolerance[0] == pytest.approx(np.sqrt(1e-3 / slope))


def test_a_network_that_overflows_has_risen_beyond_any_target():
    steep = lambda params, batch: {"error": jnp.exp(jnp.sum(params**2)), "count": 1}
    measure = weight_noise(
        steep, sigmas=[0.01, 10.0], target_rise=[5.0], num_samples=5, noise="additive"
    )
    found = measure(jnp.zeros(50), [0], 0)
    assert found.energy.mean["error"][1] == np.inf
    assert found.tolerance[0] == pytest.approx(0.01)


@pytest.mark.parametrize("huge", [1e20, np.inf])
def test_a_draw_that_overflows_is_left_out_by_the_jackknife(huge):
    draws = np.linspace(0.5, 1.5, 10) * np.array([[0.01], [0.04], [0.2]])
    draws[2, 3] = huge
    energy = ENERGY(POINT, BATCHES, 3)._replace(
        sigma=np.array([0.1, 0.2, 0.3]), reference={"error": 0.0}
    )
    at = lambda draws: tolerances(energy._replace(draws={"error": draws}), "error", [0.1])
    _, (without_one,) = at(draws)
    expected = [at(np.delete(draws, s, axis=1))[0].item() for s in range(10)]
    np.testing.assert_allclose(without_one, expected)
    assert without_one[3] > 0.24
    np.testing.assert_allclose(np.delete(without_one, 3), 0.2)


def test_unknown_quantity():
    with pytest.raises(ValueError, match="quantity"):
        weight_noise(parabola, quantity="loss", num_samples=2)(POINT, BATCHES, 0)


def test_a_mask_keeps_weights():
    both = lambda params, batch: parabola(params["moves"] + params["stays"], batch)
    mask = lambda params: {"moves": True, "stays": False}
    measure = weight_noise(
        both, sigmas=SIGMAS, target_rise=[0.5], num_samples=20, noise="additive", mask=mask
    )
    found = measure({"moves": POINT, "stays": POINT}, BATCHES, 3)
    expected = MEASURE(POINT, BATCHES, 3).tolerance[1]
    np.testing.assert_allclose(found.tolerance, [expected], rtol=1e-6)
