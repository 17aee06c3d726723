"""The table and the picture of the study, drawn from records."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.report import store
from experiments.report.meeting import Meetings
from experiments.report.statistics import mean_and_sem
from experiments.report.tables import markdown_table
from experiments.studies.language.description import Language
from experiments.studies.language.page import Records, megabytes, page
from experiments.studies.language.picture import draw


def summarize(study: Language, records: Records) -> list[dict[str, Any]]:
    """Makes a row for each arm with records: means over seeds and standard errors."""
    rows = []
    for arm, units in records.items():
        ends = [unit["curve"][-1] for unit in units.values()]
        flat = [unit["flatness"][-1] for unit in units.values()]
        period, step = study.period(arm), ends[0]["step"]
        couplings = 0 if period is None else step // period
        row = {
            "arm": arm,
            "seeds": len(units),
            "steps": step,
            "tokens": ends[0]["tokens"],
            "bits": mean_and_sem([unit["final"]["bits"] for unit in units.values()]),
            "messages": couplings * study.workers(arm),
            "megabytes": megabytes(study, arm, units),
            "rise_bits": mean_and_sem([one["rise_bits"][-1] for one in flat]),
            "cpu_seconds": mean_and_sem([unit["cpu_seconds"] for unit in units.values()]),
        }
        distances = [end["relative_distance"] for end in ends if "relative_distance" in end]
        coefficients = [one["coefficient"] for one in flat if "coefficient" in one]
        row["distance"] = float(np.mean(distances)) if distances else None
        row["coefficient"] = float(np.mean(coefficients)) if coefficients else None
        rows.append(row)
    return rows


def table(study: Language, rows: list[dict[str, Any]]) -> str:
    """Formats the rows as Markdown."""
    sigma = study.base.measures.sigmas[-1]
    rise = f"rise at sigma {sigma:g}, bits"
    header = ["arm", "seeds", "steps", "million tokens", "bits a byte", "messages", "MB a worker"]
    lines = [[*header, "distance", rise, "rough coefficient", "CPU s"]]
    for row in rows:
        shown = lambda value, form: "" if value is None else format(value, form)
        lines.append(
            [
                *(row["arm"], str(row["seeds"]), str(row["steps"]), f"{row['tokens'] / 1e6:.2f}"),
                _with_sem(row, "bits"),
                *(str(row["messages"]), f"{row['megabytes']:.1f}", shown(row["distance"], ".2g")),
                _with_sem(row, "rise_bits"),
                *(shown(row["coefficient"], ".0f"), f"{row['cpu_seconds'][0]:.0f}"),
            ]
        )
    return markdown_table(lines)


def _with_sem(row: Mapping[str, Any], name: str) -> str:
    """Shows a mean with its standard error, which one seed does not have."""
    mean, sem = row[name]
    return f"{mean:.3f}" if row["seeds"] == 1 else f"{mean:.3f} ± {sem:.3f}"


def meetings(records: Records) -> Meetings:
    """Of the runs of each arm, with their seeds."""
    return {
        arm: [(f"seed {seed}", unit["final"].get("meeting")) for seed, unit in units.items()]
        for arm, units in records.items()
    }


def report(study: Language, records: Records, out: pathlib.Path) -> str:
    """Writes language.json, .md and .png, and page.md; returns the table."""
    rows = summarize(study, records)
    store.write_json(out / "language.json", {"rows": rows})
    text = table(study, rows)
    store.write_text(out / "language.md", text + "\n")
    store.write_text(out / "page.md", page(study, records))
    draw(study, records, out / "language.png")
    return text
