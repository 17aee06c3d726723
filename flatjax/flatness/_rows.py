r"""One number of a report: its value, its standard error, and what two of them have in common.

Each number comes with U *units* of which it is a mean: draws of the noise, random vectors, chains,
or batches of the data. With values :math:`u_i` and weights :math:`m_i` (1, or the share of the
examples that a batch has),

.. math::
  \bar u = \frac{\sum_i u_i}{\sum_i m_i}, \qquad
  \mathrm{se}^2 = \frac{1}{U (U - 1)} \sum_i (u_i - \bar u)^2 \quad \text{(weights 1)} \tag{1}

For batches, the standard error is that of the bootstrap: batches are drawn U times with
replacement, and the standard deviation of the weighted mean over many such samples is multiplied by
:math:`\sqrt{U / (U - 1)}`, which makes it (1) where weights are equal. (2)

Two solutions that were measured with the same units are compared unit by unit: the standard error
of the difference is that of the mean of :math:`u_i^{(1)} - u_i^{(2)}`. Intervals are those of
Student's t with U - 1 degrees of freedom.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from flatjax.flatness import _tables

NUM_BOOTSTRAP = 2000
SOURCES = ("draws", "random vectors", "chains", "batches")


class Row(NamedTuple):
    """A number of a report.

    Attributes:
      measure: its name, such as `"local_energy"`.
      block: the block of weights that moved.
      label: what the number is, for tables.
      setting: at which strength, radius, number of bits.
      value: the number.
      sem: its standard error; NaN where there is none.
      source: what the standard error is over: draws, random vectors, chains or batches.
      units: of which the number is a mean, shape (U,).
      weights: of the units, shape (U,), of sum 1.
      larger_is_sharper: False for tolerated noise.
      note: what speaks against the number.
    """

    measure: str
    block: str
    label: str
    setting: str
    value: float
    sem: float
    source: str
    units: np.ndarray
    weights: np.ndarray
    larger_is_sharper: bool = True
    note: str = ""

    @property
    def name(self) -> tuple[str, str, str]:
        """What tells the number from others of its block."""
        return self.measure, self.label, self.setting

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The interval of Student's t; NaN where there is no standard error."""
        return interval(self.value, self.sem, len(self.units), confidence)

    def shown(self) -> str:
        """The number with its standard error, marked if there is a note."""
        return _tables.with_error(self.value, self.sem) + (" *" if self.note else "")


def row(
    measure: str,
    block: str,
    label: str,
    setting: str,
    value: Any,
    source: str,
    units: Any,
    weights: Any = None,
    **options: Any,
) -> Row:
    """A number whose standard error is that of its units, eq. (1) or the bootstrap.

    Args:
      measure: see `Row`.
      block: see `Row`.
      label: see `Row`.
      setting: see `Row`.
      value: see `Row`.
      source: one of `SOURCES`.
      units: (U,); for batches, their contributions to the mean.
      weights: shares of the examples that batches have; equal by default.
      **options: other attributes.
    """
    units = np.asarray(units, float)
    weights = np.full(len(units), 1 / max(len(units), 1)) if weights is None else weights
    weights = np.asarray(weights, float)
    sem = standard_error(units, weights, source)
    found = measure, block, label, setting, float(value), sem, source, units, weights
    return Row(*found, **options)


def standard_error(units: np.ndarray, weights: np.ndarray, source: str) -> float:
    """The standard error of a mean of units; NaN for fewer than two."""
    num = len(units)
    if num < 2 or not np.isfinite(units).all():
        return np.nan
    if source != "batches":
        return float(units.std(ddof=1) / np.sqrt(num))
    means = bootstrap_sums(units) / bootstrap_sums(weights)
    return float(means.std() * np.sqrt(num / (num - 1)))


def bootstrap_sums(values: np.ndarray) -> np.ndarray:
    """Sums over batches that are drawn with replacement: the same draws for the same U."""
    num, rng = len(values), np.random.default_rng(0)
    # In parts, since 2,000 rows of 10,000 batches would be 160 MB.
    parts = (
        rng.multinomial(num, np.full(num, 1 / num), size=100) for _ in range(NUM_BOOTSTRAP // 100)
    )
    return np.concatenate([draws @ values for draws in parts])


def interval(value: float, sem: float, num: int, confidence: float) -> tuple[float, float]:
    """The interval of Student's t around a mean of `num` units."""
    if num < 2:
        return np.nan, np.nan
    half = scipy.stats.t.ppf((1 + confidence) / 2, num - 1) * sem
    return float(value - half), float(value + half)


def difference(first: Row, second: Row) -> tuple[float, float]:
    """The first number minus the second, and its standard error, unit by unit."""
    value = first.value - second.value
    if first.units.shape != second.units.shape or len(first.units) < 2:
        return value, np.nan
    weights = (first.weights + second.weights) / 2
    return value, standard_error(first.units - second.units, weights, first.source)
