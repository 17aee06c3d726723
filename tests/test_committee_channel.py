"""The channel: brute force over the votes, derivatives by JAX, and arguments far out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from flatjax.committee._channel import majority

majority_64 = jax.jit(majority)


def random_fields(num_units, num=40, scale=3.0):
    rng = np.random.default_rng(num_units)
    mean = scale * rng.standard_normal((num_units, num))
    return mean, np.exp(rng.standard_normal((num_units, num)))


def in_float64(fn, *args):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, fn(*map(jnp.asarray, args)))


def brute_force(mean, variance):
    """Log Z by the sum over all votes, in the logarithmic domain."""
    log_q = scipy.special.log_ndtr(np.stack([-mean, mean]) / np.sqrt(variance))
    votes = [v for v in itertools.product([0, 1], repeat=len(mean)) if 2 * sum(v) > len(v)]
    terms = [sum(log_q[vote, k] for k, vote in enumerate(v)) for v in votes]
    return scipy.special.logsumexp(terms, axis=0)


@pytest.mark.parametrize("num_units", [1, 3, 9])
@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_against_all_votes(num_units, scale):
    fields = random_fields(num_units, scale=scale)
    np.testing.assert_allclose(
        in_float64(majority_64, *fields).log_z, brute_force(*fields), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("num_units", [1, 3, 9])
def test_derivatives(num_units):
    """By differences between five points, with an error of the fourth power of their distance."""
    mean, variance = random_fields(num_units, scale=1.0)
    step, stencil = 1e-3, {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    found = in_float64(majority_64, mean, variance)
    for k, unit in enumerate(np.eye(num_units)[:, :, None]):
        shifted = {n: in_float64(majority_64, mean + n * step * unit, variance) for n in stencil}
        slope = sum(c * shifted[n].log_z for n, c in stencil.items()) / step
        curvature = -sum(c * shifted[n].g[k] for n, c in stencil.items()) / step
        np.testing.assert_allclose(found.g[k], slope, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(found.gamma[k], curvature, rtol=1e-8, atol=1e-10)


def test_gradient():
    fields = random_fields(9)
    gradient = jax.jit(jax.grad(lambda mean, variance: jnp.sum(majority(mean, variance).log_z)))
    expected = in_float64(gradient, *fields)
    np.testing.assert_allclose(in_float64(majority_64, *fields).g, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("num_units", [1, 9, 25])
@pytest.mark.parametrize("s", [8.0, 20.0, 1e3])
def test_all_units_disagree(num_units, s):
    """Then just a majority flips, each way with the same probability."""
    h = (num_units + 1) // 2
    fields = np.full((num_units, 40), [-s, s] * 20), np.ones((num_units, 40))
    log_z, g, gamma = in_float64(majority_64, *fields)
    flips = scipy.special.log_ndtr(-s)
    leading = np.log(scipy.special.comb(num_units, h)) + h * flips
    assert log_z[0] == pytest.approx(leading, rel=1e-12 + np.exp(flips) * num_units)
    hazard = np.exp(-(s**2) / 2 - np.log(2 * np.pi) / 2 - flips)
    np.testing.assert_allclose(g[:, 0], hazard * h / num_units, rtol=1e-9 + np.exp(flips) * 25)
    np.testing.assert_allclose(gamma, g * (g + fields[0]), rtol=1e-12)
    # On the other side nothing is left to be learned.
    assert abs(log_z[1]) < 1e-12
    np.testing.assert_allclose(g[:, 1], 0, atol=1e-12)


def test_mixed_extremes():
    """Two of three units vote no, all surely: the less sure of the two must flip."""
    found = in_float64(majority_64, np.full((40, 3), [-30.0, -40.0, 50.0]).T, np.ones((3, 40)))
    hazard = np.exp(-450 - np.log(2 * np.pi) / 2 - scipy.special.log_ndtr(-30.0))
    assert found.log_z[0] == pytest.approx(scipy.special.log_ndtr(-30.0), rel=1e-13)
    np.testing.assert_allclose(found.g[:, 0], [hazard, 0, 0], rtol=1e-11, atol=1e-100)


def test_single_precision():
    fields = random_fields(9, scale=30.0)
    exact = in_float64(majority_64, *fields)
    found = majority_64(*(jnp.asarray(array, jnp.float32) for array in fields))
    assert found.g.dtype == jnp.float32
    np.testing.assert_allclose(found.log_z, exact.log_z, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.g, exact.g, rtol=1e-3, atol=1e-4)
