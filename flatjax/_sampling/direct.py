"""Direct sampling: energies of independent configurations, and the share of them that is low."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import numpy as np


class Share(NamedTuple):
    """The share of S configurations at or below a threshold, at D distances.

    Attributes:
      log_fraction: its logarithm, (D,); -inf where there is none.
      log_fraction_sem: the standard error, of a binomial count; nan where there is none.
      hits: the number of those configurations, (D,).
    """

    log_fraction: np.ndarray
    log_fraction_sem: np.ndarray
    hits: np.ndarray


def draw_energies(
    key: chex.PRNGKey,
    energies: Callable[[jax.Array, float], jax.Array],
    *,
    distances: np.ndarray,
    num_weights: int,
    num_samples: int,
    num_parallel: int,
) -> np.ndarray:
    """Draws configurations, and evaluates their energies at several distances.

    Args:
      key: PRNG key. The same draws serve every distance.
      energies: (noise of shape (num_parallel, num_weights), distance) -> energies (num_parallel,).
      distances: (D,).
      num_weights: how many normal numbers make a configuration.
      num_samples: S.
      num_parallel: how many configurations are evaluated together.

    Returns:
      The energies, (D, S), infinite where they are NaN.
    """
    chunks = []
    for start in range(0, num_samples, num_parallel):
        # One flat draw, which XLA compiles much faster than one of two axes.
        flat = jax.random.normal(jax.random.fold_in(key, start), (num_parallel * num_weights,))
        noise = flat.reshape(num_parallel, num_weights)
        chunks.append([energies(noise, distance) for distance in distances])
    energy = np.concatenate(jax.device_get(chunks), axis=-1)[:, :num_samples].astype(float)
    return np.where(np.isnan(energy), np.inf, energy)


def share_below(energy: np.ndarray, threshold: float) -> Share:
    """Counts the energies (D, S) that are at most the threshold."""
    num_samples = energy.shape[-1]
    hits = np.sum(energy <= threshold, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_fraction = np.log(hits / num_samples)
        sem = np.where(hits > 0, np.sqrt(1 / hits - 1 / num_samples), np.nan)
    return Share(log_fraction, sem, hits)
