r"""One number of a report: its value, its standard error, differences.

Each number is a mean over U *units*: draws of the noise, random vectors, chains, or batches of the
data. With the units' values :math:`u_i` and weights :math:`m_i` (1, or a batch's share of the
examples), the mean and its standard error are

.. math::
  \bar u = \frac{\sum_i u_i}{\sum_i m_i}, \qquad
  \mathrm{se}^2 = \frac{1}{U (U - 1)} \sum_i (u_i - \bar u)^2 \quad \text{(weights 1)} \tag{1}

For batches, the standard error comes from the bootstrap. U batches are drawn with replacement many
times, and the weighted mean of each sample is computed. The standard deviation of these means is
multiplied by :math:`\sqrt{U / (U - 1)}`, so that it equals (1) for equal weights. (2)

Two solutions that were measured with the same units are compared unit by unit: the standard error
is computed from the differences :math:`u_i^{(1)} - u_i^{(2)}`. Intervals are those of Student's t
with U - 1 degrees of freedom.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.special

from flatjax.flatness import _tables

NUM_BOOTSTRAP = 2000


class Row(NamedTuple):
    """A number of a report.

    Attributes:
      measure: name of the measure, such as `"local_energy"`.
      block: the block of weights that moved.
      label: name of the number, for tables.
      setting: strength, radius or number of bits.
      value: the number.
      sem: standard error of the number; NaN if there is none.
      source: kind of units over which the standard error is computed: draws, random vectors, chains
        or batches.
      units: values of the units, whose mean is the number, shape (U,).
      weights: weights of the units, shape (U,), of sum 1.
      larger_is_sharper: False for tolerated noise.
      note: a problem of the number.

    See Also:
      `report` (makes them), `Report` (holds them).
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
        """The key that distinguishes the number from others of its block."""
        return self.measure, self.label, self.setting

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Returns the interval of Student's t; NaN if there is no standard error."""
        return interval(self.value, self.sem, len(self.units), confidence)

    def shown(self) -> str:
        """Returns the number with its standard error, marked if there is a note."""
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
    """Makes a row with the standard error of its units, by eq. (1) or the bootstrap.

    Args:
      measure: see `Row`.
      block: see `Row`.
      label: see `Row`.
      setting: see `Row`.
      value: see `Row`.
      source: "draws", "random vectors", "chains" or "batches".
      units: values of the units, (U,); for batches, their contributions to the mean.
      weights: the batches' shares of the examples; equal by default.
      **options: other attributes of `Row`.
    """
    units = np.asarray(units, float)
    weights = np.full(len(units), 1 / max(len(units), 1)) if weights is None else weights
    weights = np.asarray(weights, float)
    sem = standard_error(units, weights, source)
    found = measure, block, label, setting, float(value), sem, source, units, weights
    return Row(*found, **options)


def standard_error(units: np.ndarray, weights: np.ndarray, source: str) -> float:
    """Computes the standard error of a mean of units; NaN for fewer than two units."""
    num = len(units)
    if num < 2 or not np.isfinite(units).all():
        return np.nan
    if source != "batches":
        return float(units.std(ddof=1) / np.sqrt(num))
    sums, of_weights = bootstrap_sums(units), bootstrap_sums(weights)
    has_examples = of_weights > 0  # not if only batches of padding are drawn
    means = sums[has_examples] / of_weights[has_examples]
    return float(means.std() * np.sqrt(num / (num - 1)))


def bootstrap_sums(values: np.ndarray) -> np.ndarray:
    """Sums values over batches drawn with replacement; equal draws for equal U."""
    num, rng = len(values), np.random.default_rng(0)
    # In parts, because 2,000 rows of 10,000 batches would be 160 MB.
    parts = (
        rng.multinomial(num, np.full(num, 1 / num), size=100) for _ in range(NUM_BOOTSTRAP // 100)
    )
    return np.concatenate([draws @ values for draws in parts])


def interval(value: float, sem: float, num: int, confidence: float) -> tuple[float, float]:
    """Computes the interval of Student's t around a mean of `num` units."""
    if num < 2:
        return np.nan, np.nan
    half = scipy.special.stdtrit(num - 1, (1 + confidence) / 2) * sem
    return float(value - half), float(value + half)


def difference(first: Row, second: Row) -> tuple[float, float]:
    """Computes the first number minus the second, and its error, unit by unit."""
    value = first.value - second.value
    if first.units.shape != second.units.shape or len(first.units) < 2:
        return value, np.nan
    weights = (first.weights + second.weights) / 2
    return value, standard_error(first.units - second.units, weights, first.source)
