"""Errors of committees, and numbers for their records."""

import jax
import numpy as np
from numpy.typing import ArrayLike

from experiments.studies.committee.task import Patterns
from flatjax import committee


def error_of(weights: jax.Array, patterns: Patterns) -> float:
    """Computes the fraction of patterns that a committee classifies wrongly."""
    return float(committee.error(weights, patterns.x, patterns.y))


def eval_fn(weights: jax.Array, patterns: Patterns) -> dict[str, jax.Array | int]:
    """Counts the errors of a committee, for measures of flatness."""
    wrong = committee.error(weights, patterns.x, patterns.y)
    return {"error": wrong * len(patterns.y), "count": len(patterns.y)}


def unit_overlap(weights: jax.Array) -> float:
    """Computes the mean of w_k . w_l / N over pairs of units; 1 if all are equal."""
    overlaps = np.asarray(weights @ weights.T) / weights.shape[1]
    pairs = overlaps[np.triu_indices(len(weights), 1)]
    return float(pairs.mean()) if pairs.size else 1.0


def floats(values: ArrayLike) -> list[float | None]:
    """Converts numbers for JSON, which has no NaN."""
    return [float(value) if np.isfinite(value) else None for value in np.ravel(values)]
