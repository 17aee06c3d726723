r"""Expectation propagation for committees, for correlated inputs.

The weights of a unit are a Gaussian with all its covariances. Covariances between units are left
out. A pattern mu is represented by a site :math:`e^{-a h^2 / 2 + b h}` of the field of each unit,

.. math::
  \Lambda_k = \lambda_k + U^T \mathrm{diag}(a_k) U, \quad
  \bar w_k = \Lambda_k^{-1} (\gamma_k \tilde w_k + U^T b_k), \quad
  \bar h_k = U \bar w_k, \quad \sigma^2_{\mu k} = (U \Lambda_k^{-1} U^T)_{\mu\mu}. \tag{1}

Sites are chosen such that the Gaussian agrees with the channel :math:`Z, g, \Gamma` on the mean and
variance of each field, given all other sites,

.. math::
  \frac{1}{V} = \frac{1}{\sigma^2} - a, \quad
  \omega = V \Big(\frac{\bar h}{\sigma^2} - b\Big), \quad
  a = \frac{\Gamma}{1 - V \Gamma}, \quad b = \frac{g + \Gamma \omega}{1 - V \Gamma}. \tag{2}

The entropy is computed by `flatjax.committee._marginals.entropy_per_weight` from

.. math::
  :nowrap:

  \begin{align*}
  \log Z &= \sum_k \Big[\frac{N}{2} \log 2 \pi - \frac12 \log \det \Lambda_k
    + \frac12 (\gamma_k \tilde w_k \cdot \bar w_k + b_k \cdot \bar h_k)\Big]
    + \sum_\mu \log Z_\mu \\
    &- \sum_{\mu k} \Big[-\frac12 \log(1 + a V) + \frac{(\omega / V + b)^2}{2 (1 / V + a)}
    - \frac{\omega^2}{2 V}\Big]. \tag{3}
  \end{align*}
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from flatjax.committee._amp import majority_in_chunks
from flatjax.committee._checks import check_problem
from flatjax.committee._marginals import (
    Marginals,
    entropy_per_weight,
    error_of_fields,
    is_possible,
    solved,
)

LEAST_SITE = -0.9  # times the precision of the cavity: a smaller value would leave no variance


def expectation_propagation(
    x: ArrayLike,
    y: ArrayLike,
    *,
    num_units: int | None = None,
    reference: ArrayLike | None = None,
    overlap: ArrayLike | None = None,
    damping: float = 0.8,
    max_iterations: int = 500,
    tolerance: float = 1e-6,
    space: str = "auto",
) -> Marginals:
    r"""Computes what `amp` computes, with covariances of the weights of a unit.

    *Convergence.* The residual says by how much fields of the Gaussian and of the channel disagree.
    It is a sum of three terms. The first is the root mean square difference of their means over the
    root of the mean variance. The second is the mean difference of their variances over the mean
    variance. The third is the relative error of the norm.

    *Cost.* Points and units are solved one after the other. An iteration inverts a matrix of size P
    for each unit, or one of size N after 4 P N^2 operations, whichever is smaller. Both give the
    same result for any shape. For N = 784, K = 9 that is 0.2 s for P = 500 on one core, and 20 s
    for P = 12000.
    On a busy machine the threads of LAPACK wait for each other. OPENBLAS_NUM_THREADS=1 can then be
    ten times faster. Memory: 3 P N numbers and about four matrices.

    Args:
      x: patterns, shape (P, N).
      y: their labels, -1 or 1, shape (P,).
      num_units: K, odd. The default is K of the reference, or 1 without one.
      reference: weights of any norm, shape `(*R, K, N)`.
      overlap: p, cosine of the angle with every unit of the reference, in (-1, 1); broadcast with R
        to the shape S.
      damping: D, in [0, 1): share of the old sites that is kept.
      max_iterations: iterations after which it stops without convergence.
      tolerance: largest residual of a converged result.
      space: "patterns" for matrices of size P, "inputs" for size N, "auto" for the smaller.

    Returns:
      Entropy and marginals of weights.

    Raises:
      ValueError: as `amp`; or the space is unknown.
      TypeError: num_units or max_iterations is not an int.

    Examples:
      >>> teacher = jnp.ones((1, 20))
      >>> x = 1 + jax.random.normal(jax.random.key(0), (10, 20))
      >>> y = jnp.sign(x @ teacher[0])
      >>> found = expectation_propagation(x, y, reference=teacher, overlap=0.7)
      >>> bool(found.converged and -1 < found.phi < 0)
      True

    See Also:
      `amp` (faster, for independent inputs), `direct_log_fraction` (by sampling).
    """
    if space not in ("auto", "patterns", "inputs"):
        raise ValueError(f'space must be "auto", "patterns" or "inputs", got {space!r}.')
    problem = check_problem(x, y, num_units, reference, overlap)
    if space == "auto":
        num_patterns, num_inputs = problem.patterns.shape
        space = "patterns" if num_patterns <= num_inputs else "inputs"
    program = functools.partial(_propagate, num_units=problem.num_units, space=space)
    return solved(program, problem, damping, max_iterations, tolerance)


class _Unit(NamedTuple):
    """The Gaussian of one unit, or of all units with a leading axis."""

    mean: jax.Array  # of the weights (N,)
    variance: jax.Array | None  # of the weights (N,), if asked for
    field: jax.Array  # mean (P,)
    field_variance: jax.Array  # (P,)
    trace: jax.Array  # of the covariance of the weights
    log_det: jax.Array  # of their precision
    gamma: jax.Array  # multiplier of the overlap


class _Sites(NamedTuple):
    precision: jax.Array  # a (K, P)
    linear: jax.Array  # b (K, P)
    multiplier: jax.Array  # lambda (K,)
    iterations: jax.Array
    residual: jax.Array


@functools.partial(jax.jit, static_argnames=("num_units", "space"))
def _propagate(
    patterns, references, overlaps, damping, tolerance, max_iterations, *, num_units, space
):
    gaussian = _in_patterns(patterns) if space == "patterns" else _in_inputs(patterns)
    num_patterns, num_inputs = patterns.shape
    mix = lambda old, new: damping * old + (1 - damping) * new

    def at_point(point):
        reference, overlap = point

        def posterior(sites, with_variance=False):
            def of_unit(unit):
                return _unit(gaussian, patterns, *unit, overlap, with_variance)

            return jax.lax.map(of_unit, (*sites[:3], reference))

        def step(sites):
            units = posterior(sites)
            cavity, variance, valid = _cavity(units, sites)
            output = majority_in_chunks(cavity, variance)
            left = jnp.maximum(1 - variance * output.gamma, 1e-12)  # share of the variance
            # the new sites of eq. (2)
            a = jnp.maximum(output.gamma / left, LEAST_SITE / variance)
            b = (output.g + output.gamma * cavity) / left
            # A site that leaves no valid cavity Gaussian is reset.
            a, b = jnp.where(valid, a, 0.0), jnp.where(valid, b, 0.0)
            squared = jnp.sum(units.mean**2, axis=1)
            ratio = units.trace / jnp.maximum(num_inputs - squared, 1e-12 * num_inputs)
            ratio = jnp.clip(jnp.where(ratio > 0, ratio, 2.0), 0.5, 2.0)
            scale = jnp.mean(units.field_variance)
            moved = cavity + variance * output.g - units.field
            spread = variance * left - units.field_variance
            residual = jnp.sqrt(jnp.mean(moved**2) / scale) + jnp.mean(jnp.abs(spread)) / scale
            residual += jnp.mean(jnp.abs(units.trace + squared - num_inputs)) / num_inputs
            return _Sites(
                mix(sites.precision, a),
                mix(sites.linear, b),
                sites.multiplier * ratio ** (1 - damping),
                sites.iterations + 1,
                jnp.where(jnp.all(valid), residual, jnp.inf),
            )

        go_on = lambda sites: (sites.residual > tolerance) & (sites.iterations < max_iterations)
        nothing = jnp.zeros((num_units, num_patterns))
        spread = 1.0 if overlap is None else 1 - overlap**2
        multiplier = jnp.full(num_units, 1 / spread)
        first = _Sites(nothing, nothing, multiplier, jnp.array(0), jnp.array(jnp.inf))
        last = jax.lax.while_loop(go_on, step, first)
        units = posterior(last, with_variance=True)
        phi = _entropy(units, last, reference, overlap)
        train_error = error_of_fields(units.field)
        possible = is_possible(phi, train_error, num_units)
        return Marginals(
            mean=units.mean,
            variance=units.variance,
            phi=phi,
            train_error=train_error,
            iterations=last.iterations,
            residual=last.residual,
            converged=(last.residual <= tolerance) & possible,
        )

    if references is None:
        return jax.tree.map(lambda leaf: leaf[None], at_point((None, None)))
    return jax.lax.map(at_point, (references, overlaps))


def _unit(gaussian, patterns, a, b, multiplier, reference, overlap, with_variance):
    solve, variance, field_variance, trace, log_det = gaussian(a, multiplier, with_variance)
    mean, gamma = solve(patterns.T @ b), jnp.zeros(())
    if reference is not None:
        toward = solve(reference)
        gamma = (overlap * len(mean) - reference @ mean) / (reference @ toward)
        mean = mean + gamma * toward
    return _Unit(mean, variance, patterns @ mean, field_variance, trace, log_det, gamma)


def _in_inputs(patterns):
    """Computes the Gaussian of a unit by matrices of size N, eq. (1)."""

    def gaussian(a, multiplier, with_variance):
        precision = patterns.T @ (a[:, None] * patterns)
        precision = precision + multiplier * jnp.eye(len(precision))
        # LU and not Cholesky: before convergence the matrix may be indefinite.
        covariance = jnp.linalg.inv(precision)
        field_variance = jnp.sum((patterns @ covariance) * patterns, axis=1)
        log_det = jnp.linalg.slogdet(precision)[1] if with_variance else jnp.zeros(())
        variance = jnp.diag(covariance)
        solve = lambda vector: covariance @ vector
        return solve, variance, field_variance, jnp.sum(variance), log_det

    return gaussian


def _in_patterns(patterns):
    r"""Computes the Gaussian of a unit by matrices of size P.

    .. math::
      \Lambda^{-1} = (1 - U^T M^{-1} a U) / \lambda, \quad M = \lambda + a C, \quad C = U U^T
      \tag{4}
    """
    gram = patterns @ patterns.T
    num_patterns, num_inputs = patterns.shape

    def gaussian(a, multiplier, with_variance):
        matrix = multiplier * jnp.eye(num_patterns) + a[:, None] * gram  # M of eq. (4)
        inverse = jnp.linalg.inv(matrix)
        field_variance = jnp.sum(gram * inverse.T, axis=1)
        trace = (num_inputs - a @ field_variance) / multiplier
        solve = lambda z: (z - patterns.T @ (inverse @ (a * (patterns @ z)))) / multiplier
        if not with_variance:
            return solve, None, field_variance, trace, jnp.zeros(())
        log_det = jnp.linalg.slogdet(matrix)[1]
        log_det += (num_inputs - num_patterns) * jnp.log(multiplier)
        lost = jnp.sum(patterns * (inverse @ (a[:, None] * patterns)), axis=0)
        return solve, (1 - lost) / multiplier, field_variance, trace, log_det

    return gaussian


def _cavity(units, sites):
    """Returns mean and variance of the cavity, eq. (2), and whether it is valid."""
    precision = 1 / units.field_variance - sites.precision
    valid = (units.field_variance > 0) & (precision > 0)
    variance = jnp.where(valid, 1 / precision, 1.0)
    cavity = variance * (units.field / units.field_variance - sites.linear)
    return jnp.where(valid, cavity, 0.0), variance, valid


def _entropy(units, sites, reference, overlap):
    a, b = sites.precision, sites.linear
    cavity, variance, _ = _cavity(units, sites)
    # The three sums of eq. (3)
    of_units = units.mean.shape[1] * np.log(2 * np.pi) / 2 - units.log_det / 2
    of_units += jnp.sum(b * units.field, axis=1) / 2
    if reference is not None:
        of_units += units.gamma * jnp.sum(reference * units.mean, axis=1) / 2
    of_sites = -jnp.log1p(a * variance) / 2 - cavity**2 / (2 * variance)
    of_sites += (cavity / variance + b) ** 2 / (2 * (1 / variance + a))
    of_patterns = jnp.sum(majority_in_chunks(cavity, variance).log_z)
    log_partition = jnp.sum(of_units) + of_patterns - jnp.sum(of_sites)
    return entropy_per_weight(log_partition, sites.multiplier, units.gamma, units.mean, overlap)
