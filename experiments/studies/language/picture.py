"""The picture of the study: messages, training and flatness."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.report import plots
from experiments.studies.language.description import Language
from experiments.studies.language.page import TOKENS, Records, megabytes

# The first word of an arm's name -> its colour.
COLORS = {name: plots.COLORS[name.lower()] for name in ("AdamW", "DiLoCo", "rSGD", "Parle")}
# End of an arm's name -> its marker.
MARKERS = {"K=1": "o", "K=16": "s", "K=64": "^", "steps": "P"}


def draw(study: Language, records: Records, path: pathlib.Path) -> None:
    """Draws bits against bytes sent and steps, and flatness against bits."""
    with plots.drawing(path, 1, 3, height=3.8) as (figure, panels):
        messages, training, flatness = panels
        lines: dict[str, list[tuple[float, float]]] = {}
        for arm, units in records.items():
            style = _style(study, arm)
            curve = {name: _mean(units, "curve", name) for name in ("step", "bits")}
            final = float(np.mean([unit["final"]["bits"] for unit in units.values()]))
            if sent := megabytes(study, arm, units):
                lines.setdefault(arm.split(", K")[0], []).append((sent, final))
                messages.plot(sent, final, **style)
            else:
                messages.axhline(final, color=style["color"], lw=0.8, ls=":")
            if arm in study.primary:
                dashed = "--" if arm == TOKENS else "-"
                training.plot(*curve.values(), **style, ls=dashed, markevery=[-1])
            rises = _mean(units, "flatness", "rise_bits")[:, -1]
            bits = np.interp(_mean(units, "flatness", "step"), *curve.values())
            flatness.plot(bits, rises, **style, markevery=[-1])
        for name, points in lines.items():
            x, y = zip(*sorted(points), strict=True)
            messages.plot(x, y, color=_color(name), lw=1, zorder=1)
        messages.set(xscale="log", xlabel="MB sent by each worker", ylabel="held-out bits a byte")
        messages.set_title("Messages")
        training.set(xlabel="sequential steps", ylabel="held-out bits a byte", title="Training")
        sigma = study.base.measures.sigmas[-1]
        flatness.set(xlabel="held-out bits a byte", ylabel=f"rise at σ = {sigma:g}, bits")
        flatness.set_title("Flatness: half to end")
        plots.legend_below(figure, *flatness.get_legend_handles_labels(), columns=4)


def _color(arm: str) -> str:
    return COLORS[arm.split(",")[0]]


def _style(study: Language, arm: str) -> dict[str, Any]:
    """Colours show algorithms, markers the period; one worker is hollow."""
    color, has_one = _color(arm), study.workers(arm) == 1
    return {
        "color": color,
        "marker": MARKERS.get(arm.rsplit(" ", 1)[-1], "D"),
        "markerfacecolor": "white" if has_one else color,
        "ms": 5,
        "lw": 1,
        "label": arm,
    }


def _mean(units: Mapping[int, Mapping[str, Any]], curve: str, name: str) -> np.ndarray:
    """Averages a quantity along a curve over seeds."""
    return np.mean([[at[name] for at in unit[curve]] for unit in units.values()], axis=0)
