"""Direct sampling: energies of independent configurations."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import numpy as np


class Share(NamedTuple):
    """The share of S configurations up to a threshold energy, at D distances.

    Attributes:
      log_fraction: logarithm of the share, (D,); -inf if no configuration is low enough.
      log_fraction_sem: its standard error, from a binomial count; nan if there is no hit.
      hits: number of configurations that are low enough, (D,).
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
      key: random key. The same draws serve every distance.
      energies: (noise of shape (num_parallel, num_weights), distance) -> energies (num_parallel,).
      distances: (D,).
      num_weights: number of normal numbers in a configuration.
      num_samples: S.
      num_parallel: number of configurations that are evaluated together.

    Returns:
      The energies, (D, S). NaN energies become infinite.
    """
    chunks = []
    for start in range(0, num_samples, num_parallel):
        # One flat draw: XLA compiles it much faster than a draw of two axes.
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
