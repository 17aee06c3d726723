"""Eigenvalues, trace and density of matrices whose spectrum is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast import slow
from matfree import decomp

from flatjax.flatness import lanczos, spectral_density, top_eigenvalues, trace
from flatjax.flatness._operators import Operator

KEY = jax.random.key(0)


def diagonal_operator(diagonal):
    diagonal = jnp.asarray(diagonal)
    operator = Operator(lambda v: diagonal * v, jnp.zeros_like(diagonal), lambda v: v)
    return lambda params, batches: operator


def test_the_basis_stays_orthogonal():
    """Without reorthogonalisation, 40 steps on this spectrum lose it altogether."""
    spectrum = jnp.concatenate([jnp.linspace(0, 1, 38), jnp.geomspace(10, 1000, 10)])
    basis, matrix, residual, _ = lanczos(40)(lambda v: spectrum * v, jnp.ones(48))
    np.testing.assert_allclose(basis @ basis.T, np.eye(40), atol=2e-6)
    np.testing.assert_allclose(basis @ residual, 0, atol=1e-3)
    np.testing.assert_allclose(np.linalg.eigvalsh(matrix)[-10:], spectrum[-10:], rtol=1e-5)
    without = decomp.tridiag_sym(40, reortho="none")(lambda v: spectrum * v, jnp.ones(48)).Q_tall
    assert np.abs(without @ without.T - np.eye(40)).max() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "rtol"), [slow(32, 1e-5), (64, 1e-10)])
def test_known_spectra_to_the_precision_of_the_weights(bits, rtol):
    with jax.enable_x64(bits == 64):
        spectrum = np.concatenate([np.linspace(0, 1, 1990), np.geomspace(3, 100, 10)])
        operator_fn = diagonal_operator(spectrum.astype(f"float{bits}"))
        found = top_eigenvalues(operator_fn, num=5, num_matvecs=60)(None, [], KEY)
        np.testing.assert_allclose(found.values, spectrum[:-6:-1], rtol=rtol)
        # Of a diagonal matrix every sample is the trace.
        of_trace = trace(operator_fn, num_samples=2)(None, [], KEY)
        np.testing.assert_allclose(of_trace.mean, spectrum.sum(), rtol=rtol)
        density = spectral_density(operator_fn, num_matvecs=60, num_samples=2)(None, [], KEY)
        largest = density.nodes.max(axis=1)
        np.testing.assert_allclose(largest, spectrum[-1], rtol=rtol)


@pytest.mark.slow
def test_degenerate_spectra():
    """Krylov spaces of dimension 2, and of 1: the iteration goes on outside them."""
    twice = diagonal_operator([5.0] * 3 + [1.0] * 7)
    found = top_eigenvalues(twice, num=4, num_matvecs=10)(None, [], KEY)
    np.testing.assert_allclose(found.values, [5, 5, 5, 1], rtol=1e-5)
    density = spectral_density(twice, num_matvecs=10, num_samples=60)(None, [], KEY)
    share = (density.weights * (density.nodes > 3)).sum(axis=1)
    assert abs(share.mean() - 0.3) < 4 * share.std() / np.sqrt(60)

    zero = diagonal_operator(np.zeros(10))
    found = top_eigenvalues(zero, num=4, num_matvecs=10)(None, [], KEY)
    np.testing.assert_array_equal(found.values, 0)
    density = spectral_density(zero, num_matvecs=10, num_samples=2)(None, [], KEY)
    np.testing.assert_array_equal(density.nodes, 0)
    np.testing.assert_allclose(np.trapezoid(density.density, density.grid), 1, rtol=1e-4)
    one = diagonal_operator([3.0])
    assert top_eigenvalues(one)(None, [], KEY).values == pytest.approx([3.0])


def test_matrices_without_the_eigenvalues_are_refused():
    with pytest.raises(ValueError, match="num must be at most the matrix's 10 rows"):
        top_eigenvalues(diagonal_operator(np.ones(10)), num=11)(None, [], KEY)
    with pytest.raises(ValueError, match="finite"):
        top_eigenvalues(diagonal_operator([1.0] * 9 + [np.nan]))(None, [], KEY)
