"""Statistics over seeds, shared by tables and pictures."""

import numpy as np
from numpy.typing import ArrayLike


def standard_error(values: ArrayLike) -> np.ndarray:
    """Standard error of the mean over the first axis; 0 for a single value.

    Examples:
      >>> float(standard_error([1.0, 3.0])), float(standard_error([5.0]))
      (1.0, 0.0)
    """
    values = np.asarray(values)
    if len(values) == 1:
        return np.zeros(values.shape[1:])
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))


def mean_and_sem(values: ArrayLike) -> tuple[float, float]:
    """Mean of some numbers and its standard error, to four decimals."""
    return round(float(np.mean(values)), 4), round(float(standard_error(values)), 4)


def holm(p_values: ArrayLike) -> np.ndarray:
    """P-values corrected for the number of tests, by Holm's step-down method.

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
