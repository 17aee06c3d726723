"""What message passing returns, and when that is a result.

Message passing is exact for many independent inputs. Of few inputs it may converge to a share of
error-free weights where there are none, which no equation of its own tells. A share that is large
enough is therefore tested by drawing weights, see `is_seen`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flatjax._float64 import in_float64
from flatjax.committee._checks import Problem, check_iteration

POSSIBLE = 1e-9  # phi is at most 0; rounding may exceed it by this much
ENOUGH = 20  # expected hits; without any, a share is as large as was claimed with chance e^-20
LARGEST = 2e7  # numbers drawn to test a share, if there is no hit: half a second
CHUNK = 2e5  # numbers that are drawn at a time


class Marginals(NamedTuple):
    """What message passing says about error-free weights, at points of shape S.

    Numbers where `converged` is false are those of the last iteration, not results.

    Attributes:
      mean: of the weights, shape `(*S, K, N)`; its norm is below sqrt(N).
      variance: of each weight, shape `(*S, K, N)`.
      phi: logarithm of the share of error-free weights, over N K; 0 without data. NaN where there
        are none because two patterns exclude each other.
      train_error: fraction of patterns that the mean weights classify wrongly.
      iterations: how many were made.
      residual: what `tolerance` is compared with.
      converged: whether it is below, and phi possible. A single unit has error-free weights then:
        the mean is one of them. Of more units it is no proof. But where phi claims a share of
        error-free weights that can be seen in 2e7 / (N K) draws, weights are drawn, and one without
        errors was among them.
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
      problem: what it is run on.
      damping: share of the old messages that is kept.
      max_iterations: after which iteration is given up.
      tolerance: largest residual of a result.

    Returns:
      The points as they were asked for; no volume where two patterns exclude each other.

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
    """The arguments of `is_seen` at a point."""
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
    """False if a share of error-free weights is claimed that draws do not show.

    Args:
      log_share: logarithm of the share.
      draw: `draw(rng, count)` makes committees, shape (count, K, N).
      num_weights: K N.
      x: patterns, shape (P, N).
      y: their labels, shape (P,).

    Returns:
      True as soon as one makes no errors, and where the share is too small for draws.
    """
    if not math.log(ENOUGH * num_weights) - log_share <= math.log(LARGEST):
        return True
    rng = np.random.default_rng(0)
    most, count = math.ceil(ENOUGH * math.exp(-log_share)), math.ceil(CHUNK / num_weights)
    starts = range(0, most, count)
    return any(_any_is_right(draw(rng, min(count, most - i)), x, y) for i in starts)


def _any_is_right(weights, x, y):
    """Whether a committee makes no errors; a field of 0 counts as positive."""
    for pattern, label in zip(x, y, strict=True):  # each leaves about half of them
        votes = np.where(weights @ pattern < 0, -1, 1).sum(axis=-1)
        weights = weights[votes * label > 0]
    return len(weights) > 0


def error_of_fields(fields: jax.Array) -> jax.Array:
    """Fraction of the patterns that a committee of these fields (K, P) classifies wrongly."""
    votes = jnp.sum(jnp.where(fields > 0, 1, -1), axis=0)
    return jnp.mean(votes < 0)


def is_possible(phi: jax.Array, train_error: jax.Array, num_units: int) -> jax.Array:
    """Whether there may be such an entropy, around a mean with such an error.

    The error-free weights of a single unit are a convex cone, which holds their mean.
    """
    return (phi < POSSIBLE) & ((num_units > 1) | (train_error == 0))


def entropy_per_weight(
    log_partition: jax.Array,
    norm_multiplier: jax.Array,
    overlap_multiplier: jax.Array,
    mean: jax.Array,
    overlap: jax.Array | None,
) -> jax.Array:
    r"""Phi, of the logarithm of the partition function with the multipliers of the constraints.

    .. math:: N K \Phi = \log Z + \sum_k \Big(\frac{\lambda_k N}{2} - \gamma_k p N\Big) - F_0, \quad
      F_0 = \frac{N K}{2} \big[\log 2 \pi + 1 + \log(1 - p^2)\big],

    :math:`F_0` being the same for no data, by the same saddle point as F.
    """
    p = 0.0 if overlap is None else overlap
    constraints = jnp.mean(norm_multiplier / 2 - overlap_multiplier * p)
    return (
        log_partition / mean.size + constraints - (np.log(2 * np.pi) + 1 + jnp.log1p(-(p**2))) / 2
    )
