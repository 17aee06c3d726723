"""Test errors with less noise: the luck of a sample is that of the Hebb rule on it."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from flatjax import gaussian_mixture as gm


def paired_error(
    m: jax.Array, q: jax.Array, patterns: gm.Sample, mixture: Mapping[str, float]
) -> jax.Array:
    """Test error of a classifier, less that of the Hebb rule on the same sample, plus its mean.

    The Hebb rule's mean is known: 1e-2 / N from its limit where alpha = delta = 1. Without bias, of
    balanced classes.

    Args:
      m: overlap of the classifier with the signal.
      q: its squared norm over N.
      patterns: the sample that it was trained on.
      mixture: alpha, delta and rho.

    Returns:
      The error.
    """
    error = lambda m, q: gm.generalization_error(m, q, delta=mixture["delta"])
    rule = jnp.sqrt(patterns.signal.size) * jnp.mean(patterns.label[:, None] * patterns.x, axis=0)
    luck = error(*gm.overlaps(rule, patterns.signal)) - gm.hebb(**mixture).test_error
    return error(m, q) - luck


def limited(num_features: int, seeds: int, most: int) -> tuple[int, int]:
    """N, at most `most`, and the samples that make up for what it lacks, twice as many at most."""
    size = min(num_features, most)
    return size, min(seeds * num_features // size, 2 * seeds)
