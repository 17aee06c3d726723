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

WIDTH = 7.36  # inches: 736 pixels, the width of a page of the documentation, at 100 a inch
SMALLEST = 8  # points of the smallest text
STYLE = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.labelsize": SMALLEST,
    "ytick.labelsize": SMALLEST,
    "legend.fontsize": SMALLEST,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

# The palette of Okabe and Ito, for colour-blind readers. Each algorithm has one colour in all
# pictures; its longer run is dashed. Message passing has dark colours of Paul Tol's palette.
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
    "local sgd": "#6699CC",
    "fork": "#117733",
    "bp": "#882255",
    "reinforced bp": "#999933",
    "focusing bp": "#332288",
    "focusing bp, y rises": "#AA4499",
    "adamw": "#8C564B",
    "soup": "#E377C2",
}
NAMES = {"sgd": "SGD", "sam": "SAM", "swa": "SWA", "esgd": "eSGD", "rsgd": "rSGD", "parle": "Parle"}
# Algorithm -> its marker, where several are drawn in one panel.
MARKERS = {"sgd": "o", "sam": "s", "swa": "D", "esgd": "o", "rsgd": "^", "parle": "v"}
BAR = {"alpha": 0.4, "lw": 1.2}  # error bars are lighter than what they belong to


@contextlib.contextmanager
def drawing(
    path: pathlib.Path,
    rows: int = 1,
    columns: int = 1,
    *,
    height: float,
    **options: Any,
) -> Iterator[tuple[Figure, Any]]:
    """Opens a figure as wide as a page, and writes it atomically at the end.

    Args:
      path: path of the picture.
      rows: number of rows of panels.
      columns: number of columns of panels.
      height: height in inches.
      **options: further arguments of `matplotlib.figure.Figure.subplots`.

    Yields:
      The figure and its panels.
    """
    with page(path) as figure:
        figure.set_size_inches(WIDTH, height)
        yield figure, figure.subplots(rows, columns, **options)


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


def legend_below(figure: Figure, handles: Any, labels: Any, columns: int) -> None:
    """Puts the legend of all panels below them, where it covers no curve."""
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def logarithmic(axes: Axes) -> None:
    """Makes the axis of errors logarithmic, with labels at 1, 2, 3, 5, 10, ..."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:.0e}"[0] in "235" else "")


def shades(number: int) -> np.ndarray:
    """Returns colours for the variants of one algorithm, (number, 4)."""
    import matplotlib

    return matplotlib.colormaps["viridis"](np.linspace(0, 0.9, number))
