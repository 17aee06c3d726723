"""The picture of a later stage: a row for each contestant."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.report import plots
from experiments.studies.contest.description import Contest
from experiments.studies.contest.page import short_name

ROW_HEIGHT, TITLE_HEIGHT, NOTE_HEIGHT = 0.24, 0.55, 0.35  # inches
MOST_IN_A_ROW = 3  # panels
# Times the median distance from 0: what reaches further is cut, so that the others can be read.
FAR = 5.0


def draw(contest: Contest, rows: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws test errors minus the baseline's, a panel for each setting.

    Lines are 95% intervals. A point is filled if the corrected interval excludes 0. A panel ends at
    five times the median distance from 0: a point beyond it is an arrow and a number.

    Args:
      contest: its baseline, and the order of settings and contestants.
      rows: the differences, see `experiments.studies.contest.results`.
      path: of the picture.
    """
    own = [
        row
        for row in rows
        if row["quantity"] == "test_error" and row["reference"] == contest.baseline
    ]
    settings = [one for one in contest.settings if any(row["setting"] == one for row in own)]
    compared = dict.fromkeys(row["contestant"] for row in own)
    names = [name for name in contest.contestants if name in compared]
    names += [name for name in compared if name not in names]  # along the baseline's runs
    labels = [short_name(contest, name) for name in names]
    ends = {setting.rpartition(",")[2] for setting in settings}
    shared = f",{min(ends)}" if len(ends) == 1 < len(settings) else ""
    columns = min(len(settings), MOST_IN_A_ROW)
    lines = -(-len(settings) // columns)
    height = lines * (TITLE_HEIGHT + ROW_HEIGHT * len(names)) + NOTE_HEIGHT
    with plots.drawing(path, lines, columns, height=height, sharey=True, squeeze=False) as drawn:
        figure, panels = drawn
        for panel in panels.flat[len(settings) :]:
            panel.set_axis_off()
        for panel, setting in zip(panels.flat, settings, strict=False):
            _draw_panel(panel, [row for row in own if row["setting"] == setting], names)
            panel.set_title(setting.removesuffix(shared), fontsize=plots.SMALLEST)
        panels[0, 0].set_yticks(range(len(names)), labels)
        panels[0, 0].set_ylim(len(names) - 0.5, -0.5)
        of = f"test error − {short_name(contest, contest.baseline)}, points"
        figure.supxlabel(of, fontsize=plots.STYLE["font.size"])


def _draw_panel(panel, rows, names):
    distances = [max(map(abs, row["interval"])) for row in rows]
    far = FAR * float(np.median(distances))
    shown = [row["interval"] for row, d in zip(rows, distances, strict=True) if d <= far]
    points = [row["difference"] for row in rows if abs(row["difference"]) <= far]
    ends = [0.0, *points, *(end for interval in shown for end in interval)]
    margin = 0.08 * (max(ends) - min(ends))
    low, high = min(ends) - margin, max(ends) + margin
    panel.set_xlim(low, high)
    panel.axvline(0, color="0.5", lw=0.8, zorder=0)
    for row in rows:
        y, mean = names.index(row["contestant"]), row["difference"]
        color = plots.COLORS.get(row["contestant"].partition(",")[0].split()[0], "#000000")
        below, above = row["corrected_interval"]
        face = "white" if below <= 0 <= above else color
        panel.plot(row["interval"], (y, y), color=color, **plots.BAR)
        if low <= mean <= high:
            panel.plot(mean, y, "o", ms=5, color=color, mfc=face)
        else:
            _point_beyond(panel, y, mean, low if mean < low else high, color, face)


def _point_beyond(panel, y, mean, end, color, face):
    """Draws an arrow at an end of the panel, with the number of a point beyond."""
    is_right = mean > 0
    panel.plot(end, y, ">" if is_right else "<", ms=5, color=color, mfc=face, clip_on=False)
    panel.annotate(
        f"{mean:+.1f}".replace("-", "−"),
        (end, y),
        xytext=(-6 if is_right else 6, 0),
        textcoords="offset points",
        ha="right" if is_right else "left",
        va="center",
        fontsize=plots.SMALLEST,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )
