"""Reports what predicts robustness: tables and taus of each group."""

import pathlib
from collections.abc import Sequence
from typing import Any

from experiments.report import store
from experiments.report.meeting import Meetings
from experiments.report.ranking import Tau, Taus, rank
from experiments.report.statistics import mean_and_sem, or_nan, with_error
from experiments.report.tables import markdown_table
from experiments.studies.robustness.description import (
    CONTROLS,
    NUM_PLANNED,
    OUTCOMES,
    PREDICTORS,
    Group,
    Robustness,
)
from experiments.studies.robustness.picture import draw
from experiments.studies.solutions import Records, Results

# Columns of the table of algorithms that are no rises.
QUALITIES = {"test_error": "test error %", "train_error": "train error %"}
SHOWN = ("4 bits, tensor", "3 bits, tensor", "3 bits, channel", "3 bits, clipped")
SHOWN += ("70% pruned", "90% pruned", "100 steps")
SECOND = "second task %"
TITLES = {
    "all": "τ over all pairs",
    "within": "τ within algorithms",
    "partial": "Partial τ over all pairs, given norm and outliers",
    "partial within": "Partial τ within algorithms, given norm and outliers",
}


def report(study: Robustness, results: Results, out: pathlib.Path) -> str:
    """Writes robustness.json, .md and .png; returns the tables."""
    taus = {group: rank_group(parts, study.collapsed) for group, parts in results.items()}
    outcomes = {
        group: {name: summary(study.groups[group], records) for name, records in parts.items()}
        for group, parts in results.items()
    }
    counts = {group: count(parts, study.collapsed) for group, parts in results.items()}
    as_json = {
        group: {
            kind: {
                one: {name: tau._asdict() for name, tau in row.items()} for one, row in t.items()
            }
            for kind, t in kinds.items()
        }
        for group, kinds in taus.items()
    }
    found = {"solutions": counts, "algorithms": outcomes, "taus": as_json}
    store.write_json(out / "robustness.json", found)
    sections = []
    for group in results:
        shown = ", ".join(f"{name} {number}" for name, number in counts[group].items())
        sections += [f"# {group} ({shown})", algorithm_table(outcomes[group])]
        sections += [f"## {TITLES[kind]}\n\n{tau_table(t)}" for kind, t in taus[group].items()]
    text = "\n\n".join(sections)
    store.write_text(out / "robustness.md", text + "\n")
    draw(outcomes, taus, out / "robustness.png")
    return text


def meetings(results: Results) -> Meetings:
    """Lists the meetings of the replicas of each algorithm, with their groups."""
    found: Meetings = {}
    for group, parts in results.items():
        for name, records in parts.items():
            own = [(group, record.get("meeting")) for record in records]
            found.setdefault(name, []).extend(own)
    return found


def is_used(record: dict[str, Any], collapsed: float) -> bool:
    """Whether a solution takes part in the ranks."""
    return not record.get("diverged") and record["test_error"] <= collapsed


def count(parts: dict[str, Records], collapsed: float) -> dict[str, int]:
    """Counts solutions, those that are used, configurations and problems of lambda."""
    records = [record for own in parts.values() for record in own]
    used = [record for record in records if is_used(record, collapsed)]
    configurations = {(name, str(r["factors"])) for name, own in parts.items() for r in own}
    return {
        "solutions": len(records),
        "used": len(used),
        "configurations": len(configurations),
        "coefficients with a problem": sum(bool(r["predictors"]["problems"]) for r in used),
    }


def rank_group(parts: dict[str, Records], collapsed: float, *, num_bootstrap: int = 2000) -> Taus:
    """Ranks the solutions of a group by all predictors and outcomes."""
    used = [
        (name, record)
        for name, records in parts.items()
        for record in records
        if is_used(record, collapsed)
    ]
    column = lambda read: [or_nan(read(record)) for _, record in used]
    return rank(
        {name: column(lambda r, name=name: r["predictors"][name]) for name in PREDICTORS},
        {name: column(lambda r, name=name: r["rises"][name]["error"]) for name in OUTCOMES},
        configurations=[(name, record["settings"]) for name, record in used],
        within=[name for name, _ in used],
        controls=CONTROLS,
        planned=NUM_PLANNED * len(OUTCOMES),
        num_bootstrap=num_bootstrap,
    )


def summary(group: Group, records: Records) -> dict[str, Any]:
    """Averages outcomes and predictors over the seeds of the center."""
    own = [
        record
        for record in records
        if set(record["factors"].values()) == {1.0} and not record.get("diverged")
    ]
    if not own:
        return {"seeds": 0}
    mean = lambda values: mean_and_sem([or_nan(value) for value in values])
    found: dict[str, Any] = {"seeds": len(own)}
    found |= {name: mean(record[name] for record in own) for name in QUALITIES}
    rises = own[0]["rises"]
    found["rises"] = {name: mean(r["rises"][name]["error"] for r in own) for name in rises}
    for part in ("second_task", "predictors"):
        names = [name for name in own[0][part] if name != "problems"]
        found[part] = {name: mean(r[part][name] for r in own) for name in names}
    return found


# --- tables -------------------------------------------------------------------------------------


def algorithm_table(outcomes: dict[str, dict[str, Any]]) -> str:
    """Tabulates errors and rises of each algorithm at its center."""
    lines: list[Sequence[str]] = [["algorithm", "seeds", *QUALITIES.values(), *SHOWN, SECOND]]
    for name, row in outcomes.items():
        if row["seeds"]:
            cells = [row[quality] for quality in QUALITIES]
            cells += [row["rises"][change] for change in SHOWN]
            cells += [row["second_task"]["100 steps"]]
            shown = [with_error(*cell, row["seeds"]) for cell in cells]
            lines.append([name, str(row["seeds"]), *shown])
    return markdown_table(lines)


def tau_table(taus: dict[str, dict[str, Tau]]) -> str:
    """Tabulates the taus of one kind; a star marks those that are clear."""
    lines = [["predictor", *OUTCOMES]]
    for predictor, row in taus.items():
        shown = [row[outcome].shown() for outcome in OUTCOMES]
        lines.append([PREDICTORS[predictor], *shown])
    return markdown_table(lines)
