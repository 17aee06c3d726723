"""Ranks the solutions of equal training error by each predictor."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.report import plots, store
from experiments.report.meeting import Meetings
from experiments.report.ranking import Taus, rank
from experiments.report.statistics import LEAST_FOR_TAU, or_nan
from experiments.report.tables import markdown_table
from experiments.studies.matched_flatness.description import (
    CONTROLS,
    OUTCOMES,
    PREDICTORS,
    MatchedFlatness,
)
from experiments.studies.solutions import Records, Results

# Kinds of coefficients, see `rank`: pairs are always on the same data.
KINDS = {"within": "τ", "partial within": "Partial τ"}


def report(study: MatchedFlatness, results: Results, out: pathlib.Path) -> str:
    """Writes matched_flatness.json, .md and .png; returns the tables."""
    taus = {network: rank_network(study, parts) for network, parts in results.items()}
    taus = {network: found for network, found in taus.items() if found}
    rows = [row for network, parts in results.items() for row in summarize(study, network, parts)]
    as_json = {
        network: {
            kind: {
                name: {outcome: tau._asdict() for outcome, tau in row.items()}
                for name, row in found[kind].items()
            }
            for kind in KINDS
        }
        for network, found in taus.items()
    }
    store.write_json(out / "matched_flatness.json", {"taus": as_json, "algorithms": rows})
    sections = {}
    if taus:
        sections["Local energy and test error"] = planned_table(taus, rows)
        for outcome, shown in OUTCOMES.items():
            for kind, title in KINDS.items():
                sections[f"{title}, {shown}"] = tau_table(taus, kind, outcome)
        draw(taus, out / "matched_flatness.png")
    sections["Algorithms"] = algorithm_table(rows)
    text = "\n\n".join(f"## {title}\n\n{table}" for title, table in sections.items())
    store.write_text(out / "matched_flatness.md", text + "\n")
    return text


def is_used(study: MatchedFlatness, record: dict[str, Any]) -> bool:
    """Whether a solution is ranked: it has learned its training images."""
    return not record.get("diverged") and record["train_error"] <= study.matched


def rank_network(
    study: MatchedFlatness, parts: Mapping[str, Records], *, num_bootstrap: int = 2000
) -> Taus:
    """Ranks the solutions of a network; empty if too few settings match."""
    used = [
        (name, record)
        for name, records in parts.items()
        for record in records
        if is_used(study, record)
    ]
    configurations = [(name, record["settings"]) for name, record in used]
    if len({str(one) for one in configurations}) < LEAST_FOR_TAU:
        return {}
    column = lambda read: [or_nan(read(record)) for _, record in used]
    return rank(
        {name: column(lambda r, name=name: r["predictors"][name]) for name in PREDICTORS},
        {name: column(lambda r, name=name: r[name]) for name in OUTCOMES},
        configurations=configurations,
        within=[record["seed"] for _, record in used],
        controls=CONTROLS,
        planned=len(study.networks) * len(KINDS),
        num_bootstrap=num_bootstrap,
    )


def summarize(
    study: MatchedFlatness, network: str, parts: Mapping[str, Records]
) -> list[dict[str, Any]]:
    """Makes a row for each algorithm: medians over its ranked solutions."""
    rows = []
    for name, records in parts.items():
        used = [record for record in records if is_used(study, record)]
        row = {"network": network, "algorithm": name, "runs": len(records), "ranked": len(used)}
        if used:
            median = lambda values: round(float(np.median([or_nan(v) for v in values])), 4)
            row |= {key: median(r[key] for r in used) for key in (*OUTCOMES, "train_error")}
            row |= {key: median(r["predictors"][key] for r in used) for key in PREDICTORS}
        rows.append(row)
    return rows


def meetings(results: Results) -> Meetings:
    """Lists the meetings of the replicas of each algorithm, with their networks."""
    found: Meetings = {}
    for network, parts in results.items():
        for name, records in parts.items():
            own = [(network, record.get("meeting")) for record in records]
            found.setdefault(name, []).extend(own)
    return found


def algorithm_table(rows: list[dict[str, Any]]) -> str:
    """Tabulates the rows of `summarize`."""
    lines = [["network", "algorithm", "ranked", "test error %", "test loss", "local energy %"]]
    for row in rows:
        keys = {"test_error": 2, "test_loss": 3, "local_energy": 2}
        shown = [f"{row[key]:.{n}f}" if key in row else "" for key, n in keys.items()]
        ranked = f"{row['ranked']}/{row['runs']}"
        lines.append([row["network"], row["algorithm"], ranked, *shown])
    return markdown_table(lines)


def planned_table(taus: Mapping[str, Taus], rows: list[dict[str, Any]]) -> str:
    """Tabulates the planned coefficients; a star marks those that are clear."""
    lines = [["network", "ranked", *KINDS.values()]]
    for network, found in taus.items():
        own = [row for row in rows if row["network"] == network]
        ranked = f"{sum(row['ranked'] for row in own)}/{sum(row['runs'] for row in own)}"
        taus_of = [found[kind]["local_energy"]["test_error"] for kind in KINDS]
        lines.append([network, ranked, *(tau.shown("interval") for tau in taus_of)])
    return markdown_table(lines)


def tau_table(taus: Mapping[str, Taus], kind: str, outcome: str) -> str:
    """Tabulates a kind of coefficient; a star marks those that are clear."""
    lines = [["predictor", *taus]]
    for name, title in PREDICTORS.items():
        lines.append([title, *(found[kind][name][outcome].shown("sem") for found in taus.values())])
    return markdown_table(lines)


def draw(taus: Mapping[str, Taus], path: pathlib.Path) -> None:
    """Draws the coefficients with the test error, a panel for each kind."""
    heights = np.arange(len(PREDICTORS))
    with plots.drawing(path, 1, len(KINDS), height=3.2, sharey=True) as (figure, panels):
        for panel, (kind, title) in zip(panels, KINDS.items(), strict=True):
            for shift, (color, (network, found)) in enumerate(
                zip(plots.shades(len(taus)), taus.items(), strict=True)
            ):
                rows = [found[kind][name]["test_error"] for name in PREDICTORS]
                at = heights + 0.15 * (shift - (len(taus) - 1) / 2)
                panel.hlines(at, *np.array([tau.interval for tau in rows]).T, color=color)
                panel.plot([tau.value for tau in rows], at, "o", ms=4, color=color, label=network)
            panel.axvline(0, color="0.6", lw=0.8)
            panel.set(xlabel="τ with the test error")
            panel.set_title(title)
        panels[0].set_yticks(heights, PREDICTORS.values())
        panels[0].invert_yaxis()
        handles, labels = panels[0].get_legend_handles_labels()
        plots.legend_below(figure, handles, labels, len(labels))
