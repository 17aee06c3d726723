r"""Separability and largest margin of a sample of the mixture.

Let :math:`\lVert w \rVert^2 = N`, with overlap m and bias b. All margins can be above
:math:`\kappa` if and only if

.. math::
  \alpha\, \mathbb{E} \big(\kappa - m - \sigma b - \sqrt{\Delta}\, g\big)_+^2 \le \Delta (1 - m^2).
  \tag{1}
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flatjax._float64 import in_float64, vectorized
from flatjax.gaussian_mixture._checks import check_mixture
from flatjax.gaussian_mixture._fixed_point import fixed_point
from flatjax.gaussian_mixture._mixture import classifier_error
from flatjax.gaussian_mixture._quadrature import log_density, upper_tail


class MaxMargin(NamedTuple):
    """The separating hyperplane of largest margin.

    If there is none, all fields except the last two are NaN.

    Attributes:
      margin: kappa, the least margin of the training patterns, for weights of squared norm N.
      m: overlap with the signal.
      bias: b.
      test_error: probability of an error on a fresh pattern.
      residual: residual of the equations.
      converged: whether there is a solution; there is none if the sample is not separable.
    """

    margin: jax.Array
    m: jax.Array
    bias: jax.Array
    test_error: jax.Array
    residual: jax.Array
    converged: jax.Array


def max_margin(*, alpha: ArrayLike, delta: ArrayLike, rho: ArrayLike = 0.5) -> MaxMargin:
    r"""Computes the largest margin that separates a sample of alpha N patterns.

    The minima of the hinge, the logistic and similar losses tend to it as the ridge vanishes.

    Args:
      alpha: patterns per feature.
      delta: variance of the noise.
      rho: probability of the class 1. Arrays of all three are broadcast.

    Returns:
      The margin; NaN and not converged if alpha is above `separability_threshold`.

    Raises:
      ValueError: a parameter is out of its range.

    Examples:
      >>> round(float(max_margin(alpha=1.0, delta=1.0).test_error), 4)
      0.2983

    See Also:
      `separability_threshold` (where it exists), `erm` (with a regularisation).
    """
    return in_float64(_max_margin)(check_mixture(alpha=alpha, delta=delta, rho=rho))


def separability_threshold(*, delta: ArrayLike, rho: ArrayLike = 0.5) -> jax.Array:
    r"""Computes the largest alpha at which a large sample is separable.

    .. math::
      \frac{1}{\alpha_c} = \min_{m, b}
        \frac{\mathbb{E} (m + \sigma b + \sqrt{\Delta} g)_-^2}{\Delta (1 - m^2)}. \tag{2}

    It falls to 2 [Cover, 1965] as the noise grows.

    Args:
      delta: variance of the noise.
      rho: probability of the class 1. Arrays of both are broadcast.

    Returns:
      alpha_c; NaN if the equations could not be solved.

    Raises:
      ValueError: a parameter is out of its range.

    Examples:
      >>> round(float(separability_threshold(delta=1e4)), 2)
      2.0

    See Also:
      `max_margin` (the margin of separable data).
    """
    return in_float64(_separability_threshold)(check_mixture(delta=delta, rho=rho))


@jax.jit
def _max_margin(params):
    return vectorized(_max_margin_point)(**params)


@jax.jit
def _separability_threshold(params):
    return vectorized(_threshold_point)(**params)


def _violation(kappa, m, bias, delta, rho):
    """Averages (k)_+^2, (k)_+, P(k > 0) and sigma (k)_+ over the classes.

    Here k is the argument of ( )_+ in eq. (1).
    """
    of_class = lambda sigma: _positive_part(kappa - m - sigma * bias, jnp.sqrt(delta))
    positive, negative = of_class(1.0), of_class(-1.0)
    both = [rho * p + (1 - rho) * n for p, n in zip(positive, negative, strict=True)]
    return *both, rho * positive[1] - (1 - rho) * negative[1]


def _positive_part(mean, scale):
    """Computes E x_+^2, E x_+ and P(x > 0) for a normal number x."""
    t = mean / scale
    probability, density = upper_tail(-t), jnp.exp(log_density(t))
    first = scale * (t * probability + density)
    return scale**2 * ((1 + t**2) * probability + t * density), first, probability


def _max_margin_point(*, alpha, delta, rho) -> MaxMargin:
    def update(x):
        m, bias, kappa = jnp.tanh(x[0]), x[1], x[2]
        squared, first, probability, signed = _violation(kappa, m, bias, delta, rho)
        excess = alpha * squared - delta * (1 - m**2)  # eq. (1)
        return jnp.stack(
            [
                x[0] + (alpha * first - delta * m) / (delta + alpha * probability),
                bias + signed / probability,
                kappa - excess / (2 * alpha * first),
            ]
        )

    found = fixed_point(update, jnp.array([0.5, 0.0, 0.0]), max_steps=2000)
    m, bias, kappa = jnp.tanh(found.x[0]), found.x[1], found.x[2]
    # Beyond the threshold the equations have meaningless solutions of negative margin.
    converged = found.converged & (kappa > 0)
    values = (kappa, m, bias, classifier_error(m, 1.0, bias, delta, rho))
    shown = [jnp.where(converged, value, jnp.nan) for value in values]
    return MaxMargin._make([*shown, found.residual, converged])


def _threshold_point(*, delta, rho):
    def update(x):
        m, bias = jnp.tanh(x[0]), x[1]
        squared, first, probability, signed = _violation(0.0, m, bias, delta, rho)
        alpha = delta * (1 - m**2) / squared
        return jnp.stack(
            [
                x[0] + (alpha * first - delta * m) / (delta + alpha * probability),
                bias + signed / probability,
            ]
        )

    found = fixed_point(update, jnp.array([0.5, 0.0]), max_steps=2000)
    m, bias = jnp.tanh(found.x[0]), found.x[1]
    alpha = delta * (1 - m**2) / _violation(0.0, m, bias, delta, rho)[0]  # eq. (2)
    return jnp.where(found.converged, alpha, jnp.nan)
