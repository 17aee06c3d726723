"""The picture of `python -m experiments.benchmarks`, from its JSON file."""

import pathlib
from typing import Any

import numpy as np

from experiments.report import plots
from experiments.report.plots import COLORS

_PANELS = {
    "in units of plain steps": lambda name: "PyTorch" not in name,
    "in units of PyTorch": lambda name: name.endswith("JAX / PyTorch"),
}
_MODELS = {"mlp": "parle", "small_convnet": "sam", "resnet18": "rsgd"}


def draw(found: dict[str, Any], path: pathlib.Path) -> None:
    """Draws ratios of steps and of the local energy as points; 1 is the ideal."""
    rows = {
        model: dict(one["ratios"]) for model, one in found.get("steps", {}).get("found", {}).items()
    }
    for model, one in found.get("local-energy", {}).get("found", {}).items():
        rows.setdefault(model, {}).update(one["ratios"])
    if not rows:
        return
    names = list(dict.fromkeys(name for ratios in rows.values() for name in ratios))
    panels = {title: [name for name in names if of(name)] for title, of in _PANELS.items()}
    panels = {title: chosen for title, chosen in panels.items() if chosen}
    size = (5.6 * len(panels), 0.9 + 0.34 * max(map(len, panels.values())))
    with plots.drawing(path, 1, len(panels), figsize=size) as (_, axes):
        for axis, (title, chosen) in zip(np.atleast_1d(axes), panels.items(), strict=True):
            for model, ratios in rows.items():
                heights = [i for i, name in enumerate(chosen) if name in ratios]
                values = [ratios[chosen[i]] for i in heights]
                color = COLORS[_MODELS[model]]
                axis.plot(values, heights, "o", color=color, alpha=0.8, label=model)
            axis.axvline(1, color=COLORS["sgd"], lw=0.8)
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            labels = [name.replace(": JAX / PyTorch", "") for name in chosen]
            axis.set_yticks(range(len(chosen)), labels)
            axis.set_ylim(len(chosen) - 0.5, -0.5)
            axis.set_title(title, loc="left", fontweight="bold")
            axis.set_xlabel("ratio of times; less is faster")
        axis.legend(frameon=False)
