r"""Which of several solutions is flatter: differences of their reports.

Let :math:`v_s` be a number of solution s, and :math:`v_0` the same number of the first solution,
measured with the same draws and batches. Each number is a mean over units (see
`flatjax.flatness.report`). The standard error of :math:`v_s - v_0` is computed from the units'
differences, and its interval is that of Student's t. Pictures show the relative difference

.. math:: r = \frac{v_s - v_0}{|v_s| + |v_0|} \in [-1, 1], \tag{1}

which is 0 if both are equal, 1/3 if s is twice as sharp, and -1/3 if 0 is twice as sharp.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from flatjax import _checks
from flatjax.flatness import _barrier, _optional, _report_plots, _rows, _soup, _tables
from flatjax.flatness._barrier import Barrier
from flatjax.flatness._report_result import Report, plain
from flatjax.flatness._rows import Row
from flatjax.flatness._soup import Soup


class Difference(NamedTuple):
    """A number of one solution minus the same number of the first solution.

    Attributes:
      solution: name of the solution.
      block: name of the block of weights.
      measure: name of the measure.
      label: name of the number.
      setting: strength at which it was measured.
      value: the difference.
      sem: standard error of the difference.
      low: lower end of the interval; NaN if there is no standard error.
      high: upper end of the interval.
      flatter: name of the flatter of the two; None if the interval contains 0 or is missing.
      relative: (low, difference, high), each divided by the sum of the two sizes, in [-1, 1]. It is
        positive if the solution is sharper than the first. Ends are NaN without an interval.

    See Also:
      `compare` (makes them), `Comparison` (holds them).
    """

    solution: str
    block: str
    measure: str
    label: str
    setting: str
    value: float
    sem: float
    low: float
    high: float
    flatter: str | None
    relative: tuple[float, float, float]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Comparison:
    """Compares solutions; printing it shows a table and a verdict.

    Attributes:
      reports: {name: report}; the others are compared with the first one.
      differences: differences of each number and each other solution.
      confidence: probability content of the intervals.
      barriers: {name: barrier between the first solution and this one}, as they were given.
      soup: mean of the solutions, as it was given.
    """

    reports: dict[str, Report]
    differences: tuple[Difference, ...]
    confidence: float
    barriers: dict[str, Barrier]
    soup: Soup | None = None

    @property
    def first(self) -> str:
        """The name of the solution with which the others are compared."""
        return next(iter(self.reports))

    def verdicts(self) -> list[str]:
        """Says by how many numbers each other solution is flatter; barriers and the soup."""
        lines = []
        for name in list(self.reports)[1:]:
            flatter = [d.flatter for d in self.differences if d.solution == name]
            counts = {who: flatter.count(who) for who in (name, self.first, None)}
            lines.append(
                f"{name} is flatter than {self.first} by {counts[name]} of {len(flatter)} numbers, "
                f"sharper by {counts[self.first]}, undecided by {counts[None]} "
                f"({100 * self.confidence:g} % intervals)."
            )
            if name in self.barriers:
                lines.append(_barrier.described(self.barriers[name], name, self.first))
        if self.soup is not None:
            lines.append(_soup.described(self.soup, list(self.reports)))
        return lines

    def table(self) -> _tables.Table:
        """Returns the printed table: a line for each number and each other solution."""
        blocks = len({d.block for d in self.differences}) > 1
        others = list(self.reports)[1:]
        lines = []
        for d in self.differences:
            label = f"{d.block}: {d.label}, {d.setting}" if blocks else f"{d.label}, {d.setting}"
            of = lambda name, d=d: _tables.number(_find(self.reports[name], d).value, 3)
            values = [d.solution] if len(others) > 1 else [of(self.first)]
            interval = f"{_tables.number(d.low, 2)} to {_tables.number(d.high, 2)}"
            if math.isnan(d.low):  # no standard error: the difference alone
                interval = _tables.number(d.value, 2)
            lines.append([label, *values, of(d.solution), interval, d.flatter or "undecided"])
        columns = ["solution", "its value"] if len(others) > 1 else [self.first, *others]
        difference = f"minus {self.first} ({100 * self.confidence:g} %)"
        if len(others) == 1:
            difference = f"difference ({100 * self.confidence:g} %)"
        header = ["measure", *columns, difference, "flatter"]
        return _tables.Table([*self.verdicts(), ""], header, lines)

    def __repr__(self) -> str:
        """Returns the table as text, at most 100 characters wide."""
        return str(self.table())

    def _repr_html_(self) -> str:
        """Returns the table for a notebook."""
        return self.table().html()

    def to_dict(self) -> dict[str, Any]:
        """Returns all as JSON-compatible values; NaN becomes None, and infinity "inf"."""
        differences = [
            {name: value for name, value in d._asdict().items() if name != "relative"}
            for d in self.differences
        ]
        return plain(
            {
                "solutions": list(self.reports),
                "confidence": self.confidence,
                "differences": differences,
                "barriers": {name: one.height for name, one in self.barriers.items()},
                "soup": None if self.soup is None else _soup.as_dict(self.soup, list(self.reports)),
            }
        )

    def to_pandas(self) -> Any:
        """Returns a `pandas.DataFrame` with a line for each difference.

        Raises:
          ImportError: pandas is not installed.
        """
        pandas = _optional.require("pandas", "to_pandas")
        return pandas.DataFrame([d._asdict() for d in self.differences]).drop(columns="relative")

    def plot(self, figure: Any = None) -> Any:
        """Draws, for each number, which solution is flatter, with its interval.

        Args:
          figure: matplotlib figure to draw on; a new one by default.

        Returns:
          The figure.

        Raises:
          ImportError: matplotlib is not installed.
        """
        return _report_plots.plot_comparison(self, figure)


def compare(
    reports: Mapping[str, Report],
    *,
    confidence: float = 0.95,
    barriers: Mapping[str, Barrier] | None = None,
    soup: Soup | None = None,
) -> Comparison:
    """Compares solutions measured with the same key, batches, level and mask.

    Noise, random vectors and batches are then the same for all solutions, so differences have
    smaller errors than the numbers themselves. Each interval holds for a single number: of twenty
    95% intervals, one is expected to miss the truth.

    Args:
      reports: {name: report}, from `flatjax.flatness.report`. The others are compared with the
        first one.
      confidence: probability content of the intervals.
      barriers: {name: `flatjax.flatness.barrier` between the first solution and this one}. They
        are printed with the verdicts. Where the barrier is about 0, the two can be averaged.
      soup: `flatjax.flatness.soup` of all solutions, in the order of the reports. It is printed
        with the values of each solution alone.

    Returns:
      A `Comparison` of the numbers that are in all reports.

    Raises:
      ValueError: fewer than two reports; reports with different keys, data or levels, or without a
        common number; different masks of parameters that have the same leaves; a confidence that is
        not between 0 and 1. Or a barrier has another name, or the soup another number of solutions.
      TypeError: a value is not a report, not a barrier, or not a soup.

    Examples:
      The same product has two factors. The loss is the same, and the balanced pair is flatter:

      >>> import jax, jax.numpy as jnp
      >>> from flatjax import flatness
      >>> eval_fn = flatness.regression(lambda params, x: x @ (params[0] * params[1]))
      >>> x = jax.random.normal(jax.random.key(0), (8, 20, 3))
      >>> batches = [(one, one @ jnp.ones(3)) for one in x]
      >>> of = lambda a: flatness.report(
      ...     eval_fn, jnp.array([[a] * 3, [1 / a] * 3]), batches, 0, measures=["trace"]
      ... )
      >>> found = flatness.compare({"balanced": of(1.0), "unbalanced": of(5.0)})
      >>> found.differences[0].flatter
      'balanced'

    See Also:
      `report` (makes the reports), `rank_solutions` (many solutions and their test errors),
      `paired_difference` (one measure).
    """
    given = dict(reports)
    if len(given) < 2:
        raise ValueError(f"reports must hold two solutions at least, got {sorted(given)}.")
    _checks.check_scalar(
        "confidence", confidence, maximum=1, exclusive_minimum=True, exclusive_maximum=True
    )
    for name, one in given.items():
        if not isinstance(one, Report):
            raise TypeError(f"reports[{name!r}] must be a Report, got {type(one).__name__}.")
    first_name, first = next(iter(given.items()))
    between = dict(barriers or {})
    _check_merged(list(given), between, soup)
    for name, one in given.items():
        _check_same(first_name, first, name, one)
    common = [row for row in first.rows if all(_has(one, row) for one in given.values())]
    if not common:
        raise ValueError("reports must have measures in common, got none.")
    differences = [
        _difference(first_name, row, name, _find(one, row), confidence)
        for row in common
        for name, one in list(given.items())[1:]
    ]
    return Comparison(given, tuple(differences), confidence, between, soup)


def _check_merged(names: list[str], between: dict[str, Barrier], soup: Soup | None) -> None:
    """Raises unless barriers and soup are of these solutions."""
    for name, found in between.items():
        if name not in names[1:]:
            raise ValueError(
                f"barriers must have names of {names[1:]}, the solutions that are compared with "
                f"{names[0]!r}, got {name!r}."
            )
        if not isinstance(found, Barrier):
            raise TypeError(f"barriers[{name!r}] must be a Barrier, got {type(found).__name__}.")
    if soup is None:
        return
    if not isinstance(soup, Soup):
        raise TypeError(f"soup must be a Soup, got {type(soup).__name__}.")
    if (number := len(next(iter(soup.alone.values())))) != len(names):
        raise ValueError(
            f"soup must be made of the {len(names)} solutions of the reports, in their order, got "
            f"a soup of {number}."
        )


def _check_same(first_name: str, first: Report, name: str, one: Report) -> None:
    """Raises unless two solutions were measured with the same draws and data."""
    kinds = {
        "key": (first.key, one.key),
        "batches": (first.fingerprint, one.fingerprint),
        "level": (first.level, one.level),
    }
    for kind, (expected, found) in kinds.items():
        if expected != found:
            raise ValueError(
                f"reports must be measured with the same key, batches and level; the {kind} of "
                f"{name!r} differs from that of {first_name!r}. Measure them again with one {kind}."
            )
    if first.leaves != one.leaves:  # different networks
        return
    for block in first.moving.keys() & one.moving.keys():
        here, there = set(first.moving[block]), set(one.moving[block])
        if here != there:
            path = min(here ^ there)
            mover, other = (first_name, name) if path in here else (name, first_name)
            raise ValueError(
                f"reports must be measured with the same mask; in the block {block!r}, the leaf "
                f"{path!r} moves for {mover!r} but not for {other!r}. Measure them again with one "
                "mask."
            )


def _has(report: Report, wanted: Row) -> bool:
    return any((row.block, *row.name) == (wanted.block, *wanted.name) for row in report.rows)


def _find(report: Report, wanted: Row | Difference) -> Row:
    name = (wanted.block, wanted.measure, wanted.label, wanted.setting)
    return next(row for row in report.rows if (row.block, *row.name) == name)


def _difference(first_name, first: Row, name, other: Row, confidence) -> Difference:
    value, sem = _rows.difference(other, first)
    low, high = _rows.interval(value, sem, len(first.units), confidence)
    sharper = 1 if first.larger_is_sharper else -1
    flatter = None
    if low > 0 or high < 0:
        flatter = first_name if sharper * value > 0 else name
    size = abs(first.value) + abs(other.value)
    ends = sorted(sharper * end for end in (low, high))
    scale = lambda x: _relative(x, size)
    relative = scale(ends[0]), scale(sharper * value), scale(ends[1])  # eq. (1)
    found = first.measure, first.label, first.setting, value, sem, low, high, flatter, relative
    return Difference(name, first.block, *found)


def _relative(x: float, size: float) -> float:
    """Divides by the sum of two sizes, within -1 and 1; NaN stays NaN."""
    if math.isinf(x):
        return math.copysign(1.0, x)
    return float(np.clip(x / size, -1.0, 1.0)) if size != 0 else 0.0
