"""Have Markov chains converged, and how many independent draws are they worth?"""

import numpy as np


def split_r_hat(series: np.ndarray) -> np.ndarray:
    r"""Gelman and Rubin's :math:`\hat R` of chains cut in halves [Vehtari et al., 2021, eq. 4].

    Args:
      series: (chains, draws, ...).

    Returns:
      Shape (...): 1 where the halves agree (also where nothing varies), inf where they are constant
      and differ, nan where a draw is infinite.
    """
    half = series.shape[1] // 2
    series = _finite(series)
    halves = np.concatenate([series[:, :half], series[:, -half:]])
    within = halves.var(axis=1, ddof=1).mean(axis=0)
    between = halves.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        r_hat = np.sqrt((half - 1) / half + between / within)
    return np.where(between + within == 0, 1.0, r_hat)


def effective_sample_size(series: np.ndarray) -> np.ndarray:
    r"""Number of independent draws with the same error of the mean, of all chains together.

    The autocorrelation combines those within chains with the spread between them, and is summed
    over Geyer's initial monotone sequence [Vehtari et al., 2021, eq. 10-13].

    Args:
      series: (chains, draws, ...).

    Returns:
      Shape (...); all draws where nothing varies, nan where one is infinite.
    """
    chains, draws = series.shape[:2]
    series = _finite(series)
    centered = series - series.mean(axis=1, keepdims=True)
    # Padded with zeros, so that the ends of a chain do not meet.
    spectrum = np.abs(np.fft.rfft(centered, n=2 * draws, axis=1)) ** 2
    covariance = np.fft.irfft(spectrum, axis=1)[:, :draws].mean(axis=0) / draws
    within = covariance[0] * draws / (draws - 1)
    between = series.mean(axis=1).var(axis=0, ddof=1) if chains > 1 else 0.0
    total = covariance[0] + between
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = 1 - (within - covariance) / total
    correlation[0] = 1.0
    # Sums of neighbours are positive and decrease with the lag, but for noise.
    pairs = correlation[: draws // 2 * 2].reshape(draws // 2, 2, *correlation.shape[1:]).sum(axis=1)
    positive = np.cumprod(pairs > 0, axis=0)
    time = -1 + 2 * np.sum(np.minimum.accumulate(pairs, axis=0) * positive, axis=0)
    # At most as for anticorrelated chains: the estimate is not trusted beyond.
    time = np.maximum(time, 1 / np.log10(max(chains * draws, 11)))
    return np.where(total == 0, float(chains * draws), chains * draws / time)


def _finite(series):
    """Infinite draws as nan, which arithmetic passes on without a warning."""
    return np.where(np.isinf(series), np.nan, series)
