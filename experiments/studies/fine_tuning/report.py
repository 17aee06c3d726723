"""The tables and the picture of the study, drawn from records."""

import pathlib
from typing import Any

import numpy as np

from experiments.report import plots, store
from experiments.report.statistics import mean_and_sem, with_error, with_sem
from experiments.report.tables import markdown_table
from experiments.studies.contest.report import choice_table, difference_table
from experiments.studies.contest.results import PRIMARY, Part, Results, comparisons
from experiments.studies.fine_tuning.description import FineTuning
from experiments.studies.fine_tuning.page import finite, page
from experiments.studies.fine_tuning.run import read_validation

QUANTITIES = ("new_error", "old_error")
COLORS = {
    "AdamW": plots.COLORS["adamw"],
    "SGD": plots.COLORS["sgd"],
    "SAM": plots.COLORS["sam"],
    "rSGD": plots.COLORS["rsgd"],
    "eSGD": plots.COLORS["esgd"],
    "soup": plots.COLORS["soup"],
}


def report(study: FineTuning, results: Results, out: pathlib.Path) -> str:
    """Writes fine_tuning.json, .md and .png, and page.md; returns the tables."""
    rows = comparisons(study, results, study.modes, QUANTITIES)
    outcomes = [
        summary(mode, arm, part) for mode, parts in results.items() for arm, part in parts.items()
    ]
    found = {"comparisons": rows, "outcomes": outcomes}
    store.write_json(out / "fine_tuning.json", found)
    is_primary = lambda row: row["family"] == PRIMARY
    sections = {
        "Primary: errors of the new classes, Holm's correction over all of them": (
            difference_table([row for row in rows if is_primary(row)], {})
        ),
        "Exploratory differences, corrected in families of one quantity and reference": (
            difference_table([row for row in rows if not is_primary(row)], {})
        ),
        "Outcomes, mean ± standard error over test seeds": outcome_table(study, outcomes),
        "Chosen settings": choice_table(outcomes),
    }
    text = "\n\n".join(f"## {title}\n\n{table}" for title, table in sections.items() if table)
    store.write_text(out / "fine_tuning.md", text + "\n")
    store.write_text(out / "page.md", page(study, results, rows))
    draw(study, results, out, out / "fine_tuning.png")
    return text


def summary(mode: str, arm: str, part: Part) -> dict[str, Any]:
    """Outcomes of an arm: means and standard errors over seeds.

    The error of a run that diverged is 100%; its losses do not count.
    """
    row: dict[str, Any] = {"setting": mode, "contestant": arm, "seeds": len(part.records)}
    first = part.records[0]
    row |= {
        name: mean_and_sem(finite(part.column(name)))
        for name in first
        if name.endswith(("_error", "_loss", "_error_among_all")) and isinstance(first[name], float)
    }
    row["lost"] = mean_and_sem(part.column("old_error") - part.column("pretrained_old_error"))
    for name in ("energy_error", "energy_loss"):
        columns = np.array([record[name] for record in part.records], dtype=float).T
        row[name] = [mean_and_sem(finite(column)) for column in columns]
    row["diverged"] = sum(record["new_loss"] is None for record in part.records)
    if "meeting" in first:
        for name in ("replicas", "distance"):
            row[name] = mean_and_sem([record["meeting"][name] for record in part.records])
    if part.search is not None:
        row |= {"settings": first["settings"], **part.search.summary()}
    return row


def outcome_table(study: FineTuning, outcomes: list[dict[str, Any]]) -> str:
    """Tabulates errors of both tasks, flatness, and LoRA's trap."""
    sigma = f"{study.sigmas[-1]:g}"
    lines = [
        [
            *("mode", "algorithm", "new error %", "old error %", "lost, points", "new loss"),
            *("train error %", f"rise of the loss, σ={sigma}", "replicas %", "mean of factors %"),
        ]
    ]
    for row in outcomes:
        shown = lambda name, row=row: with_error(*row[name], row["seeds"]) if name in row else ""
        loss, rise = row["new_loss"], row["energy_loss"][-1]
        lines.append(
            [
                *(row["setting"], row["contestant"], shown("new_error"), shown("old_error")),
                *(shown("lost"), with_sem(loss, 3), shown("train_error")),
                *(with_sem(rise, 3), shown("replicas")),
                shown("mean_of_factors_error"),
            ]
        )
    return markdown_table(lines)


def draw(study: FineTuning, results: Results, out: pathlib.Path, path: pathlib.Path) -> None:
    """Draws both errors, of candidates (validation) and choices (test)."""
    with plots.drawing(path, 1, len(results), height=4.4, squeeze=False) as (figure, panels):
        for panel, (mode, parts) in zip(panels[0], results.items(), strict=True):
            for arm, part in parts.items():
                base = study.base_of(arm)
                if arm == base:
                    x, y = _candidates(read_validation(study, mode, arm, out))
                    panel.scatter(x, y, s=10, color=COLORS[base], alpha=0.35, linewidths=0)
                _draw_test(panel, part, COLORS[base], arm, is_longer=arm != base)
            kept = np.mean([r["pretrained_old_error"] for r in part.records])
            panel.axhline(kept, color="#999999", lw=0.8, ls=":")
            panel.annotate(
                "before fine-tuning",
                (1, kept),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=plots.SMALLEST,
                color="#777777",
            )
            panel.set_title(mode)
            panel.set(xlabel="error of the new classes, %", ylabel="error of the old classes, %")
            plots.logarithmic(panel)
            low = min(part.column("new_error").mean() for part in parts.values())
            panel.set_xlim(low - 1, low + 5)
        plots.legend_below(figure, *panels[0][0].get_legend_handles_labels(), columns=8)


def _draw_test(panel, part, color, label, *, is_longer):
    """Draws the mean over runs that did not diverge."""
    is_finite = np.isfinite(part.column("new_loss"))
    (x, dx), (y, dy) = (mean_and_sem(part.column(name)[is_finite]) for name in QUANTITIES)
    panel.errorbar(
        x,
        y,
        dy,
        dx,
        color=color,
        marker="s" if is_longer else "o",
        markerfacecolor="white" if is_longer else color,
        ms=6,
        lw=1,
        label=label,
        ls="",
        zorder=3,
    )


def _candidates(records) -> tuple[list[float], list[float]]:
    """Returns the mean errors of each candidate over its seeds."""
    errors: dict[int, list[tuple[float, float]]] = {}
    for record in records:
        errors.setdefault(record["candidate"], []).append(
            (record["new_error"], record["old_error"])
        )
    means = [np.mean(own, axis=0) for own in errors.values()]
    return [float(x) for x, _ in means], [float(y) for _, y in means]
