"""The picture of `python -m experiments.benchmarks`, from its JSON file."""

import pathlib
from typing import Any

import numpy as np

from experiments.report import plots

_PANELS = {
    "in units of plain steps": lambda name: "PyTorch" not in name,
    "in units of PyTorch": lambda name: name.endswith("JAX / PyTorch"),
}
_TICKS = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 8, 16)
# Networks are told apart by markers and shades; colours belong to algorithms.
NETWORKS = {
    "mlp": {"marker": "o", "color": "#000000"},
    "small_convnet": {"marker": "s", "color": "#999999"},
    "resnet18": {"marker": "^", "color": "#000000", "mfc": "white"},
}


def draw(found: dict[str, Any], path: pathlib.Path) -> None:
    """Draws ratios of steps and of the local energy as points; 1 is the ideal."""
    rows = {
        model: dict(one["ratios"]) for model, one in found.get("steps", {}).get("found", {}).items()
    }
    for model, one in found.get("local-energy", {}).get("found", {}).items():
        rows.setdefault(model, {}).update(one["ratios"])
    if not rows:
        return
    from matplotlib.ticker import FixedLocator

    names = list(dict.fromkeys(name for ratios in rows.values() for name in ratios))
    panels = {title: [name for name in names if of(name)] for title, of in _PANELS.items()}
    panels = {title: chosen for title, chosen in panels.items() if chosen}
    height = 1.2 + 0.24 * max(map(len, panels.values()))
    with plots.drawing(path, 1, len(panels), height=height) as (figure, axes):
        for axis, (title, chosen) in zip(np.atleast_1d(axes), panels.items(), strict=True):
            for model, ratios in rows.items():
                heights = [i for i, name in enumerate(chosen) if name in ratios]
                values = [ratios[chosen[i]] for i in heights]
                axis.plot(values, heights, ls="", ms=5, label=model, **NETWORKS[model])
            axis.axvline(1, color="0.5", lw=0.8, zorder=0)
            for height in range(len(chosen)):
                axis.axhline(height, color="0.92", lw=0.8, zorder=-1)
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_locator(FixedLocator(_TICKS))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.minorticks_off()
            labels = [name.replace(": JAX / PyTorch", "") for name in chosen]
            axis.set_yticks(range(len(chosen)), labels)
            axis.set_ylim(len(chosen) - 0.5, -0.5)
            axis.set_title(title)
            axis.set_xlabel("ratio of times; less is faster")
        handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
        plots.legend_below(figure, handles, labels, len(labels))
