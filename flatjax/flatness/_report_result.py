"""The result of `report`: numbers with their errors."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from flatjax.flatness import _optional, _report_plots, _tables
from flatjax.flatness._effort import Cost
from flatjax.flatness._rows import Row

FORMAT = 1
FEW_BATCHES = 5


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Report:
    """How flat a solution is, by several measures; printing it shows a table.

    Attributes:
      rows: the numbers of all measures and blocks. Each has `measure`, `block`, `label`, `setting`,
        `value`, `sem`, `source` (of the standard error), `units` (the value is their mean) and
        `interval(confidence)`.
      reference: {name: mean at the solution}.
      level: level of the effort.
      num_examples: number of examples.
      num_batches: number of batches.
      num_weights: {block: number of weights that move}.
      cost: passes over the data that were made.
      seconds: duration of the measurement.
      key: data of the random key.
      fingerprint: SHA-256 of the data.
      leaves: paths of the leaves of the parameters; empty if an early version saved the report.
      moving: {block: paths of the leaves that move}; empty in the same case.
      results: {block: {measure: its result}}, such as a `LocalEnergy`; empty if the report was
        loaded.
    """

    rows: tuple[Row, ...]
    reference: dict[str, float]
    level: str
    num_examples: float
    num_batches: int
    num_weights: dict[str, int]
    cost: Cost
    seconds: float
    key: list[int]
    fingerprint: str
    leaves: list[str] = dataclasses.field(default_factory=list)
    moving: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    results: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def __getitem__(self, name: tuple[str, str, str] | str) -> Row:
        """Returns the first row of a measure, or the row of (measure, label, setting)."""
        for row in self.rows:
            if name in (row.measure, row.name):
                return row
        raise KeyError(f"{name!r} is none of {sorted({row.measure for row in self.rows})}.")

    def table(self) -> _tables.Table:
        """Returns the printed table: a line for each number, a column for each block."""
        blocks = list(self.num_weights)
        values = {(row.block, *row.name): row for row in self.rows}
        lines = []
        for name in dict.fromkeys(row.name for row in self.rows):
            found = [values.get((block, *name)) for block in blocks]
            cells = [_tables.MISSING if one is None else one.shown() for one in found]
            lines.append([", ".join(name[1:]), *cells])
        columns = ["value ± standard error"] if len(blocks) == 1 else blocks
        batches = "batch" if self.num_batches == 1 else "batches"
        title = [
            f"Flatness, {self.level}: {self.num_examples:,.0f} examples in {self.num_batches} "
            f"{batches}, {self.num_weights[blocks[0]]:,} weights, {self.seconds:.0f} s",
            "At the solution: "
            + ", ".join(f"{name} {value:.4g}" for name, value in self.reference.items()),
            "",
        ]
        return _tables.Table(title, ["measure", *columns], lines, self._notes())

    def _notes(self) -> list[str]:
        """Lists the sources of standard errors, and problems of the numbers."""
        notes, first = [""], next(iter(self.num_weights))
        over: dict[str, list[str]] = {}
        for row in self.rows:
            if row.block == first and len(row.units) > 1:
                over.setdefault(f"{len(row.units)} {row.source}", []).append(row.label)
        for source, labels in over.items():
            notes.append(f"± over {source}: {'; '.join(dict.fromkeys(labels))}.")
        if self.num_batches < FEW_BATCHES and any(row.source == "batches" for row in self.rows):
            notes.append(
                f"± over batches says little with {self.num_batches}: give the data in 10 batches "
                "or more."
            )
        for row in self.rows:
            if row.note:
                notes.append(f"* {'' if row.block == first else f'{row.block}: '}{row.note}")
        return notes

    def __repr__(self) -> str:
        """Returns the table as text, at most 100 characters wide."""
        return str(self.table())

    def _repr_html_(self) -> str:
        """Returns the table for a notebook."""
        return self.table().html()

    def to_dict(self) -> dict[str, Any]:
        """Returns everything except `results` as values for JSON; NaN becomes None."""
        found = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("rows", "results", "cost")
        }
        found["cost"] = self.cost._asdict()
        found["rows"] = [
            {name: plain(value) for name, value in row._asdict().items()} for row in self.rows
        ]
        return {"format": FORMAT, **found}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> "Report":
        """Makes a report from the result of `to_dict`.

        Raises:
          ValueError: `found` is no report, or has another format.
        """
        if not isinstance(found, dict) or found.get("format") != FORMAT or "rows" not in found:
            raise ValueError(f"found must be a report of format {FORMAT}, as to_dict returns it.")
        given = {name: value for name, value in found.items() if name != "format"}
        given["rows"] = tuple(_row(one) for one in found["rows"])
        given["cost"] = Cost(**found["cost"])
        return cls(**given)

    def to_pandas(self) -> Any:
        """Returns a `pandas.DataFrame` with a line for each number.

        Raises:
          ImportError: pandas is not installed.
        """
        pandas = _optional.require("pandas", "to_pandas")
        columns = ("measure", "block", "label", "setting", "value", "sem", "source")
        lines = []
        for row in self.rows:
            line = {name: getattr(row, name) for name in columns}
            line["low"], line["high"] = row.interval()
            lines.append(line)
        return pandas.DataFrame(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the report as JSON; `Report.load` reads it.

        Args:
          path: path of the file, which is replaced.
        """
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False, ensure_ascii=False)
        file = Path(path).expanduser()
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(file)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Report":
        """Reads a report that `save` wrote.

        Args:
          path: path of the file.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: the file holds no report.
        """
        text = Path(path).expanduser().read_text(encoding="utf-8")
        try:
            return cls.from_dict(json.loads(text))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} holds no report that Report.save wrote ({error}).") from error

    def plot(self, figure: Any = None) -> Any:
        """Draws the local energy against the strength of the noise, a panel per quantity.

        Args:
          figure: matplotlib figure to draw on; a new one by default.

        Returns:
          The figure.

        Raises:
          ImportError: matplotlib is not installed.
          ValueError: the local energy was not measured.
        """
        return _report_plots.plot_report(self, figure)


def plain(value: Any) -> Any:
    """Converts a value to a JSON-compatible one; NaN becomes None, infinity "inf"."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def _row(found: dict[str, Any]) -> Row:
    number = lambda value: math.nan if value is None else float(value)
    arrays = {name: np.array([number(v) for v in found[name]]) for name in ("units", "weights")}
    numbers = {name: number(found[name]) for name in ("value", "sem")}
    return Row(**{**found, **arrays, **numbers})
