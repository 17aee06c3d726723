"""The style of all pictures. matplotlib is imported when the first one is drawn."""

from __future__ import annotations

import contextlib
import io
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.report import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}

# The palette of Okabe and Ito, for colour-blind readers. Each algorithm has one colour in all
# pictures; its longer run is dashed.
COLORS = {
    "sgd": "#000000",
    "sam": "#E69F00",
    "swa": "#999999",
    "ema": "#999999",
    "esgd": "#009E73",
    "rsgd": "#D55E00",
    "rsam": "#CC79A7",
    "esam": "#56B4E9",
    "parle": "#0072B2",
    "diloco": "#F0E442",
    "adamw": "#8C564B",
    "soup": "#E377C2",
}


@contextlib.contextmanager
def drawing(
    path: pathlib.Path,
    rows: int = 1,
    columns: int = 1,
    *,
    figsize: tuple[float, float],
    rect: tuple[float, float, float, float] = (0, 0, 1, 1),
    **options: Any,
) -> Iterator[tuple[Figure, Any]]:
    """Opens a figure, and lays it out and writes it atomically at the end.

    Args:
      path: path of the picture.
      rows: number of rows of panels.
      columns: number of columns of panels.
      figsize: width and height in inches.
      rect: part of the figure for the panels: left, bottom, right, top.
      **options: further arguments of `matplotlib.figure.Figure.subplots`.

    Yields:
      The figure and its panels.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=figsize)
        yield figure, figure.subplots(rows, columns, **options)
        figure.tight_layout(rect=rect)
        _write(figure, path)


@contextlib.contextmanager
def page(path: pathlib.Path) -> Iterator[Figure]:
    """Opens an empty figure of any size, and writes it at the end."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(layout="constrained")
        yield figure
        _write(figure, path)


def _write(figure: Figure, path: pathlib.Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix.removeprefix("."), dpi=150)
    atomic.write_bytes(path, picture.getvalue())


def logarithmic(axes: Axes) -> None:
    """Makes the axis of errors logarithmic, with labels at 1, 2, 5, 10, ..."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:.0e}"[0] in "25" else "")


def shades(number: int) -> np.ndarray:
    """Returns colours for the variants of one algorithm, (number, 4)."""
    import matplotlib

    return matplotlib.colormaps["viridis"](np.linspace(0, 0.9, number))
