"""Free energies from samples whose distribution is known."""

import numpy as np
import pytest
import scipy.stats

from flatjax._sampling.free_energy import jackknife, reweight, thermodynamic_integration

# Errors between 8 chains follow Student's t with 7 degrees of freedom: 99.9% of it.
LIMIT = scipy.stats.t(7).ppf(0.9995)


def test_free_energies_of_a_binomial_from_exact_samples():
    n, betas = 20, np.array([0.0, 0.5, 1.0, 2.0, 3.0])
    rng = np.random.default_rng(0)
    energies = rng.binomial(n, 1 / (1 + np.exp(betas)), size=(8, 500, 5)).astype(float)
    free = n * np.log((1 + np.exp(-betas)) / 2)
    for threshold in (0, 2):
        found = reweight(energies, betas, np.zeros(5), threshold)
        assert np.all(np.abs(found.free - free)[1:] < LIMIT * found.free_sem[1:])
        mass = scipy.stats.binom(n, 0.5).logcdf(threshold)
        assert abs(found.log_mass - mass) < LIMIT * found.log_mass_sem < 1

    def without(chains):
        left = reweight(chains, betas, free, 2)
        return np.append(left.free, left.log_mass)

    # To first order, and with each chain really left out.
    exact_error = jackknife(without, energies)
    np.testing.assert_allclose(
        np.append(found.free_sem, found.log_mass_sem), exact_error, rtol=0.01, atol=1e-9
    )
    assert found.free_sem[0] == 0

    apart = np.stack([np.full((2, 10), 100.0), np.full((2, 10), 0.0)], axis=-1)
    found = reweight(apart, np.array([0.0, 50.0]), np.zeros(2))
    assert np.all(np.isnan(found.free))


def test_thermodynamic_integration_is_of_fourth_order():
    errors = []
    for rungs in (5, 9):
        betas = np.linspace(0, 2, rungs)
        mean, variance = 1 / (1 + np.exp(betas)), 0.25 / np.cosh(betas / 2) ** 2
        # Two values of this mean and variance.
        energies = np.stack([mean - np.sqrt(variance), mean + np.sqrt(variance)])[None]
        free = thermodynamic_integration(energies, betas)
        errors.append(abs(free[-1] - np.log((1 + np.exp(-2)) / 2)))
    assert errors[0] < 1e-4
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.3)
