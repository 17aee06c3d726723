"""Results of message passing, and tests of whether they can be used.

Message passing is exact for many independent inputs. With few inputs it may converge to a share of
error-free weights although there are none, and none of its equations shows this. Therefore a share
that is large enough is tested by drawing weights, see `is_seen`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flatjax._float64 import in_float64
from flatjax.committee._checks import Problem, check_iteration

POSSIBLE = 1e-9  # phi is at most 0, up to this rounding error
ENOUGH = 20  # expected hits: without any hit, the claimed share has probability e^-20
LARGEST = 2e7  # numbers that are drawn to test a share if there is no hit: half a second
CHUNK = 2e5  # numbers that are drawn at a time


class Marginals(NamedTuple):
    """Estimates of message passing about error-free weights, at points of shape S.

    Where `converged` is false, numbers belong to the last iteration and are not results.

    Attributes:
      mean: mean of the weights, shape `(*S, K, N)`; its norm is below sqrt(N).
      variance: variance of each weight, shape `(*S, K, N)`.
      phi: logarithm of the share of error-free weights, divided by N K; 0 without data. NaN if two
        patterns exclude each other, so that there are none.
      train_error: fraction of patterns that the mean weights classify wrongly.
      iterations: number of iterations.
      residual: value that is compared with `tolerance`.
      converged: whether the residual is below the tolerance and phi is possible. For a single unit
        this proves that error-free weights exist, because the mean is one of them. For more units
        it is no proof. However, if phi claims a share that can be seen in 2e7 / (N K) draws,
        weights are drawn, and one of them was without errors.
    """

    mean: np.ndarray
    variance: np.ndarray
    phi: np.ndarray
    train_error: np.ndarray
    iterations: np.ndarray
    residual: np.ndarray
    converged: np.ndarray


def solved(
    program: Callable[..., Marginals],
    problem: Problem,
    damping: float,
    max_iterations: int,
    tolerance: float,
) -> Marginals:
    """Runs message passing at all points of a problem, in double precision.

    Args:
      program: function of patterns, references, overlaps, damping, tolerance and max_iterations.
      problem: checked patterns, references and overlaps.
      damping: share of the old messages that is kept.
      max_iterations: iterations after which it stops without convergence.
      tolerance: largest residual of a converged result.

    Returns:
      The requested points. phi is NaN if two patterns exclude each other.

    Raises:
      ValueError: damping, max_iterations or tolerance is out of range.
    """
    check_iteration(damping, max_iterations, tolerance)
    points = (problem.references, problem.overlaps)
    found = in_float64(program)(problem.patterns, *points, damping, tolerance, max_iterations)
    if problem.contradictory:
        phi = np.full_like(found.phi, np.nan)
        found = found._replace(phi=phi, converged=np.zeros_like(found.converged))
    seen = [is_seen(*_claim(found, problem, point)) for point in range(len(found.phi))]
    found = found._replace(converged=found.converged & np.array(seen))
    return jax.tree.map(lambda leaf: leaf.reshape(problem.shape + leaf.shape[1:])[()], found)


def _claim(found, problem, point):
    """Returns the arguments of `is_seen` at a point."""
    num_weights = found.mean[point].size
    log_share = num_weights * found.phi[point] if found.converged[point] else -np.inf
    shape = found.mean.shape[1:]

    def draw(rng, count):
        w = rng.standard_normal((count, *shape), np.float32)
        if problem.references is None:
            return w
        reference, overlap = problem.references[point], problem.overlaps[point]
        w -= np.mean(w * reference, axis=-1, keepdims=True) * reference
        w *= np.sqrt((1 - overlap**2) / np.mean(w**2, axis=-1, keepdims=True))
        return overlap * reference + w

    return log_share, draw, num_weights, problem.patterns, np.ones(len(problem.patterns))


def is_seen(
    log_share: float,
    draw: Callable[[np.random.Generator, int], np.ndarray],
    num_weights: int,
    x: np.ndarray,
    y: np.ndarray,
) -> bool:
    """Returns False if draws do not show the claimed share of error-free weights.

    Args:
      log_share: logarithm of the share.
      draw: `draw(rng, count)` makes committees, shape (count, K, N).
      num_weights: K N.
      x: patterns, shape (P, N).
      y: their labels, shape (P,).

    Returns:
      True as soon as one committee makes no errors, or if the share is too small for draws.
    """
    if not math.log(ENOUGH * num_weights) - log_share <= math.log(LARGEST):
        return True
    rng = np.random.default_rng(0)
    most, count = math.ceil(ENOUGH * math.exp(-log_share)), math.ceil(CHUNK / num_weights)
    starts = range(0, most, count)
    return any(_any_is_right(draw(rng, min(count, most - i)), x, y) for i in starts)


def _any_is_right(weights, x, y):
    """Returns whether any committee makes no errors; a field of 0 counts as positive."""
    for pattern, label in zip(x, y, strict=True):  # each leaves about half
        votes = np.where(weights @ pattern < 0, -1, 1).sum(axis=-1)
        weights = weights[votes * label > 0]
    return len(weights) > 0


def error_of_fields(fields: jax.Array) -> jax.Array:
    """Returns the fraction of wrongly classified patterns, from fields (K, P)."""
    votes = jnp.sum(jnp.where(fields > 0, 1, -1), axis=0)
    return jnp.mean(votes < 0)


def is_possible(phi: jax.Array, train_error: jax.Array, num_units: int) -> jax.Array:
    """Returns whether phi is possible, given the training error of the mean.

    The error-free weights of a single unit are a convex cone, so their mean is one of them.
    """
    return (phi < POSSIBLE) & ((num_units > 1) | (train_error == 0))


def entropy_per_weight(
    log_partition: jax.Array,
    norm_multiplier: jax.Array,
    overlap_multiplier: jax.Array,
    mean: jax.Array,
    overlap: jax.Array | None,
) -> jax.Array:
    r"""Computes Phi from the logarithm of the partition function with multipliers.

    .. math:: N K \Phi = \log Z + \sum_k \Big(\frac{\lambda_k N}{2} - \gamma_k p N\Big) - F_0, \quad
      F_0 = \frac{N K}{2} \big[\log 2 \pi + 1 + \log(1 - p^2)\big],

    :math:`F_0` is the value without data, by the same saddle point as F.
    """
    p = 0.0 if overlap is None else overlap
    constraints = jnp.mean(norm_multiplier / 2 - overlap_multiplier * p)
    return (
        log_partition / mean.size + constraints - (np.log(2 * np.pi) + 1 + jnp.log1p(-(p**2))) / 2
    )
