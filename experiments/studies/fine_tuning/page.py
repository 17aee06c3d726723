"""The tables of the study's chapter in docs/results."""

from typing import Any

import numpy as np

from experiments.report.statistics import (
    mean_and_sem,
    paired_difference,
    with_error,
    with_interval,
    with_sem,
)
from experiments.report.tables import markdown_table
from experiments.studies.contest.results import Part, Results
from experiments.studies.fine_tuning.description import LORA, FineTuning

Parts = dict[str, Part]


def page(study: FineTuning, results: Results, comparisons: list[dict[str, Any]]) -> str:
    """Returns all tables in Markdown, for a chapter to which sentences are added."""
    tables = [errors(study, mode, parts, comparisons) for mode, parts in results.items()]
    tables += [flatness(mode, parts) for mode, parts in results.items()]
    if LORA in results:
        tables.append(means(results[LORA]))
    tables += [choices(mode, parts) for mode, parts in results.items()]
    return "\n\n".join(tables) + "\n"


def errors(study: FineTuning, mode: str, parts: Parts, comparisons: list[dict[str, Any]]) -> str:
    """Tabulates test errors of both tasks, and differences from the baseline."""
    base = study.baseline
    lines = [[mode, "new %", f"minus {base}", "p", "old %", f"minus {base}"]]
    p = {
        row["contestant"]: f"{row['p_corrected']:.2g}"
        for row in comparisons
        if (row["setting"], row["reference"], row["quantity"]) == (mode, base, "new_error")
    }
    for arm, part in parts.items():
        new, old = _shown(part.column("new_error")), _shown(part.column("old_error"))
        if arm == base or base not in parts:
            lines.append([arm, new, "", "", old, ""])
            continue
        to_new, to_old = (
            _difference(part.column(name), parts[base].column(name), digits)
            for name, digits in (("new_error", 2), ("old_error", 1))
        )
        lines.append([arm, new, to_new, p[arm], old, to_old])
    return markdown_table(lines)


def flatness(mode: str, parts: Parts) -> str:
    """Tabulates the fit, the rise of the training loss under noise, and forgetting."""
    lines = [[mode, "train error %", "test loss", "rise of the loss", "old, among all %"]]
    for arm, part in parts.items():
        rises = np.array([record["energy_loss"][-1] for record in part.records], dtype=float)
        lines.append(
            [
                *(arm, _shown(part.column("train_error"))),
                with_sem(mean_and_sem(finite(part.column("new_loss"))), 3),
                with_sem(mean_and_sem(finite(rises)), 3),
                _shown(part.column("old_error_among_all")),
            ]
        )
    return markdown_table(lines)


def means(parts: Parts) -> str:
    """Tabulates replicas, the mean of their products, and the mean of their factors."""
    lines = [[LORA, "one replica %", "mean of products %", "mean of factors %", "distance"]]
    for arm, part in parts.items():
        if "meeting" not in part.records[0]:
            continue
        meetings = [record["meeting"] for record in part.records]
        lines.append(
            [
                *(arm, _shown([one["replicas"] for one in meetings])),
                _shown(part.column("new_error")),
                _shown(part.column("mean_of_factors_error")),
                f"{np.mean([one['distance'] for one in meetings]):.2f}",
            ]
        )
    return markdown_table(lines)


def choices(mode: str, parts: Parts) -> str:
    """Tabulates the chosen settings."""
    found = {arm: part for arm, part in parts.items() if part.search is not None}
    settings = {arm: part.records[0]["settings"] for arm, part in found.items()}
    lines = [[f"chosen, {mode}", *found]]
    for name in dict.fromkeys(name for own in settings.values() for name in own):
        values = [f"{own[name]:.3g}" if name in own else "" for own in settings.values()]
        lines.append([name.replace("_", " "), *values])
    numbers = [len(part.search.candidates) for part in found.values() if part.search]
    return markdown_table([*lines, ["candidates", *map(str, numbers)]])


def finite(values: np.ndarray) -> np.ndarray:
    """Returns the values without those of runs that diverged."""
    return values[np.isfinite(values)]


def _shown(values: Any) -> str:
    return with_error(*mean_and_sem(values), len(values))


def _difference(values: np.ndarray, baseline: np.ndarray, digits: int) -> str:
    mean, interval, _ = paired_difference(values, baseline)
    return with_interval(mean, interval, digits)
