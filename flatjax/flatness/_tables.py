"""How results are printed: numbers with errors, tables as text and HTML."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

WIDTH = 100  # columns of a terminal
MISSING = "-"


class Table(NamedTuple):
    """A table, printed as text or as HTML.

    Attributes:
      title: lines above the table.
      header: names of the columns.
      lines: cells, one list for each line.
      notes: lines below the table.
    """

    title: Sequence[str]
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        """Aligns columns in 100 characters; columns that do not fit follow below."""
        text = [part for line in self.title for part in _wrapped(line)]
        for page, columns in enumerate(self._pages()):
            text += [""] * (page > 0)
            cells = [[line[c] for c in columns] for line in (self.header, *self.lines)]
            widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
            rule = ["-" * width for width in widths]
            text += ["  ".join(map(str.ljust, line, widths)).rstrip() for line in (cells[0], rule)]
            text += ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells[1:]]
        for note in self.notes:
            text += _wrapped(note)
        return "\n".join(text)

    def html(self) -> str:
        """Returns the table as HTML, for a notebook."""
        row = lambda tag, cells: (
            f"<tr>{''.join(f'<{tag}>{html.escape(c)}</{tag}>' for c in cells)}</tr>"
        )
        paragraphs = lambda lines: "".join(f"<p>{html.escape(line)}</p>" for line in lines)
        body = "".join(row("td", line) for line in self.lines)
        table = f"<table><thead>{row('th', self.header)}</thead><tbody>{body}</tbody></table>"
        return paragraphs(self.title) + table + paragraphs(self.notes)

    def _pages(self) -> list[list[int]]:
        """Splits the columns into groups that fit the width; the first is in all."""
        every = range(len(self.header))
        widths = [max(len(line[c]) for line in (self.header, *self.lines)) + 2 for c in every]
        pages, used = [[0]], widths[0]
        for c in every[1:]:
            if used + widths[c] > WIDTH + 2 and len(pages[-1]) > 1:
                pages.append([0])
                used = widths[0]
            pages[-1].append(c)
            used += widths[c]
        return pages


Class = TypeVar("Class", bound=type)


def printed(result: Class) -> Class:
    """Makes results of a class print as their `table()`, also in notebooks."""
    methods: Any = result
    methods.__repr__ = lambda self: str(self.table())
    methods._repr_html_ = lambda self: self.table().html()
    return result


def of_quantities(
    title: Sequence[str],
    column: str,
    settings: Sequence[str],
    values: Mapping[str, Sequence[str]],
    **others: Sequence[str],
) -> Table:
    """Makes a table with a line for each setting and a column for each quantity.

    Args:
      title: lines above the table.
      column: name of the settings.
      settings: the G settings.
      values: {header of a column: G cells}.
      **others: further columns.
    """
    columns = {**values, **{name.replace("_", " "): cells for name, cells in others.items()}}
    lines = [list(line) for line in zip(settings, *columns.values(), strict=True)]
    return Table([*title, ""], [column, *columns], lines)


def at_solution(reference: Mapping[str, Any]) -> str:
    """Describes the quantities at the solution, or the number of solutions."""
    shapes = {np.shape(value) for value in reference.values()}
    if shapes - {()}:
        return f"{max(shapes)[0]} solutions"
    found = ", ".join(f"{name} {number(value)}" for name, value in reference.items())
    return f"At the solution: {found}"


def rises(reference: Mapping[str, Any], rise: Mapping[str, Any]) -> dict[str, list[str]]:
    """Makes columns of rises without errors, for G settings."""
    return {f"rise of the {name}": [number(v) for v in np.ravel(rise[name])] for name in reference}


def labels(values: Any) -> list[str]:
    """Formats settings for tables."""
    return [f"{value:g}" for value in values]


def number(value: Any, digits: int = 4) -> str:
    """Formats a number with some significant digits; NaN becomes a dash.

    Examples:
      >>> number(0.123456), number(123456.0), number(float("nan"))
      ('0.1235', '1.235e+05', '-')
    """
    value = float(value)
    return MISSING if math.isnan(value) else f"{value:.{digits}g}"


def with_error(value: Any, sem: Any) -> str:
    """Formats a number and its standard error, with two digits of the error.

    Examples:
      >>> with_error(0.123456, 0.00213), with_error(1234.5, 56.0), with_error(3.2e-7, 1e-9)
      ('0.1235 ± 0.0021', '1234 ± 56', '(3.200 ± 0.010)e-7')
      >>> with_error(0.5, float("nan")), with_error(float("nan"), 0.1)
      ('0.5', '-')
    """
    value, sem = float(value), float(sem)
    if not (math.isfinite(value) and math.isfinite(sem)):
        return number(value)
    if sem == 0:
        return f"{number(value)} ± 0"
    of_sem = math.floor(math.log10(sem))
    exponent = math.floor(math.log10(max(abs(value), sem)))
    if -4 <= exponent < 6:
        decimals = min(max(1 - of_sem, 0), 12)
        return f"{value:.{decimals}f} ± {sem:.{decimals}f}"
    decimals = min(exponent - of_sem + 1, 12)
    scale = 10.0**exponent
    return f"({value / scale:.{decimals}f} ± {sem / scale:.{decimals}f})e{exponent}"


def _wrapped(note: str) -> list[str]:
    lines, line = [], ""
    for word in note.split():
        if line and len(line) + 1 + len(word) > WIDTH:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return [*lines, line]
