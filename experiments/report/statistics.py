"""Statistics over seeds, shared by tables and pictures."""

import math
from collections.abc import Sequence

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

# With fewer solutions, even a perfect ranking occurs by chance in more than 5% of all cases.
# Kendall's tau is then not shown.
LEAST_FOR_TAU = 5


def standard_error(values: ArrayLike) -> np.ndarray:
    """Computes the standard error of the mean over the first axis; 0 for one value.

    Examples:
      >>> float(standard_error([1.0, 3.0])), float(standard_error([5.0]))
      (1.0, 0.0)
    """
    values = np.asarray(values)
    if len(values) == 1:
        return np.zeros(values.shape[1:])
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))


def rounded(value: ArrayLike) -> float | None:
    """Rounds a number to six digits for JSON; None for what is no finite number.

    Examples:
      >>> rounded(1 / 3), rounded(np.inf)
      (0.333333, None)
    """
    number = float(np.asarray(value))
    return float(f"{number:.6g}") if np.isfinite(number) else None


def or_nan(value: float | None) -> float:
    """Reads what `rounded` wrote: NaN for None.

    Examples:
      >>> or_nan(0.5), or_nan(None)
      (0.5, nan)
    """
    return np.nan if value is None else value


def mean_and_sem(values: ArrayLike) -> tuple[float, float]:
    """Computes the mean of some numbers and its standard error, to four decimals."""
    return round(float(np.mean(values)), 4), round(float(standard_error(values)), 4)


def with_error(mean: float, sem: float, count: int, *, sign: str = "", digits: int = 2) -> str:
    """Formats a mean and its standard error; a single value has no error.

    Args:
      mean: the mean.
      sem: standard error of the mean.
      count: number of averaged values.
      sign: "+" also shows the sign of positive means.
      digits: digits after the point.

    Examples:
      >>> with_error(2.0, 0.25, 5), with_error(2.0, 0.0, 1)
      ('2.00 ± 0.25', '2.00')
    """
    shown = f"{mean:{sign}.{digits}f}"
    return f"{shown} ± {sem:.{digits}f}" if count > 1 else shown


def with_sem(pair: Sequence[float] | None, digits: int = 2) -> str:
    """Formats a mean of several values and its standard error; empty if None.

    Examples:
      >>> with_sem((2.0, 0.25)), with_sem(None)
      ('2.00 ± 0.25', '')
    """
    return "" if pair is None else with_error(*pair, count=2, digits=digits)


def with_interval(value: float, interval: Sequence[float], digits: int = 2) -> str:
    """Formats a difference or a coefficient with its interval, all with their signs.

    Examples:
      >>> with_interval(0.5, (-0.25, 1.25))
      '+0.50 [-0.25, +1.25]'
    """
    low, high = interval
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def paired_difference(
    values: ArrayLike, baseline: ArrayLike, confidence: float = 0.95
) -> tuple[float, list[float], float]:
    """Computes the mean difference of pairs, its interval and p-value (Student's t).

    If all differences are equal, the interval has no width; p is then 1 if they are 0, else 0.

    Examples:
      >>> mean, interval, p = paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
      >>> mean, [round(end, 2) for end in interval], round(p, 3)
      (2.0, [-0.48, 4.48], 0.074)
    """
    differences = np.round(np.subtract(values, baseline), 9)
    mean = float(differences.mean())
    if np.ptp(differences) == 0:
        return mean, [mean, mean], float(mean == 0)
    test = scipy.stats.ttest_1samp(differences, 0)
    return mean, [float(end) for end in test.confidence_interval(confidence)], float(test.pvalue)


def p_below(values: ArrayLike, baseline: ArrayLike, margin: float) -> float:
    """Tests whether a mean difference is below a margin (paired, one-sided).

    Args:
      values: one outcome of each seed.
      baseline: the same of the seeds of a reference.
      margin: the largest difference that is tolerated.

    Returns:
      The p-value of the hypothesis that the mean difference is `margin` or more.

    Examples:
      >>> round(p_below([2.0, 4.0, 3.0, 5.0], [2.1, 3.9, 3.0, 5.1], 0.3), 3)
      0.003
    """
    differences = np.round(np.subtract(values, baseline), 9)
    if np.ptp(differences) == 0:
        return float(differences[0] >= margin)
    return float(scipy.stats.ttest_1samp(differences, margin, alternative="less").pvalue)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Corrects p-values for the number of tests, by Holm's step-down method.

    Examples:
      >>> holm([0.01, 0.04, 0.02]).round(3).tolist()
      [0.03, 0.04, 0.04]
    """
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values)
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty_like(scaled)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return corrected


def holm_levels(p_values: ArrayLike, level: float = 0.05) -> np.ndarray:
    """Returns the levels at which intervals exclude 0 if Holm's method rejects.

    A rejected hypothesis has the level at which it was rejected. The others have the level at which
    the method stopped.

    Examples:
      >>> holm_levels([0.01, 0.04, 0.03]).round(4).tolist()
      [0.0167, 0.025, 0.025]
    """
    p_values = np.asarray(p_values, dtype=float)
    steps = level / np.arange(len(p_values), 0, -1)
    order = np.argsort(p_values)
    accepted = np.append(p_values[order] > steps, True)
    levels = np.empty_like(p_values)
    stop = min(int(np.argmax(accepted)), len(p_values) - 1)
    levels[order] = np.minimum(steps, steps[stop])
    return levels


def least_detectable(differences: ArrayLike, level: float) -> float:
    """Estimates the mean difference that a paired t-test finds with a power of 0.8.

    Examples:
      >>> round(least_detectable([-1.0, 1.0] * 10, 0.05), 2)
      0.68
    """
    differences = np.asarray(differences)
    freedom = len(differences) - 1
    quantiles = scipy.stats.t.ppf([1 - level / 2, 0.8], freedom).sum()
    return float(quantiles * standard_error(differences))


def expected_best(values: ArrayLike, number: int) -> float:
    """Computes the mean of the least of `number` values, drawn without replacement.

    The i-th least of N values is the least of n drawn ones in C(N - i, n - 1) of C(N, n) draws.

    Examples:
      >>> expected_best([1.0, 2.0, 6.0], 1), round(expected_best([1.0, 2.0, 6.0], 2), 3)
      (3.0, 1.333)
    """
    values = np.sort(np.asarray(values, float))
    total = len(values)
    ways = [math.comb(total - i, number - 1) for i in range(1, total + 1)]
    return float(np.dot(ways, values) / math.comb(total, number))
