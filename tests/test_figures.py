"""One command draws the pictures of the pages, which fit the width of a page."""

import pathlib

import matplotlib.text
import numpy as np
import pytest
from fast import slow
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from experiments.configs.contest import STUDY
from experiments.figures import __main__ as figures
from experiments.figures import overview
from experiments.report import plots
from experiments.report.store import FIGURES, RESULTS, read_json

# Theory and cost model are computed, which takes minutes and seconds; the others read records.
COMPUTED = ("gaussian_mixture_", "cost_model")
READ = [name for name in figures.PICTURES if not name.startswith(COMPUTED)]
QUICK = ("overview",)


def test_the_pictures_are_those_of_the_command():
    assert {path.stem for path in FIGURES.glob("*.png")} == set(figures.PICTURES)
    for path in sorted(FIGURES.glob("*.png")):
        with Image.open(path) as picture:
            assert picture.width == 1.5 * 736, path


@pytest.mark.parametrize("name", [name if name in QUICK else slow(name) for name in READ])
def test_text_is_readable_and_nothing_is_cut_off(name, tmp_path, monkeypatch):
    def check(figure, path):
        write(figure, path)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        width, height = figure.get_size_inches() * figure.dpi
        for text in figure.findobj(matplotlib.text.Text):
            if text.get_text() and text.get_visible():
                assert text.get_fontsize() >= plots.SMALLEST, text
        for legend in [*figure.legends, *(a.legend_ for a in figure.axes if a.legend_)]:
            box = legend.get_window_extent(renderer)
            assert box.x0 >= -1, "a legend is cut off on the left"
            assert box.x1 <= width + 1, "a legend is cut off on the right"
        for axes in figure.axes:
            for text in (axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label):
                if text.get_text():
                    box = text.get_window_extent(renderer)
                    assert box.x0 >= -1, text
                    assert box.x1 <= width + 1, text
                    assert box.y1 <= height + 1, text

    write = plots._write
    monkeypatch.setattr(plots, "_write", check)
    figures.main([name, "--out", str(tmp_path)])
    with Image.open(tmp_path / f"{name}.png") as picture:
        assert picture.width == 1.5 * 736


def test_unknown_pictures_are_refused(capsys):
    with pytest.raises(SystemExit):
        figures.main(["no-such-picture"])
    assert "NAME must be one of overview," in capsys.readouterr().err


@pytest.mark.parametrize("number", [1, slow(10)])
def test_the_overview_shows_complete_settings(number, tmp_path, monkeypatch):
    """A row for each setting with records, its differences as they are stored."""
    rows = read_json(RESULTS / "contest" / "contest.json")["comparisons"]
    if number > 1:
        settings = list(STUDY.settings)[:number]
        first = [row for row in rows if row["setting"] == "MLP, 2k, 20% noise"]
        rows = [row | {"setting": setting} for setting in settings for row in first]
        unsure = {"difference": 1.5, "corrected_interval": (-4.0, 7.0)}
        (place,) = (i for i, row in enumerate(rows) if is_shown(row, settings[0], "esgd"))
        rows[place] = rows[place] | unsure
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    compared = [row for row in rows if is_shown(row)]
    far = [row for row in compared if np.ptp(row["corrected_interval"]) >= 2 * overview.FAR]
    wanted = {
        (row["contestant"], round(row["difference"], 6)) for row in compared if row not in far
    }
    rankings = read_json(RESULTS / "flatness-study" / "flatness_study.json")["rankings"]
    figure = drawn(monkeypatch, lambda path: overview.draw(STUDY, rows, rankings, path), tmp_path)
    left, right = figure.axes
    names = {name: label for label, name in plots.NAMES.items()}
    shown = {
        (names[line.get_label()], round(x, 6))
        for line in left.lines
        if line.get_label() in names
        for x in line.get_xdata()
    }
    assert shown == wanted
    written = [text.get_text() for text in left.texts]
    assert len(written) == len(far)
    assert number == 1 or written == ["+1.5 ± 5.5 →"]
    labels = [label.get_text().replace("\n", " ") for label in left.get_yticklabels()]
    assert labels == [one for one in STUDY.settings if one in settings]
    assert [line.get_label() for line in right.lines if not line.get_label().startswith("_")] == [
        *rankings
    ]


def is_shown(row, setting=None, name=None):
    """Whether the left panel shows a difference, and of which setting and algorithm."""
    return (
        (row["quantity"], row["reference"]) == ("test_error", "sgd")
        and row["contestant"] in STUDY.contestants
        and setting in (None, row["setting"])
        and name in (None, row["contestant"])
    )


def drawn(monkeypatch, draw, tmp_path: pathlib.Path):
    """The figure that a function of a path draws."""
    found = []
    monkeypatch.setattr(plots, "_write", lambda figure, path: found.append(figure))
    draw(tmp_path / "picture.png")
    return found[0]


def test_colours_are_told_apart():
    """Algorithms of one picture have different colours; averages of SGD share one."""
    shared = ("swa", "ema")
    colors = [color for name, color in plots.COLORS.items() if name not in shared]
    assert len(set(colors)) == len(colors)
    assert plots.COLORS["swa"] == plots.COLORS["ema"]
