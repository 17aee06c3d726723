"""Ranks the solutions of each cell; tabulates Kendall's tau."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.report import plots, store
from experiments.report.meeting import Meetings
from experiments.report.ranking import Tau, rank
from experiments.report.statistics import LEAST_FOR_TAU, or_nan
from experiments.report.tables import markdown_table
from experiments.studies.committee_flatness.description import Cell, CommitteeFlatness
from experiments.studies.committee_flatness.run import Records

Results = Mapping[Cell, Records]
# Name of an analysis -> its heading.
ANALYSES = {
    "matched": "At matched training error",
    "partial": "Given the training error",
    "all": "All solutions",
}


def report(study: CommitteeFlatness, results: Results, out: pathlib.Path) -> str:
    """Writes committee_flatness.json, .md and .png; returns the tables."""
    taus = {cell: rank_cell(study, records) for cell, records in results.items()}
    rows = [row for cell, records in results.items() for row in summarize(study, cell, records)]
    as_json = [
        {"patterns": size, "noise": noise} | {name: tau._asdict() for name, tau in found.items()}
        for (size, noise), found in taus.items()
    ]
    store.write_json(out / "committee_flatness.json", {"taus": as_json, "algorithms": rows})
    sections = [f"## {title}\n\n{tau_table(study, taus, name)}" for name, title in ANALYSES.items()]
    sections.append(f"## Algorithms\n\n{algorithm_table(rows)}")
    text = "\n\n".join(sections)
    store.write_text(out / "committee_flatness.md", text + "\n")
    draw(study, taus, out / "committee_flatness.png")
    return text


def matched_range(study: CommitteeFlatness, records: Records) -> tuple[float, float]:
    """Returns the range of training errors that holds most solutions.

    It is `study.width` points wide. Of several such ranges the lowest one is taken.
    """
    errors = np.sort([record["train_error"] for record in records])
    counts = np.searchsorted(errors, errors + study.width, side="right") - np.arange(len(errors))
    low = float(errors[np.argmax(counts)])
    return low, low + study.width


def matched(study: CommitteeFlatness, records: Records) -> Records:
    """Returns the solutions of nearly equal training error."""
    low, high = matched_range(study, records)
    return [record for record in records if low <= record["train_error"] <= high]


def rank_cell(
    study: CommitteeFlatness, records: Records, *, num_bootstrap: int = 2000
) -> dict[str, Tau]:
    """Ranks the solutions of a cell; leaves out analyses with too few settings."""
    found = {}
    planned = len(study.sizes) * len(study.noises)
    for name, used in (
        ("matched", matched(study, records)),
        ("partial", records),
        ("all", records),
    ):
        if len({record["solver"] for record in used}) < LEAST_FOR_TAU:
            continue
        column = lambda read, used=used: [or_nan(read(record)) for record in used]
        taus = rank(
            {
                "local energy": column(lambda record: record["local_energy"][0]),
                "training error": column(lambda record: record["train_error"]),
            },
            {"test error": column(lambda record: record["test_error"])},
            configurations=[record["solver"] for record in used],
            within=[record["subset"] for record in used],
            controls=["training error"],
            planned=planned,
            num_bootstrap=num_bootstrap,
        )
        kind = "partial within" if name == "partial" else "within"
        found[name] = taus[kind]["local energy"]["test error"]
    return found


def summarize(study: CommitteeFlatness, cell: Cell, records: Records) -> list[dict[str, Any]]:
    """Makes a row for each algorithm: medians, and how many solutions are matched."""
    rows, (low, high) = [], matched_range(study, records)
    for algorithm in study.solvers:
        own = [record for record in records if record["solver"].rsplit(" ", 1)[0] == algorithm]
        if not own:
            continue
        median = lambda name, own=own: round(float(np.median([r[name] for r in own])), 4)
        energies = [or_nan(record["local_energy"][0]) for record in own]
        rows.append(
            {
                "patterns": cell[0],
                "noise": cell[1],
                "algorithm": algorithm,
                "solutions": len(own),
                "matched": sum(low <= record["train_error"] <= high for record in own),
                "matched_range": [round(low, 4), round(high, 4)],
                "test_error": median("test_error"),
                "train_error": median("train_error"),
                "local_energy": round(float(np.nanmedian(energies)), 4),
                "unit_overlap": median("unit_overlap"),
            }
        )
    return rows


def meetings(results: Results) -> Meetings:
    """Lists the meetings of replicas, with their cells."""
    found: Meetings = {}
    for (size, noise), records in results.items():
        for record in records:
            algorithm = record["solver"].rsplit(" ", 1)[0]
            place = f"P = {size}, noise {noise:g}"
            found.setdefault(algorithm, []).append((place, record.get("meeting")))
    return found


def tau_table(study: CommitteeFlatness, taus: Mapping[Cell, Mapping[str, Tau]], name: str) -> str:
    """Tabulates an analysis: a row for each size, a column for each noise.

    A star marks coefficients that are clear. A cell without enough solutions is empty.
    """
    lines = [["patterns", *(f"noise {noise:g}" for noise in study.noises)]]
    for size in study.sizes:
        shown = [taus.get((size, noise), {}).get(name) for noise in study.noises]
        cells = ["" if tau is None else tau.shown("interval") for tau in shown]
        lines.append([str(size), *cells])
    return markdown_table(lines)


def algorithm_table(rows: list[dict[str, Any]]) -> str:
    """Tabulates the rows of `summarize`."""
    names = ["patterns", "noise", "algorithm", "matched", "from", "test error %"]
    names += ["training error %"]
    lines = [[*names, "local energy %", "overlap"]]
    for row in rows:
        lines.append(
            [
                str(row["patterns"]),
                f"{row['noise']:g}",
                row["algorithm"],
                f"{row['matched']}/{row['solutions']}",
                f"{row['matched_range'][0]:.2f}",
                f"{row['test_error']:.2f}",
                f"{row['train_error']:.2f}",
                f"{row['local_energy']:.2f}",
                f"{row['unit_overlap']:.2f}",
            ]
        )
    return markdown_table(lines)


def draw(
    study: CommitteeFlatness, taus: Mapping[Cell, Mapping[str, Tau]], path: pathlib.Path
) -> None:
    """Draws tau against the number of patterns, with a line for each noise."""
    shown = ("matched", "partial")
    with plots.drawing(path, 1, len(shown), height=3.0, sharey=True) as (figure, panels):
        for panel, name in zip(panels, shown, strict=True):
            for color, noise in zip(plots.shades(len(study.noises)), study.noises, strict=True):
                own = [
                    (size, found[name])
                    for (size, of), found in taus.items()
                    if of == noise and name in found and np.isfinite(found[name].value)
                ]
                if own:
                    sizes, found = zip(*own, strict=True)
                    ends = np.array([tau.interval for tau in found]).T
                    panel.vlines(sizes, *ends, color=color, **plots.BAR)
                    values = [tau.value for tau in found]
                    label = f"{noise:.0%} wrong labels"
                    panel.plot(sizes, values, color=color, marker="o", ms=4, label=label)
            panel.axhline(0, color="0.6", lw=0.8)
            panel.set(xlabel="training patterns, P", xscale="log", xticks=study.sizes)
            panel.xaxis.set_major_formatter("{x:g}")
            panel.minorticks_off()
            panel.set_title(ANALYSES[name])
        panels[0].set_ylabel("τ of local energy and test error")
        handles, labels = panels[-1].get_legend_handles_labels()
        plots.legend_below(figure, handles, labels, len(study.noises))
