"""Pictures of reports: local energy against noise, and which solution is flatter."""

from typing import Any

import numpy as np

from flatjax.flatness import _optional

# At 100 dots per inch a picture is 736 pixels wide, the width of a column of text.
WIDTH, DPI = 7.36, 100
# The palette of Okabe and Ito, for colour-blind readers.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#8c8c8c"
# Ticks of the relative difference r = (q - 1) / (q + 1), for the ratio q of two numbers.
RATIOS = (10, 3, 1.5, 1, 1 / 1.5, 1 / 3, 1 / 10)


def new_figure(caller: str, height: float, figure: Any = None) -> Any:
    """Returns the given figure, or a new one that is 736 pixels wide."""
    plt = _optional.require("matplotlib.pyplot", caller)
    if figure is None:
        return plt.figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    figure.set_size_inches(WIDTH, height)
    return figure


def plot_report(report: Any, figure: Any = None) -> Any:
    """Draws the picture of `Report.plot`."""
    rows = [row for row in report.rows if row.measure == "local_energy"]
    if not rows:
        raise ValueError("plot shows the local energy: measure it, with measures=['local_energy'].")
    figure = new_figure("Report.plot", 3.2, figure)
    labels = list(dict.fromkeys(row.label for row in rows))
    for panel, label in enumerate(labels):
        ax = figure.add_subplot(1, len(labels), panel + 1)
        for number, block in enumerate(report.num_weights):
            shown = [row for row in rows if row.label == label and row.block == block]
            sigma = [float(row.setting.removeprefix("σ = ")) for row in shown]
            half = [row.interval()[1] - row.value for row in shown]
            color = COLORS[number % len(COLORS)]
            values = [row.value for row in shown]
            ax.errorbar(sigma, values, half, label=block, color=color, capsize=2, marker="o", ms=3)
        quantity = label.removeprefix("local energy, ")
        ax.set(xlabel="σ, noise relative to each weight", ylabel=f"δE(σ), rise of the {quantity}")
        ax.axhline(0, color=GREY, linewidth=0.8)
        ax.legend(title="weights that move, 95 %", frameon=False)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def plot_comparison(comparison: Any, figure: Any = None) -> Any:
    """Draws the picture of `Comparison.plot`."""
    names = [name for name in comparison.reports if name != comparison.first]
    lines = list(dict.fromkeys((d.block, d.label, d.setting) for d in comparison.differences))
    figure = new_figure("Comparison.plot", 1.5 + 0.26 * len(lines) * max(1, len(names) / 2), figure)
    ax = figure.add_subplot()
    several_blocks = len({block for block, _, _ in lines}) > 1
    for number, name in enumerate(names):
        offset = (number - (len(names) - 1) / 2) * 0.7 / len(names)
        own = [d for d in comparison.differences if d.solution == name]
        for d in own:
            at = lines.index((d.block, d.label, d.setting)) + offset
            _draw(ax, d, at, comparison.first, COLORS[number % len(COLORS)], len(names) == 1)
    _label(ax, comparison, names, lines, several_blocks)
    return figure


def _draw(ax, d, at, first, color, is_only):
    """Draws a dot with its interval in the flatter solution's colour, or grey."""
    low, middle, high = d.relative
    if is_only and d.flatter == first:
        color = COLORS[1]
    color = GREY if d.flatter is None else color
    if np.isfinite([low, high]).all():
        ax.plot([low, high], [at, at], color=color, linewidth=2, solid_capstyle="butt", zorder=2)
    filled = color if d.flatter else "white"
    ax.plot(middle, at, "o", color=color, markerfacecolor=filled, markersize=6, zorder=3)


def _label(ax, comparison, names, lines, several_blocks):
    import matplotlib.lines

    named = names[0] if len(names) == 1 else "the other"
    ticks = [(q - 1) / (q + 1) for q in RATIOS]
    ax.set_xticks(ticks, [f"{q if q > 1 else 1 / q:g}×" if q != 1 else "equal" for q in RATIOS])
    text = lambda block, label, at: (
        f"{block}: {label}, {at}" if several_blocks else f"{label}, {at}"
    )
    ax.set_yticks(range(len(lines)), [text(*line) for line in lines])
    ax.set(xlim=(-1.02, 1.02), ylim=(len(lines) - 0.5, -0.5))
    ax.axvline(0, color="black", linewidth=1, zorder=1)
    left, right = COLORS[0], COLORS[1]
    ax.axvspan(-1.02, 0, color=left if len(names) == 1 else GREY, alpha=0.06)
    ax.axvspan(0, 1.02, color=right if len(names) == 1 else "white", alpha=0.06)
    above = {"transform": ax.get_xaxis_transform(), "va": "bottom", "fontweight": "bold"}
    ax.text(
        -0.5,
        1.01,
        f"{named} is flatter",
        ha="center",
        color=left if len(names) == 1 else "black",
        **above,
    )
    ax.text(
        0.5,
        1.01,
        f"{comparison.first} is flatter",
        ha="center",
        color=right if len(names) == 1 else "black",
        **above,
    )
    ax.set_xlabel(
        f"ratio of the two numbers, with {100 * comparison.confidence:g} % interval; "
        "grey: undecided"
    )
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right", "left"]].set_visible(False)
    if len(names) > 1:
        handles = [
            matplotlib.lines.Line2D([], [], color=COLORS[n % len(COLORS)], marker="o", label=name)
            for n, name in enumerate(names)
        ]
        ax.legend(handles=handles, title=f"against {comparison.first}", frameon=False, loc="best")
