"""What is reported of saved runs: a table of all measures, and curves of the local energy."""

import pathlib
from typing import Any

import numpy as np

from experiments.report import plots, store
from experiments.report.plots import COLORS
from experiments.report.tables import markdown_table
from experiments.studies.flatness.description import MEASURES, Effort


def report(rows: list[dict[str, Any]], effort: Effort, out: pathlib.Path) -> str:
    """Writes flatness.md and flatness.png; returns the table."""
    text = table(rows, effort)
    store.write_text(out / "flatness.md", text + "\n")
    draw(rows, out / "flatness.png")
    return text


def table(rows: list[dict[str, Any]], effort: Effort) -> str:
    """One line for each measure, one column for each run, as Markdown."""
    names = [pathlib.Path(row["run"]) for row in rows]
    header = ["measure", *(f"{name.parent.name}/{name.name}" for name in names)]
    lines = [header, ["test error %", *(f"{row['test_error']:.2f}" for row in rows)]]
    lines.append(["training error %", *(f"{row['train_error']:.2f}" for row in rows)])
    for name, title in MEASURES.items():
        values = [np.format_float_positional(row[name], 4, fractional=False) for row in rows]
        lines.append([title.format(sigma=effort.sigma), *values])
    return markdown_table(lines)


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Local energy against noise, a curve for each run, and test error against local energy."""
    with plots.drawing(path, 1, 2, figsize=(9, 3.8)) as (_, (curves, scatter)):
        labelled = set()
        for row in rows:
            color, curve = COLORS[row["algorithm"]], row["curve"]
            label = None if row["algorithm"] in labelled else row["algorithm"]
            labelled.add(row["algorithm"])
            curves.errorbar(
                curve["sigma"], curve["error"], curve["error_sem"], color=color, label=label
            )
            scatter.plot(row["local_energy"], row["test_error"], "o", color=color)
        curves.set(xlabel="noise σ (multiplicative)", ylabel="rise of training error (%)")
        curves.set_title("local energy", loc="left", fontweight="bold")
        curves.legend(frameon=False)
        scatter.set(xlabel="local energy (%)", ylabel="test error (%)")
        scatter.set_title("flatness and generalisation", loc="left", fontweight="bold")
