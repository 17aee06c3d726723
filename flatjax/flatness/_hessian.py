"""Curvature at a minimum: eigenvalues, trace and spectral density of the Hessian.

Each measure takes the Hessian (`flatjax.flatness.hessian_operator`) or the generalised Gauss-Newton
matrix (`flatjax.flatness.gauss_newton_operator`) of the mean loss over the examples:

    measure = top_eigenvalues(hessian_operator(eval_fn), num=5)
    measure(params, batches, jax.random.key(0)).values

Costs are numbers of products of the matrix with a vector; each product costs one to three gradients
of the batches. Nothing is recompiled for other solutions of the same shapes.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.flatten_util import ravel_pytree

from flatjax import _checks
from flatjax.flatness._inputs import Batches, random_key
from flatjax.flatness._lanczos import tridiagonalize
from flatjax.flatness._operators import Operator, operator_at
from flatjax.flatness._spectra import Eigenvalues, SpectralDensity, Trace

WHICH = ("largest", "smallest", "magnitude")


def top_eigenvalues(
    operator_fn: Callable[..., Operator],
    *,
    num: int = 1,
    num_matvecs: int = 40,
    which: str = "largest",
) -> Callable[..., Eigenvalues]:
    """Computes extreme eigenvalues and eigenvectors by Lanczos iteration.

    All vectors are reorthogonalised. An eigenvalue that occurs several times is found once, and
    again only after the Krylov space is exhausted. With `num_matvecs` of at least the number of
    rows, all are found.

    Cost: `num_matvecs + num` products, and memory for as many vectors.

    Args:
      operator_fn: `hessian_operator(...)` or `gauss_newton_operator(...)`.
      num: the number of eigenvalues.
      num_matvecs: m, the number of Lanczos steps, at most the number of the matrix's rows. The
        residuals tell if these are enough.
      which: `"largest"`, `"smallest"` (the most negative first) or `"magnitude"`.

    Returns:
      `fn(params, batches, key, *state) -> Eigenvalues`; the key draws the initial vector. Do not
      jit it.

    Raises:
      ValueError: num < 1, num_matvecs < num, or an unknown `which`. When called: the matrix has
        fewer than num rows.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flatjax.flatness import hessian_operator, top_eigenvalues
      >>> def eval_fn(params, batch):
      ...     loss = 0.5 * jnp.sum(jnp.arange(100) * params**2)
      ...     return {"loss": len(batch) * loss, "count": len(batch)}
      >>> measure = top_eigenvalues(hessian_operator(eval_fn), num=2, num_matvecs=60)
      >>> found = measure(jnp.zeros(100), [jnp.ones(1)], jax.random.key(0))
      >>> found.values.round(3)
      array([99., 98.])
      >>> bool((found.residuals < 0.01).all())
      True

    See Also:
      `spectral_density` (all of them), `trace` (their sum), `lanczos` (the iteration).
    """
    _checks.check_count("num", num)
    _checks.check_count("num_matvecs", num_matvecs, minimum=num)
    if which not in WHICH:
        raise ValueError(f"which must be one of {WHICH}, got {which!r}.")

    def measure(
        params: chex.ArrayTree, batches: Batches, key: chex.PRNGKey, *state: Any
    ) -> Eigenvalues:
        operator, key = operator_at(operator_fn, params, batches, *state), random_key(key)
        like, matvec, unravel = _flatten(operator)
        if like.size < num:
            raise ValueError(f"num must be at most the matrix's {like.size} rows, got {num}.")
        start = jax.random.normal(key, like.shape, like.dtype)
        basis, alphas, betas, _ = tridiagonalize(matvec, start, num_matvecs)
        values, rotation = _eigh(alphas, betas)
        extremity = {"largest": values, "smallest": -values, "magnitude": np.abs(values)}[which]
        chosen = np.argsort(-extremity)[:num]
        values, rotation = values[chosen], jnp.asarray(rotation[:, chosen], basis.dtype)
        vectors = jnp.matmul(rotation.T, basis, precision="highest")
        # Residuals are measured, not read off T, because they include rounding errors.
        residuals = [
            jnp.linalg.norm(matvec(vector) - value * vector)
            for value, vector in zip(values, vectors, strict=True)
        ]
        return Eigenvalues(
            values=values,
            residuals=np.asarray(jnp.stack(residuals), dtype=float),
            vectors=jax.vmap(lambda v: operator.embed(unravel(v)))(vectors),
        )

    return measure


def trace(operator_fn: Callable[..., Operator], *, num_samples: int = 100) -> Callable[..., Trace]:
    r"""Estimates the trace by Hutchinson's estimator.

    .. math:: \mathrm{tr} A = \mathbb{E}_v \, v^\top A v, \qquad v_i = \pm 1

    The variance is twice the sum of squares of the off-diagonal elements. The same key draws the
    same vectors for every solution.

    Cost: `num_samples` products.

    Args:
      operator_fn: `hessian_operator(...)` or `gauss_newton_operator(...)`.
      num_samples: S, the number of random vectors.

    Returns:
      `fn(params, batches, key, *state) -> Trace`. Do not jit it.

    Raises:
      ValueError: num_samples < 2.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flatjax.flatness import hessian_operator, trace
      >>> def eval_fn(params, batch):
      ...     return {"loss": len(batch) * jnp.sum(params**2), "count": len(batch)}
      >>> measure = trace(hessian_operator(eval_fn), num_samples=2)
      >>> float(measure(jnp.zeros(100), [jnp.ones(1)], jax.random.key(0)).mean)
      200.0

    See Also:
      `top_eigenvalues` (the largest ones), `spectral_density` (their density).
    """
    _checks.check_count("num_samples", num_samples, minimum=2)

    def measure(params: chex.ArrayTree, batches: Batches, key: chex.PRNGKey, *state: Any) -> Trace:
        like, matvec, _ = _flatten(operator_at(operator_fn, params, batches, *state))
        key = random_key(key)

        def sample(s):
            v = jax.random.rademacher(jax.random.fold_in(key, s), like.shape, like.dtype)
            return jnp.vdot(v, matvec(v), precision="highest")

        samples = np.asarray(jnp.stack([sample(s) for s in range(num_samples)]), dtype=float)
        return Trace(samples.mean(), samples.std(ddof=1) / np.sqrt(num_samples), samples)

    return measure


def spectral_density(
    operator_fn: Callable[..., Operator],
    *,
    num_matvecs: int = 80,
    num_samples: int = 5,
    width: float = 0.01,
    num_points: int = 1000,
) -> Callable[..., SpectralDensity]:
    r"""Estimates the density of eigenvalues by stochastic Lanczos quadrature.

    For each random unit vector v, m Lanczos steps give the Gauss quadrature rule of the measure
    :math:`\sum_i (v^\top q_i)^2 \delta(\lambda - \lambda_i)`, with the eigenvectors :math:`q_i`.
    Its expectation over v is the density :math:`\frac{1}{n} \sum_i \delta(\lambda - \lambda_i)`
    [Golub and Welsch, 1969; Ghorbani et al., 2019]. The rule is exact for polynomials in
    :math:`\lambda` up to degree 2 m - 1.

    Cost: `num_samples * num_matvecs` products, and memory for `num_matvecs` vectors.

    Args:
      operator_fn: `hessian_operator(...)` or `gauss_newton_operator(...)`.
      num_matvecs: m, the number of Lanczos steps, at most the number of the matrix's rows.
      num_samples: S, the number of random vectors.
      width: standard deviation of the Gaussian that smooths the density, as a fraction of the
        range of the nodes.
      num_points: X, the number of points of the grid.

    Returns:
      `fn(params, batches, key, *state) -> SpectralDensity`. Do not jit it.

    Raises:
      ValueError: num_matvecs < 1, num_samples < 2, num_points < 2, or width not positive.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flatjax.flatness import hessian_operator, spectral_density
      >>> def eval_fn(params, batch):
      ...     loss = 0.5 * jnp.sum(jnp.arange(100) * params**2)
      ...     return {"loss": len(batch) * loss, "count": len(batch)}
      >>> measure = spectral_density(hessian_operator(eval_fn), num_matvecs=20)
      >>> found = measure(jnp.zeros(100), [jnp.ones(1)], jax.random.key(0))
      >>> mean = (found.weights * found.nodes).sum(axis=1)
      >>> bool(abs(mean.mean() - 49.5) < 4 * mean.std(ddof=1) / 5**0.5)
      True

    See Also:
      `top_eigenvalues` (the extreme ones), `trace` (their sum).
    """
    _checks.check_count("num_matvecs", num_matvecs)
    _checks.check_count("num_samples", num_samples, minimum=2)
    _checks.check_count("num_points", num_points, minimum=2)
    _checks.check_scalar("width", width, exclusive_minimum=True)

    def measure(
        params: chex.ArrayTree, batches: Batches, key: chex.PRNGKey, *state: Any
    ) -> SpectralDensity:
        like, matvec, _ = _flatten(operator_at(operator_fn, params, batches, *state))
        key = random_key(key)
        samples = []
        for s in range(num_samples):
            start = jax.random.normal(jax.random.fold_in(key, s), like.shape, like.dtype)
            _, alphas, betas, _ = tridiagonalize(matvec, start, num_matvecs)
            values, rotation = _eigh(alphas, betas)
            samples.append((values, rotation[0] ** 2))
        nodes, weights = map(np.stack, zip(*samples, strict=True))
        grid, densities, smoothing = _smooth(nodes, weights, width, num_points)
        return SpectralDensity(
            nodes=nodes,
            weights=weights,
            grid=grid,
            density=densities.mean(axis=1),
            sem=densities.std(axis=1, ddof=1) / np.sqrt(num_samples),
            width=smoothing,
            dimension=like.size,
        )

    return measure


def _smooth(nodes, weights, width, num_points):
    """Returns (grid (X,), densities at the grid (X, S), standard deviation)."""
    # The nodes have no range if there is one eigenvalue, as in multiples of the identity.
    spread = np.ptp(nodes) or np.abs(nodes).max() or 1.0
    smoothing = float(width * spread)
    grid = np.linspace(nodes.min() - 5 * smoothing, nodes.max() + 5 * smoothing, num_points)
    kernel = np.exp(-0.5 * ((grid[:, None, None] - nodes) / smoothing) ** 2)
    return grid, (weights * kernel).sum(axis=-1) / (np.sqrt(2 * np.pi) * smoothing), smoothing


def _flatten(operator):
    """Returns the matrix for flat vectors: (a vector, product, back to the pytree)."""
    like, unravel = ravel_pytree(operator.like)
    matvec = lambda v: ravel_pytree(operator.matvec(unravel(v)))[0]
    return like, matvec, unravel


def _eigh(alphas, betas):
    """Returns T's ascending eigenvalues and its eigenvectors in columns, in float64."""
    alphas, betas = np.asarray(alphas, dtype=float), np.asarray(betas, dtype=float)
    if not np.isfinite(alphas).all():
        raise ValueError("params must have a finite matrix of second derivatives, got NaN or inf.")
    return scipy.linalg.eigh_tridiagonal(alphas, betas[:-1])
