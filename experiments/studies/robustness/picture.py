"""The picture of the study: rises of the algorithms, and taus as heat maps."""

import pathlib
from typing import Any

import numpy as np

from experiments.report import plots
from experiments.report.ranking import Tau, Taus
from experiments.studies.robustness.description import OUTCOMES, PREDICTORS

RISES_HEIGHT, ROW_HEIGHT = 2.5, 0.26  # inches


def draw(outcomes: dict[str, dict[str, Any]], taus: dict[str, Taus], path: pathlib.Path) -> None:
    """Draws the rises of the first group, and a heat map for each group."""
    heat_height = (len(PREDICTORS) + 1) * ROW_HEIGHT + 0.45
    heights = [RISES_HEIGHT, *[heat_height for _ in taus]]
    options = {"gridspec_kw": {"height_ratios": heights}, "squeeze": False}
    height = sum(heights) + 0.3
    with plots.drawing(path, len(heights), 1, height=height, **options) as (_, panels):
        group, rows = next(iter(outcomes.items()))
        _draw_rises(panels[0][0], group, rows)
        for panel, (label, found) in zip(panels[1:], taus.items(), strict=True):
            _draw_heat(panel[0], label, found["all"])


def _draw_rises(panel, group, rows):
    """Rise of each outcome by algorithm, side by side."""
    shown = {name: row for name, row in rows.items() if row["seeds"]}
    for index, (name, row) in enumerate(shown.items()):
        x = np.arange(len(OUTCOMES)) + 0.15 * (index - (len(shown) - 1) / 2)
        mean, sem = np.array([row["rises"][outcome] for outcome in OUTCOMES]).T
        style = {
            "fmt": plots.MARKERS.get(name, "o"),
            "ms": 4,
            "lw": 1.2,
            "color": plots.COLORS[name],
        }
        panel.errorbar(x, mean, sem, label=plots.NAMES.get(name, name), **style)
    panel.axhline(0, color="#bbbbbb", lw=0.8, zorder=0)
    for edge in np.arange(1, len(OUTCOMES)) - 0.5:
        panel.axvline(edge, color="#eeeeee", lw=0.8, zorder=0)
    panel.set_yscale("symlog", linthresh=1)
    panel.set_ylim(bottom=-0.5)
    ticks = [0, 1, 2, 5, 10, 20, 50]
    panel.set_yticks(ticks, [str(tick) for tick in ticks])
    panel.minorticks_off()
    panel.set_xticks(range(len(OUTCOMES)), OUTCOMES.values())
    panel.set_xlim(-0.5, len(OUTCOMES) - 0.5)
    panel.set_ylabel("rise of the test error, points")
    panel.set_title(f"{group}: the algorithms")
    panel.legend(ncols=5, loc="upper left")


def _draw_heat(panel, group, taus: dict[str, dict[str, Tau]]):
    """Cells with tau; bold if it is clear."""
    grid = np.array([[row[outcome].value for outcome in OUTCOMES] for row in taus.values()])
    panel.imshow(grid, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    for y, row in enumerate(taus.values()):
        for x, outcome in enumerate(OUTCOMES):
            tau = row[outcome]
            if np.isfinite(tau.value):
                color = "white" if abs(tau.value) > 0.65 else "black"
                weight = "bold" if tau.is_clear else "normal"
                text = f"{tau.value:+.2f}".replace("-", "−")
                place = {"ha": "center", "va": "center", "fontsize": plots.SMALLEST}
                panel.text(x, y, text, color=color, fontweight=weight, **place)
    panel.set_yticks(range(len(taus)), [PREDICTORS[name] for name in taus])
    panel.set_xticks(range(len(OUTCOMES)), OUTCOMES.values())
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    title = f"{group}: Kendall's τ of predictor and rise (bold: clear)"
    panel.set_title(title)
