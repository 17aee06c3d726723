"""Convergence of Markov chains, and their number of independent draws.

A series is an array (chains, draws, ...): the values of a quantity at each draw of several chains.
"""

from typing import Any, TypeVar

import jax
import numpy as np

# The limits in `has_converged`.
MOST_R_HAT, LEAST_ESS, LEAST_EXCHANGE, LEAST_SHARE_BELOW = 1.05, 100, 0.05, 0.01

Array = TypeVar("Array", np.ndarray, jax.Array)


def split_r_hat(series: Array) -> Array:
    r"""Gelman and Rubin's :math:`\hat R` of half chains [Vehtari et al., 2021, eq. 4].

    Args:
      series: (chains, draws, ...), an array of NumPy or JAX; the function may be jitted.

    Returns:
      Shape (...). 1 if the halves agree (also if nothing varies), inf if each half is constant but
      the halves differ, nan if a draw is infinite or nan.
    """
    xp: Any = series.__array_namespace__()
    half = series.shape[1] // 2
    series = _finite(series)
    halves = xp.concatenate([series[:, :half], series[:, -half:]])
    within = halves.var(axis=1, ddof=1).mean(axis=0)
    between = halves.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        r_hat = xp.sqrt((half - 1) / half + between / within)
    frozen = _is_constant(halves, axis=1).all(axis=0)
    alike = _is_constant(halves, axis=(0, 1))
    return xp.where(frozen, xp.where(alike, 1.0, xp.inf), r_hat)


def effective_sample_size(series: np.ndarray) -> np.ndarray:
    r"""Computes the number of independent draws that all chains are worth.

    The autocorrelation combines the one within chains with the spread between chains. It is summed
    over Geyer's initial monotone sequence [Vehtari et al., 2021, eq. 10-13].

    Args:
      series: (chains, draws, ...).

    Returns:
      Shape (...); the number of draws if nothing varies, nan if a draw is infinite.
    """
    chains, draws = series.shape[:2]
    series = _finite(series)
    centered = series - series.mean(axis=1, keepdims=True)
    # Padding with zeros keeps the two ends of a chain apart.
    spectrum = np.abs(np.fft.rfft(centered, n=2 * draws, axis=1)) ** 2
    covariance = np.fft.irfft(spectrum, axis=1)[:, :draws].mean(axis=0) / draws
    within = covariance[0] * draws / (draws - 1)
    between = series.mean(axis=1).var(axis=0, ddof=1) if chains > 1 else 0.0
    total = covariance[0] + between
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = 1 - (within - covariance) / total
    correlation[0] = 1.0
    # In theory, sums of neighbours are positive and decrease with the lag.
    pairs = correlation[: draws // 2 * 2].reshape(draws // 2, 2, *correlation.shape[1:]).sum(axis=1)
    positive = np.cumprod(pairs > 0, axis=0)
    time = -1 + 2 * np.sum(np.minimum.accumulate(pairs, axis=0) * positive, axis=0)
    # Larger estimates, as from strongly anticorrelated chains, are not trusted.
    time = np.maximum(time, 1 / np.log10(max(chains * draws, 11)))
    alike = _is_constant(series, axis=(0, 1))
    return np.where(alike, float(chains * draws), chains * draws / time)


def has_converged(
    r_hat: np.ndarray,
    ess: np.ndarray,
    exchange: np.ndarray,
    share_below: np.ndarray | float | None = None,
) -> np.ndarray:
    """Whether chains at K inverse temperatures with exchanges agree and mix.

    Args:
      r_hat: (..., K), where "..." is any shape. The first rung, at beta = 0, is ignored: its draws
        are independent.
      ess: number of independent samples, (..., K); the first rung is ignored here, too.
      exchange: rate of exchanges between neighbours, (..., K - 1).
      share_below: share of the last rung's samples with low enough energy, (...), or None.

    Returns:
      Shape (...).
    """
    good = (r_hat[..., 1:] <= MOST_R_HAT).all(axis=-1)
    good &= (ess[..., 1:] >= LEAST_ESS).all(axis=-1)
    good &= (exchange >= LEAST_EXCHANGE).all(axis=-1)
    if share_below is not None:
        good &= np.asarray(share_below) >= LEAST_SHARE_BELOW
    return np.asarray(good)


def _is_constant(series, axis):
    """Whether all draws are equal; a variance may be a rounding error."""
    return series.min(axis=axis) == series.max(axis=axis)


def _finite(series):
    """Replaces infinite draws by nan, for which arithmetic gives no warning."""
    xp = series.__array_namespace__()
    return xp.where(xp.isinf(series), xp.nan, series)
