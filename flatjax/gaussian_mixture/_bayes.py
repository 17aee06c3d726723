"""Estimators in closed form: Bayes-optimal, Hebb, centroid, oracle."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flatjax._float64 import in_float64
from flatjax.gaussian_mixture._checks import check_mixture
from flatjax.gaussian_mixture._mixture import classifier_error


class Estimator(NamedTuple):
    """Order parameters of a linear classifier.

    Attributes:
      m: overlap with the signal, w . v / N.
      q: squared norm, `|w|^2 / N`.
      bias: b.
      test_error: probability of an error on a fresh pattern.
    """

    m: jax.Array
    q: jax.Array
    bias: jax.Array
    test_error: jax.Array


def _estimator(m, q, bias, delta, rho):
    return Estimator(m, q, bias, classifier_error(m, q, bias, delta, rho))


def _log_odds(rho):
    return jnp.log(rho) - jnp.log1p(-rho)


@in_float64
def bayes_optimal(*, alpha: ArrayLike, delta: ArrayLike, rho: ArrayLike = 0.5) -> Estimator:
    r"""Computes the classifier of least error that alpha N patterns allow.

    Under a Gaussian prior the posterior mean of v is :math:`\hat v = \sum_\mu \sigma^\mu x^\mu /
    \sqrt{N} (\Delta + \alpha)`. It has the direction of the Hebb rule, with :math:`m = q = \alpha /
    (\alpha + \Delta)`. The predictive log-odds are linear in x. Hence the best classifier is a
    single point in weight space, with :math:`b = \frac{\Delta}{2} \log \frac{\rho}{1 - \rho}`.

    Args:
      alpha: patterns per feature.
      delta: variance of the noise.
      rho: probability of the class 1. Arrays of all three are broadcast.

    Returns:
      The estimator.

    Raises:
      ValueError: a parameter is out of its range.

    Examples:
      >>> round(float(bayes_optimal(alpha=1.0, delta=1.0).test_error), 5)
      0.23975

    See Also:
      `erm` (trained classifiers), `hebb` (the simplest one), `oracle` (the lowest error of all).
    """
    alpha, delta, rho = check_mixture(alpha=alpha, delta=delta, rho=rho).values()
    q = alpha / (alpha + delta) + 0 * rho
    return _estimator(q, q, delta / 2 * _log_odds(rho), delta, rho)


@in_float64
def hebb(
    *, alpha: ArrayLike, delta: ArrayLike, rho: ArrayLike = 0.5, fit_bias: bool = False
) -> Estimator:
    r"""Computes the Hebb rule, :math:`w = \sqrt{N} \sum_\mu \sigma^\mu x^\mu / n`.

    It has m = 1 and :math:`q = 1 + \Delta / \alpha`. With the bias of the log-odds,
    :math:`b = \frac{\Delta q}{2 m} \log \frac{\rho}{1 - \rho}`, it is Bayes-optimal. Without a bias
    it is Bayes-optimal if the classes are balanced.

    Args:
      alpha: patterns per feature.
      delta: variance of the noise.
      rho: probability of the class 1. Arrays of all three are broadcast.
      fit_bias: use the bias of the log-odds instead of none.

    Returns:
      The estimator.

    Raises:
      ValueError: a parameter is out of its range.

    Examples:
      >>> estimator = hebb(alpha=1.0, delta=1.0)
      >>> bool(abs(estimator.test_error - bayes_optimal(alpha=1.0, delta=1.0).test_error) < 1e-12)
      True

    See Also:
      `centroid` (with another bias), `bayes_optimal` (the best from data).
    """
    alpha, delta, rho = map(jnp.asarray, check_mixture(alpha=alpha, delta=delta, rho=rho).values())
    q = 1 + delta / alpha + 0 * rho
    bias = delta * q / 2 * _log_odds(rho) * fit_bias
    return _estimator(jnp.ones_like(q), q, bias, delta, rho)


@in_float64
def centroid(
    *, alpha: ArrayLike, delta: ArrayLike, rho: ArrayLike = 0.5, fit_bias: bool = False
) -> Estimator:
    r"""Computes the nearest centroid, from the class means.

    The weights are half the difference of the class means, :math:`w = \sqrt{N} (c_+ - c_-) / 2`,
    and the threshold is their midpoint. The order parameters are m = 1,
    :math:`q = 1 + \frac{\Delta}{4 \alpha} \big(\frac{1}{\rho} + \frac{1}{1 - \rho}\big)` and
    :math:`b = -\frac{\Delta}{4 \alpha} \big(\frac{1}{\rho} - \frac{1}{1 - \rho}\big)`. The rule
    does not use that the mixture is centered. It is Bayes-optimal only if the classes are balanced.

    Args:
      alpha: patterns per feature.
      delta: variance of the noise.
      rho: probability of the class 1. Arrays of all three are broadcast.
      fit_bias: add half the log-odds times delta to the bias.

    Returns:
      The estimator.

    Raises:
      ValueError: a parameter is out of its range.

    Examples:
      >>> round(float(centroid(alpha=5.0, delta=0.3, rho=0.1, fit_bias=True).test_error), 5)
      0.02423

    See Also:
      `hebb` (without a bias of its own), `bayes_optimal` (the best from data).
    """
    alpha, delta, rho = map(jnp.asarray, check_mixture(alpha=alpha, delta=delta, rho=rho).values())
    q = 1 + delta / (4 * alpha) * (1 / rho + 1 / (1 - rho))
    bias = -delta / (4 * alpha) * (1 / rho - 1 / (1 - rho)) + delta / 2 * _log_odds(rho) * fit_bias
    return _estimator(jnp.ones_like(q), q, bias, delta, rho)


@in_float64
def oracle(*, delta: ArrayLike, rho: ArrayLike = 0.5) -> Estimator:
    """Computes the best classifier with a known signal: the limit of infinite alpha.

    Args:
      delta: variance of the noise.
      rho: probability of the class 1. Arrays of both are broadcast.

    Returns:
      The estimator.

    Raises:
      ValueError: a parameter is out of its range.

    Examples:
      >>> round(float(oracle(delta=1.0).test_error), 5)
      0.15866

    See Also:
      `bayes_optimal` (from data).
    """
    delta, rho = check_mixture(delta=delta, rho=rho).values()
    one = jnp.ones_like(delta * rho)
    return _estimator(one, one, delta / 2 * _log_odds(rho), delta, rho)
