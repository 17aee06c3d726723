"""The picture at the top of the README: gains, and what flatness predicts."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.report import plots
from experiments.studies.contest.description import Contest

QUANTITY = "test_error"
# Measure of the flatness study -> its name here.
MEASURES = {
    "local_energy": "local energy",
    "pac_bayes": "PAC-Bayes",
    "asam": "adaptive sharpness",
    "sam": "SAM sharpness",
    "worst_case": "worst case",
    "trace": "trace of Hessian",
    "top_eigenvalue": "largest eigenvalue",
}
TASK_STYLES = (
    {"marker": "o", "color": "#0072B2"},
    {"marker": "s", "color": "#CC79A7"},
    {"marker": "^", "color": "#7F7F7F"},
)
FAR = 3.0  # points; what is further from SGD, or less certain, would compress all others
ROOM = 0.4  # of the width of the panel
SPREAD = 0.6  # of the height of a row, taken by its points
TIGHT = {"handletextpad": 0, "columnspacing": 0.8, "borderpad": 0}
SETTING_HEIGHT, MEASURE_HEIGHT, FRAME_HEIGHT = 0.4, 0.32, 1.4  # inches


def draw(
    contest: Contest,
    rows: Sequence[Mapping[str, Any]],
    rankings: Mapping[str, Mapping[str, Mapping[str, Any]]],
    path: pathlib.Path,
) -> None:
    """Draws test errors minus tuned SGD's, and tau of measures with test errors.

    Args:
      contest: its order of settings and contestants.
      rows: the differences, see `experiments.studies.contest.results`; complete settings only.
      rankings: task -> measure -> its ranking, see `experiments.studies.flatness_study.report`.
      path: of the picture.
    """
    chosen = [
        row for row in rows if (row["quantity"], row["reference"]) == (QUANTITY, contest.baseline)
    ]
    settings = [one for one in contest.settings if any(row["setting"] == one for row in chosen)]
    height = max(SETTING_HEIGHT * len(settings), MEASURE_HEIGHT * len(MEASURES))
    with plots.drawing(path, 1, 2, height=height + FRAME_HEIGHT) as (_, panels):
        _draw_differences(panels[0], contest, chosen, settings)
        _draw_rankings(panels[1], rankings)
        for panel in panels:
            handles, labels = panel.get_legend_handles_labels()
            below = {"loc": "upper center", "bbox_to_anchor": (0.3, -0.55 / height)}
            panel.legend(handles, labels, ncols=len(labels), **below, **TIGHT)


def _draw_differences(panel, contest, rows, settings):
    names = [name for name in contest.contestants if name != contest.baseline]
    rows = [row for row in rows if row["contestant"] in names]
    height_of = lambda row: (
        settings.index(row["setting"]) + _shift(names.index(row["contestant"]), len(names))
    )
    half_of = lambda row: np.ptp(row["corrected_interval"]) / 2
    far = [row for row in rows if not max(abs(row["difference"]), half_of(row)) < FAR]
    for name in names:
        own = [row for row in rows if row["contestant"] == name and row not in far]
        values = [row["difference"] for row in own]
        intervals = [row["corrected_interval"] for row in own]
        style = {"color": plots.COLORS[name], "marker": plots.MARKERS[name]}
        heights = [height_of(row) for row in own]
        _draw_points(panel, values, intervals, heights, plots.NAMES[name], style)
    if far:  # room for what is written
        low, high = panel.get_xlim()
        panel.set_xlim(low, high + ROOM * (high - low))
    for row in far:
        side = {"transform": panel.get_yaxis_transform(), "ha": "right", "va": "center"}
        color = plots.COLORS[row["contestant"]]
        shown = f"{row['difference']:+.1f} ± {half_of(row):.1f} →"
        panel.text(1, height_of(row), shown, color=color, **side)
    _frame(panel, [setting.replace(", ", ",\n", 1) for setting in settings])
    panel.set_title("Which algorithm tests better?")
    panel.set_xlabel("← better: test error minus tuned SGD's")


def _draw_rankings(panel, rankings):
    for i, (task, measures) in enumerate(rankings.items()):
        found = [measures[name] for name in MEASURES]
        _draw_points(
            panel,
            [one["granulated"] for one in found],
            [one["granulated_interval"] for one in found],
            [height + _shift(i, len(rankings)) for height in range(len(found))],
            task,
            TASK_STYLES[i],
        )
    _frame(panel, list(MEASURES.values()))
    panel.set_title("Does flatness predict test error?")
    panel.set_xlabel("predicts →: τ with the test error")


def _shift(index, number):
    return SPREAD * ((index + 0.5) / number - 0.5)


def _draw_points(panel, values, intervals, heights, label, style):
    low, high = np.reshape(intervals, (-1, 2)).T
    panel.hlines(heights, low, high, color=style["color"], **plots.BAR | {"lw": 1.6})
    panel.plot(values, heights, ls="", ms=5, label=label, **style)


def _frame(panel, names):
    panel.axvline(0, color="black", lw=0.8, zorder=0)
    for edge in range(1, len(names)):
        panel.axhline(edge - 0.5, color="0.9", lw=0.8, zorder=0)
    panel.set_yticks(range(len(names)), names)
    panel.tick_params(axis="y", length=0)
    panel.set_ylim(len(names) - 0.5, -0.5)
