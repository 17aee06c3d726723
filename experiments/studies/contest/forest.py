"""The picture of a later stage: a row for each contestant."""

import pathlib
from collections.abc import Sequence
from typing import Any

from experiments.report import plots
from experiments.studies.contest.description import Contest
from experiments.studies.contest.page import short_name

ROW_HEIGHT, MARGINS = 0.24, 1.0  # inches
# Intervals that are much wider than the others are cut, so that the others can be read.
WIDEST = 4.0


def draw(contest: Contest, rows: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws test errors minus the baseline's, a panel for each setting.

    Lines are 95% intervals. A point is filled if the corrected interval excludes 0. Intervals that
    are more than four times as wide as the median one are cut at the edge of the panel.

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
    last = {setting.rpartition(",")[2] for setting in settings}
    end = f",{min(last)}" if len(last) == 1 < len(settings) else ""  # what all labels share
    height = MARGINS + ROW_HEIGHT * len(names)
    with plots.drawing(path, 1, len(settings), height=height, squeeze=False) as (_, axes):
        for panel, setting in zip(axes[0], settings, strict=True):
            _draw_panel(panel, [row for row in own if row["setting"] == setting], names)
            panel.set_title(setting.removesuffix(end), fontsize=plots.SMALLEST)
            panel.set_xlabel(f"test error − {short_name(contest, contest.baseline)}, points")
            panel.set_yticks(range(len(names)))
            panel.set_yticklabels([])
        axes[0][0].set_yticklabels([short_name(contest, name) for name in names])


def _draw_panel(panel, rows, names):
    widths = sorted(row["interval"][1] - row["interval"][0] for row in rows)
    widest = WIDEST * widths[len(widths) // 2]
    shown = [row for row in rows if row["interval"][1] - row["interval"][0] <= widest]
    ends = [0.0, *(end for row in shown for end in row["interval"])]
    margin = 0.08 * (max(ends) - min(ends))
    panel.set_xlim(min(ends) - margin, max(ends) + margin)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.axvline(0, color="0.5", lw=0.8, zorder=0)
    for row in rows:
        y, (low, high) = names.index(row["contestant"]), row["corrected_interval"]
        color = plots.COLORS.get(row["contestant"].partition(",")[0], "#000000")
        face = "white" if low <= 0 <= high else color
        panel.plot(row["interval"], (y, y), color=color, **plots.BAR)
        panel.plot(row["difference"], y, "o", ms=5, color=color, mfc=face)
