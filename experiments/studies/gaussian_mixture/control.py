"""Control variates: subtracting the Hebb rule's errors reduces noise."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from flatjax import gaussian_mixture as gm


def paired_error(
    m: jax.Array, q: jax.Array, patterns: gm.Sample, mixture: Mapping[str, float]
) -> jax.Array:
    """Returns a test error minus the Hebb rule's on the same sample, plus its mean.

    The Hebb rule's mean is known: at alpha = delta = 1 it is 1e-2 / N from its limit. This holds
    without bias and for balanced classes.

    Args:
      m: overlap of the classifier with the signal.
      q: squared norm of the classifier divided by N.
      patterns: training sample of the classifier.
      mixture: alpha, delta and rho.

    Returns:
      The error.
    """
    error = lambda m, q: gm.generalization_error(m, q, delta=mixture["delta"])
    rule = jnp.sqrt(patterns.signal.size) * jnp.mean(patterns.label[:, None] * patterns.x, axis=0)
    luck = error(*gm.overlaps(rule, patterns.signal)) - gm.hebb(**mixture).test_error
    return error(m, q) - luck


def limited(num_features: int, seeds: int, most: int) -> tuple[int, int]:
    """Limits N to `most`, and returns up to twice as many samples in exchange."""
    size = min(num_features, most)
    return size, min(seeds * num_features // size, 2 * seeds)
