"""The map: settings by algorithms, with differences and intervals."""

import pathlib
from collections.abc import Sequence
from typing import Any

from experiments.report import plots
from experiments.studies.contest.description import Contest
from experiments.studies.contest.results import PRIMARY

BETTER, WORSE = "#B5DDF3", "#F7CF8B"  # pale, so that no algorithm's colour is taken for them
# Quantity -> title of its panel, factor, digits.
PANELS = {
    "test_error": ("test error, percentage points", 1.0, 2),
    "test_loss": ("test loss × 100", 100.0, 1),
}
LABEL_WIDTH, ROW_HEIGHT, NOTE_HEIGHT = 1.55, 0.36, 0.5  # inches


def draw(contest: Contest, rows: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws a panel for each quantity.

    A cell is coloured if its corrected interval excludes 0.

    Args:
      contest: its references, and the order of its settings.
      rows: the differences, see `experiments.studies.contest.results`.
      path: of the picture.
    """
    cells = {
        (row["quantity"], row["reference"], row["contestant"], row["setting"]): row for row in rows
    }
    is_there = lambda place, key: any(one[place] == key for one in cells)
    settings = [one for one in contest.settings if is_there(3, one)]
    columns = [
        (reference, name)
        for reference in (contest.baseline, *contest.references)
        for name in reversed(contest.contestants)
        if any(key[1:3] == (reference, name) for key in cells)
    ]
    height = len(PANELS) * ((len(settings) + 1) * ROW_HEIGHT + 0.35) + NOTE_HEIGHT
    with plots.drawing(path, len(PANELS), 1, height=height) as (figure, panels):
        figure.get_layout_engine().set(rect=(0, NOTE_HEIGHT / height, 1, 1 - NOTE_HEIGHT / height))
        for panel, quantity in zip(panels, PANELS, strict=True):
            _draw_panel(panel, quantity, settings, columns, cells)
        note = (
            "Difference of means over test seeds ± half of its interval at the corrected level.\n"
            "Blue: better than the reference; orange: worse; white: the interval holds 0.\n"
            "Bold: the comparisons that were fixed as primary; all others are exploratory."
        )
        figure.text(0.01, 0.004, note, fontsize=plots.SMALLEST, va="bottom")
        for panel in panels:
            panel.set_axis_off()


def _draw_panel(panel, quantity, settings, columns, cells):
    title, factor, digits = PANELS[quantity]
    left = -LABEL_WIDTH / ((plots.WIDTH - LABEL_WIDTH) / max(len(columns), 1))
    panel.set_xlim(left, len(columns))
    panel.set_ylim(len(settings), -1)
    panel.set_title(title)
    for x, (reference, name) in enumerate(columns):
        heading = f"{_name(name)} −\n{_name(reference)}"
        panel.text(x + 0.5, -0.5, heading, ha="center", va="center", fontsize=plots.SMALLEST)
    for y, setting in enumerate(settings):
        panel.text(left, y + 0.5, setting, va="center", fontsize=plots.SMALLEST)
        for x, (reference, name) in enumerate(columns):
            row = cells.get((quantity, reference, name, setting))
            if row is not None:
                is_primary = row["family"] == PRIMARY
                _draw_cell(panel, x, y, row, factor, digits, is_primary)


def _draw_cell(panel, x, y, row, factor, digits, is_primary):
    from matplotlib.patches import Rectangle

    mean = factor * row["difference"]
    low, high = (factor * end for end in row["corrected_interval"])
    color = "white" if low <= 0 <= high else BETTER if mean < 0 else WORSE
    panel.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor="#bbbbbb", lw=0.5))
    shown = lambda value: f"{value:+.{digits}f}".replace("-", "−")
    weight = "bold" if is_primary else "normal"
    middle = {"ha": "center", "va": "center"}
    half = f"± {(high - low) / 2:.{digits}f}"  # Student's interval is symmetric
    panel.text(x + 0.5, y + 0.31, shown(mean), fontweight=weight, **middle)
    panel.text(x + 0.5, y + 0.72, half, fontsize=plots.SMALLEST, color="0.3", **middle)


def _name(label) -> str:
    return plots.NAMES.get(label, label)
