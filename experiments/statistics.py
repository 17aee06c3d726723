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
