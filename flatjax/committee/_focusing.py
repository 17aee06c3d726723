r"""Solvers by message passing: marginal means, and focusing on dense solutions.

The iteration is the one of `flatjax.committee.amp`, with A and B defined there. `focusing_bp` adds
a coupling: this replica and y - 1 others with the same marginals are coupled to a center w*, each
by :math:`\frac{\gamma}{2} |w - w^*|^2`. Without its center, a weight has the cavity variance
:math:`v_c = 1 / (\lambda + A)` and the mean :math:`m_c = v_c B`. The other replicas send the center
a first message, and the center sends this weight a second one:

.. math::
  \text{first: precision } \frac{y - 1}{v_c + 1/\gamma}, \text{ mean } m_c; \quad
  \text{second: precision } \rho = \frac{(y - 1) \gamma}{\gamma v_c + y}, \text{ mean } m_c.
  \tag{1}

Hence :math:`v = 1 / (\lambda + A + \rho)` and :math:`m = m_c`. Lambda is such that on average
:math:`|w_k|^2 = N`.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from flatjax import _checks
from flatjax._float64 import in_float64
from flatjax._keys import as_key
from flatjax.committee._amp import amp_step, first_messages
from flatjax.committee._checks import (
    check_damping,
    check_iteration,
    check_units,
    contradictory,
    signed_patterns,
)
from flatjax.committee._constraints import Gaussian, constrained, solve_norm
from flatjax.committee._marginals import error_of_fields, is_possible


class Focused(NamedTuple):
    """A committee and its history.

    Attributes:
      weights: the means, rescaled to the norm sqrt(N), shape (K, N).
      variance: v, shape (K, N): near 0 where replicas have collapsed.
      train_error: fraction of patterns that `weights` classifies wrongly.
      gamma: couplings, shape (T,).
      num_replicas: number of replicas at each coupling, shape (T,).
      train_errors: `train_error` after the iterations at each coupling, shape (T,).
      residuals: residual of `amp` after these iterations, shape (T,). A schedule does not wait for
        it to be small.
    """

    weights: np.ndarray
    variance: np.ndarray
    train_error: np.ndarray
    gamma: np.ndarray
    num_replicas: np.ndarray
    train_errors: np.ndarray
    residuals: np.ndarray


class BeliefPropagation(NamedTuple):
    """Marginal means of error-free weights.

    Attributes:
      weights: the means, rescaled to the norm sqrt(N), shape (K, N).
      variance: v, shape (K, N).
      train_error: fraction of patterns that `weights` classifies wrongly; often not 0.
      iterations: number of iterations.
      residual: defined as in `amp`.
      converged: whether the residual is within the tolerance and error-free weights may exist. They
        do not exist if two patterns exclude each other, or if a single unit's mean makes an error.
        With more units, `converged` does not prove that they exist.
    """

    weights: np.ndarray
    variance: np.ndarray
    train_error: np.ndarray
    iterations: np.ndarray
    residual: np.ndarray
    converged: np.ndarray


def default_gamma() -> np.ndarray:
    """Returns the couplings of `focusing_bp`: 60 values from 0.02 to 300."""
    return np.geomspace(0.02, 300, 60)


def belief_propagation(
    x: ArrayLike,
    y: ArrayLike,
    key: chex.PRNGKey | int,
    *,
    num_units: int = 1,
    damping: float = 0.9,
    max_iterations: int = 600,
    tolerance: float = 1e-6,
) -> BeliefPropagation:
    """Computes the marginal means of uniformly distributed error-free weights.

    It runs `amp` without a reference from random means, so that units may become different. As a
    classifier, the mean is close to the vote of all error-free committees. It may make errors
    itself.

    Args:
      x: patterns, shape (P, N).
      y: their labels, -1 or 1, shape (P,).
      key: PRNG key, or a seed, of the first means.
      num_units: K, odd.
      damping: D, in [0, 1).
      max_iterations: iterations after which it stops without convergence.
      tolerance: largest residual of a converged result.

    Returns:
      The means.

    Raises:
      ValueError: x, y, num_units, damping, max_iterations or tolerance is not as in `amp`.
      TypeError: num_units or max_iterations is not an int, or key is not a key.

    Examples:
      >>> x = jax.random.normal(jax.random.key(0), (30, 20))
      >>> y = jnp.sign(x.sum(axis=1))
      >>> found = belief_propagation(x, y, jax.random.key(1))
      >>> bool(found.converged), float(found.train_error)
      (True, 0.0)

    See Also:
      `focusing_bp` (towards flat solutions), `amp` (the local entropy of the solution).
    """
    check_iteration(damping, max_iterations, tolerance)
    patterns, normal = _check(x, y, key, num_units)
    found = in_float64(_iterate)(patterns, 0.1 * normal, damping, tolerance, max_iterations)
    return found._replace(converged=found.converged & (not contradictory(patterns)))


def focusing_bp(
    x: ArrayLike,
    y: ArrayLike,
    key: chex.PRNGKey | int,
    *,
    num_units: int = 1,
    num_replicas: ArrayLike | Callable[[int], float] = 30,
    gamma: ArrayLike | None = None,
    iterations_per_gamma: int = 10,
    damping: float = 0.9,
    start: float = 0.1,
) -> Focused:
    r"""Finds a committee in a wide flat minimum [Baldassi et al., 2016].

    Focusing belief propagation increases the coupling while messages are passed, until replicas
    coincide (scoping). A small number of replicas may not coincide, and then leaves errors: look at
    `train_error`. In this case each pattern counts once for each replica. The number of replicas
    may grow as well, from 1 (`belief_propagation`) to infinity (reinforcement); this is called
    pseudo-reinforcement.

    *Cost.* An iteration costs as much as one point of `amp`. The default of 600 iterations takes 2
    s for P = 500, N = 784, K = 9 on two cores.

    Args:
      x: patterns, shape (P, N).
      y: their labels, -1 or 1, shape (P,).
      key: PRNG key, or a seed, of the first means.
      num_units: K, odd.
      num_replicas: y, at least 1; inf for the limit in which a replica's own mean is its field.
        Either a number, or one for each coupling: an array of shape (T,) or a function of an index.
      gamma: couplings, shape (T,); `default_gamma()` by default.
      iterations_per_gamma: number of iterations at each coupling.
      damping: D, in [0, 1). In tests 0.5 left errors, and 0.9 left none.
      start: standard deviation of the first means, which makes units different.

    Returns:
      The committee and its history.

    Raises:
      ValueError: x, y, num_units or damping is not as in `amp`. num_replicas or
        iterations_per_gamma is below 1. gamma is not positive or not of shape (T,). num_replicas is
        neither a number nor of that shape. start is not positive.
      TypeError: num_units or iterations_per_gamma is not an int, or key is not a key.

    Examples:
      >>> x = jax.random.normal(jax.random.key(0), (30, 20))
      >>> y = jnp.sign(jax.random.normal(jax.random.key(1), (30,)))
      >>> found = focusing_bp(x, y, jax.random.key(2), num_units=3)
      >>> float(found.train_error)
      0.0

      Both rise, at a constant rate:

      >>> gamma, num_replicas = np.geomspace(0.02, 300, 60), np.geomspace(2, 100, 60)
      >>> found = focusing_bp(
      ...     x, y, jax.random.key(2), num_units=3, num_replicas=num_replicas, gamma=gamma
      ... )
      >>> float(found.train_error)
      0.0

    See Also:
      `belief_propagation` (one replica), `amp` (the local entropy of the solution),
      `binary_focusing_bp` (for binary weights).
    """
    check_damping(damping)
    _checks.check_count("iterations_per_gamma", iterations_per_gamma)
    _checks.check_scalar("start", start, exclusive_minimum=True)
    gamma = default_gamma() if gamma is None else np.asarray(gamma, np.float64)
    if gamma.ndim != 1 or not gamma.size or not np.all((gamma > 0) & np.isfinite(gamma)):
        raise ValueError(f"gamma must be positive and finite, of shape (T,), got {gamma}.")
    num_replicas = _at_each(gamma, num_replicas)
    patterns, normal = _check(x, y, key, num_units)
    run = in_float64(_focus)
    return run(patterns, start * normal, gamma, num_replicas, damping, iterations_per_gamma)


def _at_each(gamma, num_replicas):
    """Returns the checked numbers of replicas at all couplings."""
    if callable(num_replicas):
        num_replicas = [num_replicas(index) for index in range(len(gamma))]
    values = np.asarray(num_replicas, np.float64)
    if values.shape not in ((), gamma.shape) or not np.all(values >= 1):
        raise ValueError(
            f"num_replicas must be at least 1, a number or of shape {gamma.shape}, as gamma has "
            f"couplings, got {num_replicas}."
        )
    return np.broadcast_to(values, gamma.shape)


def _check(x, y, key, num_units):
    """Returns checked signed patterns, and normal noise for the first means."""
    patterns = signed_patterns(x, y)
    check_units(num_units)
    key = as_key("key", key)
    return patterns, jax.random.normal(key, (num_units, patterns.shape[1]))


@jax.jit
def _iterate(patterns, start, damping, tolerance, max_iterations):
    squares = patterns**2
    weights = lambda a, b, log_excess: constrained(a, b, None, None, log_excess)
    step = lambda now: amp_step(patterns, squares, now, damping, weights)
    go_on = lambda now: (now.residual > tolerance) & (now.iterations < max_iterations)
    first = first_messages(start, jnp.ones_like(start), len(patterns))
    last = jax.lax.while_loop(go_on, step, first)
    train_error = _train_error(patterns, last.mean)
    return BeliefPropagation(
        weights=_to_sphere(last.mean),
        variance=last.variance,
        train_error=train_error,
        iterations=last.iterations,
        residual=last.residual,
        converged=(last.residual <= tolerance) & is_possible(0.0, train_error, len(start)),
    )


@jax.jit
def _focus(patterns, start, gamma, num_replicas, damping, iterations_per_gamma):
    squares = patterns**2

    def at_gamma(messages, coupling):
        weights = lambda *sums: replicated(*sums, *coupling)
        step = lambda _, now: amp_step(patterns, squares, now, damping, weights)
        messages = jax.lax.fori_loop(0, jnp.int32(iterations_per_gamma), step, messages)
        return messages, (_train_error(patterns, messages.mean), messages.residual)

    first = first_messages(start, jnp.ones_like(start), len(patterns))
    couplings = gamma, 1 - 1 / num_replicas
    last, (train_errors, residuals) = jax.lax.scan(at_gamma, first, couplings)
    return Focused(
        weights=_to_sphere(last.mean),
        variance=last.variance,
        train_error=train_errors[-1],
        gamma=gamma,
        num_replicas=num_replicas,
        train_errors=train_errors,
        residuals=residuals,
    )


def replicated(
    precision: jax.Array,
    field: jax.Array,
    log_excess: jax.Array,
    gamma: jax.Array,
    others: jax.Array,
) -> Gaussian:
    """Returns the Gaussian of one of y coupled replicas, eq. (1).

    Args:
      precision: A, shape (K, N).
      field: B, shape (K, N).
      log_excess: start of the iteration for lambda, shape (K,).
      gamma: coupling.
      others: share of the other replicas, (y - 1) / y.

    Returns:
      The Gaussian. It has a multiplier for the norm and none for an overlap.
    """
    lowest = jnp.min(precision, axis=1, keepdims=True)

    def weights(log_excess):
        cavity = precision - lowest + jnp.exp(log_excess)[:, None]
        # rho of eq. (1); numerator and denominator are divided by y, which may be infinite
        told = others * gamma / (1 + (1 - others) * gamma / cavity)
        return field / cavity, 1 / (cavity + told)

    def square(log_excess):
        m, v = weights(log_excess)
        return jnp.mean(v + m**2, axis=1)

    log_excess = solve_norm(square, log_excess)
    m, v = weights(log_excess)
    multiplier = jnp.exp(log_excess) - lowest[:, 0]
    return Gaussian(m, v, log_excess, multiplier, jnp.zeros_like(multiplier))


def _train_error(patterns, mean):
    return error_of_fields(mean @ patterns.T)


def _to_sphere(mean):
    return mean / jnp.sqrt(jnp.mean(mean**2, axis=1, keepdims=True))
