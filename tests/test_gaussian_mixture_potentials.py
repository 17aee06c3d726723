"""What the equations of real replicas are made of: potentials and averages over a field."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from fast import slow

from flatjax.gaussian_mixture import erm, losses
from flatjax.gaussian_mixture._potential import error_potential, loss_potential, tabulate
from flatjax.gaussian_mixture._quadrature import log_cdf
from flatjax.gaussian_mixture._replica_average import tilted_averages

UNIT = {"alpha": 1.0, "delta": 1.0}


@pytest.mark.slow
def test_smoothed_errors_are_a_convex_loss():
    q1 = np.array([0.95, 0.6, 0.2, 0.01])
    found = erm(losses.probit(), norm=q1 / (1 - q1), **UNIT)
    # Computed by a prototype of these equations.
    np.testing.assert_allclose(found.test_error, [0.2931, 0.2670, 0.2475, 0.2401], atol=5e-5)
    with jax.enable_x64(True):
        omega, c = np.meshgrid(np.linspace(-40, 20, 61), np.geomspace(1e-3, 1e6, 10))
        u = jax.jit(losses.probit().prox)(omega, c)
        force = -jax.jit(jax.vmap(jax.grad(losses.probit().value)))(u.ravel()).reshape(u.shape)
        np.testing.assert_allclose(u - c * force, omega, rtol=1e-9, atol=1e-8)


def test_the_logarithm_of_the_distribution_function():
    x = np.linspace(-40, 9, 2001)
    expected = scipy.special.log_ndtr(x)
    with jax.enable_x64(True):
        found, slope = jax.jit(jax.vmap(jax.value_and_grad(log_cdf)))(x)
    np.testing.assert_allclose(found, expected, rtol=3e-14, atol=1e-15)
    mills = np.exp(-(x**2) / 2 - expected) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(slope, mills, rtol=1e-11)


def test_the_potential_of_the_square_loss_in_closed_form():
    h = np.linspace(-10.0, 10.0, 41)
    potential = loss_potential(losses.square())
    with jax.enable_x64(True):
        at = jax.jit(potential.at)
        for beta in (0.3, 1.0, 30.0):
            for variance in (0.01, 1.0, 100.0):
                stiffness = beta / (1 + beta * variance)
                expected = (
                    -(np.log1p(beta * variance) + stiffness * (1 - h) ** 2) / 2,
                    stiffness * (1 - h),
                    -stiffness * np.ones_like(h),
                )
                for found, value in zip(at(h, variance, beta), expected, strict=True):
                    np.testing.assert_allclose(found, value, rtol=1e-8, atol=1e-9)


def test_a_tabulated_potential_and_its_derivatives():
    """By differences, of values between the nodes of the table."""
    potential = loss_potential(losses.hinge())
    h, step = np.linspace(-19.9, 19.9, 301), 1e-3

    def at(h):
        g = lambda h: potential.at(h, jnp.asarray(0.5), jnp.asarray(4.0))
        return g(h), tabulate(g, jnp.asarray(-20.0), jnp.asarray(20.0))(h)

    with jax.enable_x64(True):
        at = jax.jit(at)
        (below, _), (exact, table), (above, _) = (at(h + sign * step) for sign in (-1, 0, 1))
        values = [np.asarray(g.value) for g in (below, exact, above)]
        for value, expected in zip(table, exact, strict=True):
            np.testing.assert_allclose(value, expected, atol=1e-7)
    np.testing.assert_allclose(exact.slope, (values[2] - values[0]) / (2 * step), atol=2e-5)
    curvature = (values[2] - 2 * values[1] + values[0]) / step**2
    np.testing.assert_allclose(exact.curvature, curvature, atol=2e-5)


@jax.jit
def tilted_with_errors(h0, params):
    return tilted_averages(error_potential(concave=False), h0, **params)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("beta", "variance", "y", "coupling"),
    [
        slow(0.5, 0.5, 7.0, 1.0),
        slow(3.0, 0.3, 3.0, 5.0),
        (40.0, 0.05, 10.0, 2.0),
        slow(2.0, 0.2, 1e3, 1.0),
    ],
)
def test_the_law_of_a_field_with_one_peak_or_two(beta, variance, y, coupling):
    h0 = np.linspace(-6.0, 3.0, 10)
    potential = error_potential(concave=False)
    scale = np.sqrt(coupling / y)
    h = np.linspace(h0 - 10 * scale, np.maximum(h0, 0) + 10 * scale + 2, 40001, axis=1)
    with jax.enable_x64(True):
        params = {"beta": beta, "variance": variance, "y": y, "coupling": coupling}
        found = tilted_with_errors(h0, params)
        g = jax.tree.map(np.asarray, potential.at(h, variance, beta))
    exponent = y * g.value - ((h - h0[:, None]) / scale) ** 2 / 2
    highest = exponent.max(axis=1, keepdims=True)
    law = np.exp(exponent - highest)
    total = law.sum(axis=1) * (h[:, 1] - h[:, 0]) / np.sqrt(2 * np.pi) / scale
    law /= law.sum(axis=1, keepdims=True)
    average = lambda values: (law * values).sum(axis=1)
    force = average(g.slope)
    spread = y * average((g.slope - force[:, None]) ** 2)
    expected = ((highest[:, 0] + np.log(total)) / y, force, average(g.curvature) + spread)
    for value, other in zip(found[:3], expected, strict=True):
        np.testing.assert_allclose(value, other, atol=3e-6 * (1 + np.abs(other).max()))
