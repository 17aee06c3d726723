"""The table and the picture of the study, drawn from records."""

import pathlib
from typing import Any

import numpy as np

from experiments.report import store
from experiments.report.meeting import Meetings
from experiments.report.statistics import mean_and_sem, with_error
from experiments.report.tables import markdown_table
from experiments.studies.language.description import Language
from experiments.studies.language.page import (
    Records,
    megabytes,
    page,
    searches_table,
    tuned_table,
)
from experiments.studies.language.picture import draw
from experiments.studies.language.tuned import Tuned, read_tuned


def summarize(study: Language, records: Records) -> list[dict[str, Any]]:
    """Makes a row for each arm with records: means over seeds and standard errors."""
    rows = []
    for arm, units in records.items():
        ends = [unit["curve"][-1] for unit in units.values()]
        flat = [unit["flatness"][-1] for unit in units.values()]
        row = {
            "arm": arm,
            "seeds": len(units),
            "steps": study.steps_of(arm),
            "tokens": ends[0]["tokens"],
            "bits": mean_and_sem([unit["final"]["bits"] for unit in units.values()]),
            "messages": study.couplings(arm) * study.workers(arm),
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
                with_error(*row["bits"], row["seeds"], digits=3),
                *(str(row["messages"]), f"{row['megabytes']:.1f}", shown(row["distance"], ".2g")),
                with_error(*row["rise_bits"], row["seeds"], digits=3),
                *(shown(row["coefficient"], ".0f"), f"{row['cpu_seconds'][0]:.0f}"),
            ]
        )
    return markdown_table(lines)


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
    store.write_text(out / "page.md", page(study, records, read_tuned(study, out)))
    draw(study, records, out / "language.png")
    return text


def tuned_meetings(tuned: Tuned) -> Meetings:
    """Of the runs with chosen settings."""
    return meetings(tuned.records)


def report_tuned(study: Language, tuned: Tuned, out: pathlib.Path) -> str:
    """Returns the tables of the searches and of the runs with chosen settings."""
    return f"{searches_table(tuned)}\n\n{tuned_table(study, tuned)}"
