"""Whether a measure ranks solutions as their test error does.

Solutions often differ in learning rate, weight decay, size and so on. A measure may rank them in
the right order only because it depends on these settings. The granulated coefficient therefore
compares only solutions that differ in one setting.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from flatjax import _checks
from flatjax.flatness import _tables


@_tables.printed
class Ranking(NamedTuple):
    """How a measure ranks solutions: 1 as the error, 0 by chance, -1 in reverse.

    Attributes:
      tau: Kendall's coefficient over all pairs of solutions.
      interval: bootstrap interval of tau, (low, high).
      by_factor: {factor: mean coefficient within groups of solutions that differ only in this
        factor}; NaN if no two solutions differ only in it.
      granulated: mean of `by_factor`; NaN without factors.
      granulated_interval: bootstrap interval of `granulated`, (low, high).
      num_solutions: number of ranked solutions.
    """

    tau: float
    interval: tuple[float, float]
    by_factor: dict[str, float]
    granulated: float
    granulated_interval: tuple[float, float]
    num_solutions: int

    def table(self) -> _tables.Table:
        """Tabulates the coefficients and their intervals; printing shows it."""
        interval = lambda ends: f"{ends[0]:+.2f} to {ends[1]:+.2f}"
        lines = [["all pairs", f"{self.tau:+.2f}", interval(self.interval)]]
        if self.by_factor:
            ends = interval(self.granulated_interval)
            lines.append(["granulated", f"{self.granulated:+.2f}", ends])
        lines += [[f"differ in {n} alone", f"{t:+.2f}", ""] for n, t in self.by_factor.items()]
        title = [f"Kendall's τ between measure and error, {self.num_solutions} solutions", ""]
        return _tables.Table(title, ["pairs", "τ", "interval"], lines)


def kendall_tau(measure: ArrayLike, error: ArrayLike) -> float:
    r"""Computes Kendall's rank correlation with his correction for ties (tau-b).

    .. math::
      \tau = \frac{\sum_{i<j} s^m_{ij} s^e_{ij}}
        {\sqrt{\sum_{i<j} |s^m_{ij}| \sum_{i<j} |s^e_{ij}|}}, \qquad
      s^m_{ij} = \mathrm{sign}(m_i - m_j)

    Args:
      measure: measure of each solution, shape (n,).
      error: error of each solution, shape (n,).

    Returns:
      tau, in [-1, 1]; NaN if all measures or all errors are equal.

    Raises:
      ValueError: the arrays differ in length, or contain NaN.

    Examples:
      >>> round(kendall_tau([1.0, 2.0, 3.0], [0.1, 0.3, 0.2]), 3)
      0.333

    See Also:
      `rank_solutions` (by groups of networks).
    """
    measure, error = _check(measure, error)
    return _tau(_signs(measure), _signs(error))


def rank_solutions(
    measure: ArrayLike,
    error: ArrayLike,
    factors: Mapping[str, ArrayLike | Sequence[Any]] | None = None,
    *,
    num_bootstrap: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Ranking:
    r"""Compares the order of solutions by a measure with their order by test error.

    A factor is a setting in which solutions differ. A group of a factor is a set of solutions that
    agree in all other factors. The coefficient :math:`\psi` of the factor is the mean over its
    groups of tau, computed from pairs that differ in the factor. The granulated coefficient is the
    mean over factors [Jiang et al., 2020]. Do not pass seeds as a factor: solutions that differ
    only in the seed are then not compared, and a group contains all seeds.

    Intervals are percentiles of bootstrap samples. For tau these are samples of solutions; for the
    granulated coefficient, samples of groups, drawn separately for each factor.

    Args:
      measure: measure of each solution, shape (n,); larger means sharper.
      error: error of each solution, shape (n,), such as the test error.
      factors: {name: value of the factor for each solution, n of any kind}.
      num_bootstrap: number of bootstrap samples.
      confidence: probability content of the intervals.
      seed: seed of the bootstrap.

    Returns:
      The coefficients and their intervals.

    Raises:
      ValueError: arrays of different lengths, fewer than three solutions, a NaN, or a confidence
        that is not between 0 and 1.
      TypeError: a value is no real number.

    Examples:
      A measure that depends only on the factor "width" and ranks the rest in reverse order:

      >>> width = [1, 1, 2, 2]
      >>> rate = [1, 2, 1, 2]
      >>> found = rank_solutions([1.1, 1.0, 2.1, 2.0], [5, 6, 7, 8], {"width": width, "rate": rate})
      >>> found.by_factor
      {'width': 1.0, 'rate': -1.0}
      >>> round(found.tau, 2)
      0.33

    See Also:
      `kendall_tau` (for two lists of numbers), `compare` (for two networks).
    """
    values = _check(measure, error)
    num = len(values[0])
    if num < 3:
        raise ValueError(f"measure must hold at least three solutions, got {num}.")
    _checks.check_count("num_bootstrap", num_bootstrap)
    _checks.check_scalar(
        "confidence",
        confidence,
        maximum=1,
        exclusive_minimum=True,
        exclusive_maximum=True,
    )
    rng = np.random.default_rng(seed)
    signs = _signs(values[0]), _signs(values[1])
    counts = rng.multinomial(num, np.full(num, 1 / num), size=num_bootstrap)
    codes = _codes(factors or {}, num)
    taus = {name: _taus_of_groups(*signs, name, codes) for name in codes}
    means = [values.mean() for values in taus.values() if len(values)]
    granulated = [
        values[rng.integers(0, len(values), (num_bootstrap, len(values)))].mean(axis=1)
        for values in taus.values()
        if len(values)
    ]
    return Ranking(
        tau=_tau(*signs),
        interval=_interval(np.array([_tau(*signs, weights=row) for row in counts]), confidence),
        by_factor={name: _mean(values) for name, values in taus.items()},
        granulated=_mean(means),
        granulated_interval=_interval(
            np.mean(granulated, axis=0) if means else np.array([]), confidence
        ),
        num_solutions=num,
    )


def _mean(values):
    return float(np.mean(values)) if len(values) else float("nan")


def _interval(samples, confidence):
    """Returns the percentile interval of bootstrap samples; NaN without samples."""
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return (float("nan"), float("nan"))
    tail = 100 * (1 - confidence) / 2
    return tuple(float(end) for end in np.percentile(samples, [tail, 100 - tail]))


def _check(measure, error):
    measure, error = _checks.real_array("measure", measure), _checks.real_array("error", error)
    if measure.ndim != 1 or measure.shape != error.shape:
        raise ValueError(
            f"measure and error must be arrays of one length, got {measure.shape}, {error.shape}."
        )
    for name, values in (("measure", measure), ("error", error)):
        if np.isnan(values).any():
            raise ValueError(f"{name} must not hold NaN, got it for {np.isnan(values).sum()}.")
    return measure, error


def _signs(values):
    # Comparisons, because the difference of two infinite values is NaN.
    return np.subtract(values[:, None] > values, values[:, None] < values, dtype=float)


def _tau(measure, error, weights=None, pairs=1.0):
    """Computes tau-b from matrices of signs, with a weight for each pair."""
    pairs = pairs if weights is None else pairs * np.outer(weights, weights)
    total = np.sum(pairs * measure * error)
    size = np.sqrt(np.sum(pairs * np.abs(measure)) * np.sum(pairs * np.abs(error)))
    return float(total / size) if size > 0 else float("nan")


def _codes(factors, num):
    """Numbers the values of each factor, so that they can be compared."""
    codes = {}
    for name, values in factors.items():
        if len(values) != num:
            raise ValueError(f"factors[{name!r}] must have {num} values, got {len(values)}.")
        codes[name] = _numbered(values)
    return codes


def _numbered(values):
    """Numbers the different values."""
    with contextlib.suppress(TypeError, ValueError):
        numbers = np.unique(np.asarray(values), return_inverse=True)[1]
        if numbers.shape == (len(values),):
            return numbers
    # Values that have no order, such as None and numbers, or that are lists.
    numbers = {text: number for number, text in enumerate(dict.fromkeys(map(repr, values)))}
    return np.array([numbers[repr(value)] for value in values])


def _taus_of_groups(measure, error, name, codes):
    """Computes tau for each group of solutions that agree in all factors but one."""
    others = [values for other, values in codes.items() if other != name]
    group = np.unique(np.stack([np.zeros_like(codes[name]), *others]), axis=1, return_inverse=True)
    differ = codes[name][:, None] != codes[name]
    taus = []
    for members in (np.flatnonzero(group[1] == g) for g in np.unique(group[1])):
        block = np.ix_(members, members)
        taus.append(_tau(measure[block], error[block], pairs=differ[block]))
    taus = np.array(taus)
    return taus[np.isfinite(taus)]
