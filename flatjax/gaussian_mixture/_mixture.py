r"""A mixture of two Gaussians, and the error of linear classifiers on it.

.. math::
  x^\mu = \sigma^\mu v / \sqrt{N} + \sqrt{\Delta}\, z^\mu, \qquad
  P(\sigma = 1) = \rho, \quad \lVert v \rVert^2 = N, \quad z^\mu \sim \mathcal{N}(0, I_N). \tag{1}

There are :math:`n = \alpha N` patterns. A classifier predicts the sign of :math:`w \cdot x /
\sqrt{N} + b`. In high dimension its test error depends only on the overlaps :math:`m = w \cdot v /
N` and :math:`q = \lVert w \rVert^2 / N`, and on b.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from flatjax import _checks
from flatjax._float64 import in_float64
from flatjax._keys import as_key
from flatjax.gaussian_mixture._checks import check_mixture, check_numbers
from flatjax.gaussian_mixture._quadrature import upper_tail


class Sample(NamedTuple):
    """Patterns of the mixture.

    Attributes:
      x: patterns, shape (n, N).
      label: classes of the patterns, -1 or 1, shape (n,).
      signal: v, shape (N,), of squared norm N.
    """

    x: jax.Array
    label: jax.Array
    signal: jax.Array


def sample(
    key: chex.PRNGKey | int, num_features: int, *, alpha: float, delta: float, rho: float = 0.5
) -> Sample:
    """Draws n = round(alpha N) patterns of the mixture.

    Args:
      key: PRNG key or a seed.
      num_features: N.
      alpha: patterns per feature.
      delta: variance of the noise of each feature.
      rho: probability of the class 1.

    Returns:
      The patterns, in JAX's default precision.

    Raises:
      ValueError: a parameter is out of its range, or alpha N < 1/2, which gives no pattern.

    Examples:
      >>> patterns = sample(jax.random.key(0), 100, alpha=2.0, delta=1.0)
      >>> patterns.x.shape, patterns.label.shape
      ((200, 100), (200,))

    See Also:
      `simulate.minimise` (trains on it), `overlaps` (of a classifier with the centers).
    """
    check_mixture(alpha=alpha, delta=delta, rho=rho)
    _checks.check_count("num_features", num_features)
    num = round(float(alpha) * num_features)
    if num == 0:
        raise ValueError(
            f"alpha * num_features must give at least one pattern, got {alpha} * {num_features}."
        )
    signal_key, label_key, noise_key = jax.random.split(as_key("key", key), 3)
    signal = jax.random.normal(signal_key, (num_features,))
    signal *= np.sqrt(num_features) / jnp.linalg.norm(signal)
    label = jnp.where(jax.random.bernoulli(label_key, rho, (num,)), 1.0, -1.0)
    noise = jax.random.normal(noise_key, (num, num_features))
    x = label[:, None] * signal / np.sqrt(num_features) + np.sqrt(delta) * noise  # eq. (1)
    return Sample(x, label, signal)


def overlaps(weights: ArrayLike, signal: ArrayLike) -> tuple[jax.Array, jax.Array]:
    r"""Computes the overlap with the signal and the squared norm, both over N.

    .. math:: m = w \cdot v / N, \qquad q = \lVert w \rVert^2 / N \tag{2}

    Args:
      weights: w, shape (..., N).
      signal: v, shape (N,).

    Returns:
      m and q, shape (...,).

    Examples:
      >>> m, q = overlaps(jnp.array([2.0, 0.0]), jnp.array([1.0, 1.0]))
      >>> float(m), float(q)
      (1.0, 2.0)

    See Also:
      `generalization_error` (from the overlaps), `sample` (the data).
    """
    weights, signal = jnp.asarray(weights), jnp.asarray(signal)
    num_features = signal.shape[-1]
    return weights @ signal / num_features, jnp.sum(weights**2, axis=-1) / num_features  # eq. (2)


@in_float64
def generalization_error(
    m: ArrayLike, q: ArrayLike, bias: ArrayLike = 0.0, *, delta: ArrayLike, rho: ArrayLike = 0.5
) -> jax.Array:
    r"""Computes the exact test error of a linear classifier, for any N.

    .. math::
      \epsilon = \rho H\Big(\frac{m + b}{\sqrt{\Delta q}}\Big)
        + (1 - \rho) H\Big(\frac{m - b}{\sqrt{\Delta q}}\Big), \qquad
      H(x) = P(\mathcal{N}(0, 1) > x) \tag{3}

    Args:
      m: overlap with the signal.
      q: squared norm over N; not negative. NaN gives NaN.
      bias: b.
      delta: variance of the noise.
      rho: probability of the class 1.

    Returns:
      The error, in [0, 1], with the broadcast shape of the arguments.

    Raises:
      ValueError: a parameter is out of its range.

    Examples:
      >>> round(float(generalization_error(0.5, 0.5, delta=1.0)), 5)
      0.23975

    See Also:
      `overlaps` (of a classifier with the centers), `erm` (computes both).
    """
    check_mixture(delta=delta, rho=rho)
    check_numbers("q", q, lambda values: ~(values < 0), ">= 0")
    return classifier_error(m, q, bias, delta, rho)


def classifier_error(m, q, bias, delta, rho):
    """Computes `generalization_error` inside a solver, without checks."""
    scale = jnp.sqrt(delta * q)  # of eq. (3)
    return rho * upper_tail((m + bias) / scale) + (1 - rho) * upper_tail((m - bias) / scale)
