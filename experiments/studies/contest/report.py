"""What a contest reports: differences, their tables, and a picture of them."""

import pathlib
from typing import Any

import numpy as np

from experiments.engine.algorithm_settings import Fork
from experiments.engine.algorithms import ALGORITHMS, first_averaged
from experiments.report import store
from experiments.report.meeting import Meetings
from experiments.report.statistics import (
    expected_best,
    mean_and_sem,
    or_nan,
    with_interval,
    with_sem,
)
from experiments.report.tables import markdown_table
from experiments.studies.contest import forest
from experiments.studies.contest import map as contest_map
from experiments.studies.contest.description import Contest
from experiments.studies.contest.page import contestant_tables, page_tables
from experiments.studies.contest.results import (
    PRIMARY,
    Part,
    Results,
    comparisons,
    least_differences,
    reaches,
    read_contest,
)

__all__ = ["read_contest", "report"]

QUALITIES = {
    "test_error": "test error %",
    "test_loss": "test loss",
    "scaled_loss": "scaled loss",
    "calibration_error": "calibration error %",
    "brier_score": "Brier score",
}
# Numbers of random candidates whose best is reported.
DRAWN = (2, 4, 8)
TESTED = {"train_error": "train error %"}


def report(contest: Contest, results: Results, out: pathlib.Path) -> str:
    """Writes the numbers, tables and a picture; returns the tables.

    The files of the main stage are contest.json, contest.md, and for the page, with a row for each
    setting, page.md and map.png. Those of a later stage begin with its name. The tables of its page
    and its picture, forest.png, have a row for each contestant.
    """
    rows = comparisons(contest, results, contest.settings)
    least, reached = least_differences(contest, results), reaches(contest, results)
    outcomes = [
        summary(contest, setting, name, part)
        for setting, parts in results.items()
        for name, part in parts.items()
    ]
    store.write_json(
        out / f"{contest.name}.json",
        {
            "base": contest.base.to_json(),
            "comparisons": rows,
            "least_detectable": least,
            "outcomes": outcomes,
        }
        | ({"reaches": reached} if reached else {}),
    )
    sections = {
        "Primary: test errors, Holm's correction over all of them": difference_table(
            [row for row in rows if row["family"] == PRIMARY], least
        ),
        "Exploratory differences, corrected in families of one quantity and reference": (
            difference_table([row for row in rows if row["family"] != PRIMARY], {})
        ),
        "Outcomes, mean ± standard error over test seeds": outcome_table(contest, outcomes),
        "Rise of the test error when weights change, in points": rise_table(outcomes),
        "Workers, sequential gradients, and messages of each worker": (
            communication_table(outcomes)
        ),
        "Who reaches the first reference": reach_table(reached),
        "Chosen settings": choice_table(outcomes),
        "Validation error % of the random candidates, before any choice": sensitivity_table(
            outcomes
        ),
    }
    text = "\n\n".join(f"## {title}\n\n{table}" for title, table in sections.items() if table)
    store.write_text(out / f"{contest.name}.md", text + "\n")
    if contest.name == "contest":
        prefix, tables = "", page_tables(contest, rows, outcomes, least)
        contest_map.draw(contest, rows, out / "map.png")
    else:
        prefix, tables = f"{contest.name}-", contestant_tables(contest, rows, outcomes, reached)
        forest.draw(contest, rows, out / f"{prefix}forest.png")
    page = "\n\n".join(f"## {title}\n\n{table}" for title, table in tables.items())
    store.write_text(out / f"{prefix}page.md", page + "\n")
    return text


def meetings(results: Results) -> Meetings:
    """Of the tested runs of each contestant, with their settings."""
    found: Meetings = {}
    for setting, parts in results.items():
        for name, part in parts.items():
            own = [(setting, record.get("meeting")) for record in part.records]
            found.setdefault(name, []).extend(own)
    return found


def summary(contest: Contest, setting: str, name: str, part: Part) -> dict[str, Any]:
    """Outcomes of a contestant in a setting: means and standard errors."""
    row: dict[str, Any] = {"setting": setting, "contestant": name, "seeds": len(part.records)}
    row |= {"diverged": part.diverged} if part.diverged else {}
    row |= {key: _mean(part.column(key)) for key in (*QUALITIES, "temperature")}
    if part.search is None:
        return row
    first, search = part.records[0], part.search
    row |= {} if part.diverged else _robustness(contest, part)
    return row | {
        "gradient_evaluations": first["gradient_evaluations"],
        **communication(contest, setting, name, first),
        "settings": first["settings"],
        **search.summary(),
        "random": sensitivity(search.first_errors),
    }


def _mean(values) -> tuple[float, float] | None:
    """Mean and standard error; None if a run diverged and has no such outcome."""
    return mean_and_sem(values) if np.isfinite(values).all() else None


def _robustness(contest, part) -> dict[str, Any]:
    """Training error, and rises by noise, rounding and pruning; no run diverged."""
    first = part.records[0]
    energies = np.array([_numbers(record["local_energy"]) for record in part.records])
    sigmas = (f"{sigma:g}" for sigma in contest.outcomes.sigmas)
    return {
        **{key: mean_and_sem(part.column(key)) for key in ("train_error", "train_loss")},
        "local_energy": dict(zip(sigmas, map(mean_and_sem, energies.T), strict=True)),
        "tolerance": {rise: _median(part, rise) for rise in first["tolerance"]},
        "rises": {
            change: {key: mean_and_sem(part.rise(change, key)) for key in ("error", "loss")}
            for change in first["rises"]
        },
    }


def communication(
    contest: Contest, setting: str, name: str, record: dict[str, Any]
) -> dict[str, int]:
    """Counts workers, sequential gradients, and messages of each worker.

    A worker is a replica, or a part of a batch that is larger than others. The networks of a fork
    are one until they part, and meet once more, at the end.
    """
    config = contest.config(setting, name, "test").changed(**record["settings"])
    workers = config.num_replicas * config.batch_size // contest.base.batch_size
    gradients = record["gradient_evaluations"] // config.num_replicas
    period = ALGORITHMS[config.algorithm.name].gradients_per_cycle(config)
    messages = gradients // period if workers > 1 else 0
    if isinstance(config.algorithm, Fork):
        messages = first_averaged(config, gradients) + 1
    return {"workers": workers, "sequential_gradients": gradients, "messages": messages}


def sensitivity(errors: list[float]) -> dict[str, float]:
    """Quartiles of the errors of random settings, and the expected best of a few.

    Empty if there was no search.
    """
    if not errors:
        return {}
    names = ("lower quartile", "median", "upper quartile")
    quartiles = np.quantile(errors, (0.25, 0.5, 0.75))
    best = {f"best of {number}": expected_best(errors, number) for number in _drawn(errors)}
    found = dict(zip(names, quartiles, strict=True)) | best
    return {name: round(float(value), 4) for name, value in found.items()}


def _drawn(errors) -> list[int]:
    return [number for number in DRAWN if number < len(errors)]


def _numbers(values) -> list[float]:
    return [or_nan(value) for value in values]


def _median(part, rise) -> float | None:
    """Median of the tolerated noise.

    Noise beyond the grid is only known to be larger, and a median allows that.
    None where the median itself is beyond the grid.
    """
    values = [record["tolerance"][rise] for record in part.records]
    median = float(np.median([np.inf if value is None else value for value in values]))
    return round(median, 4) if np.isfinite(median) else None


# --- tables -------------------------------------------------------------------------------------


def difference_table(rows: list[dict[str, Any]], least: dict[str, float]) -> str:
    """Differences with 95% intervals and corrected p values; empty if no rows."""
    if not rows:
        return ""
    header = ["setting", "algorithm", "to", "quantity", "difference, 95% interval"]
    header += ["p (corrected)", *(["least detectable"] if least else [])]
    lines = [header]
    for row in rows:
        digits = 2 if row["quantity"] == "test_error" else 4
        line = [row["setting"], row["contestant"], row["reference"]]
        line += [
            row["quantity"].replace("_", " "),
            with_interval(row["difference"], row["interval"], digits),
        ]
        line += [f"{row['p_corrected']:.2g}"]
        lines.append(line + ([f"{least[row['setting']]:.2f}"] if least else []))
    return markdown_table(lines)


def outcome_table(contest: Contest, outcomes: list[dict[str, Any]]) -> str:
    """Quality, training error and flatness.

    Runs that diverged count as errors of 100%; then the other cells are empty.
    """
    sigma = f"{contest.outcomes.sigmas[-2]:g}"
    rise = f"{contest.outcomes.noise_rises[-1]:g}"
    lines = [
        [
            *("setting", "algorithm", *QUALITIES.values(), *TESTED.values()),
            f"local energy %, σ={sigma}",
            f"noise for +{rise} points",
        ]
    ]
    for row in outcomes:
        line = [row["setting"], row["contestant"]]
        line += [with_sem(row[key], 2 if "%" in name else 4) for key, name in QUALITIES.items()]
        line[2] += f" ({row['diverged']} diverged)" if "diverged" in row else ""
        line += [with_sem(row.get(key)) for key in TESTED]
        line += [with_sem(row.get("local_energy", {}).get(sigma))]
        tolerance = row.get("tolerance", {})
        beyond = f"> {contest.outcomes.sigmas[-1]:g}" if rise in tolerance else ""
        noise = tolerance.get(rise)
        lines.append([*line, beyond if noise is None else f"{noise:.3f}"])
    return markdown_table(lines)


def rise_table(outcomes: list[dict[str, Any]]) -> str:
    """Rises under rounding and pruning."""
    rows = [row for row in outcomes if row.get("rises")]
    if not rows:
        return ""
    changes = list(rows[0]["rises"])
    lines = [["setting", "algorithm", *changes]]
    for row in rows:
        shown = [with_sem(row["rises"][change]["error"]) for change in changes]
        lines.append([row["setting"], row["contestant"], *shown])
    return markdown_table(lines)


def communication_table(outcomes: list[dict[str, Any]]) -> str:
    """Tabulates what `communication` counts, next to the test error."""
    lines = [["setting", "algorithm", "workers", "sequential gradients", "messages"]]
    lines[0].append(QUALITIES["test_error"])
    for row in outcomes:
        if "workers" in row:
            counts = [str(row[key]) for key in ("workers", "sequential_gradients", "messages")]
            error = with_sem(row["test_error"])
            lines.append([row["setting"], row["contestant"], *counts, error])
    return markdown_table(lines)


def reach_table(rows: list[dict[str, Any]]) -> str:
    """Tabulates what `reaches` tested; may be empty."""
    if not rows:
        return ""
    lines = [["setting", "algorithm", f"minus {rows[0]['reference']}", "p", "reaches it"]]
    for row in rows:
        shown = with_interval(row["difference"], row["interval"])
        verdict = "yes" if row["reaches"] else "no"
        lines.append(
            [row["setting"], row["contestant"], shown, f"{row['p_corrected']:.2g}", verdict]
        )
    return markdown_table(lines)


def choice_table(outcomes: list[dict[str, Any]]) -> str:
    """What was chosen, what tied with it, and the edges of the ranges."""
    lines = [
        ["setting", "algorithm", "chosen", "tied with", "candidates", "extended", "at an edge"]
    ]
    for row in outcomes:
        if "settings" in row:
            ties = "; ".join(_fields(tie) for tie in row["ties"])
            line = [row["setting"], row["contestant"], _fields(row["settings"]), ties]
            line += [str(row["candidates"]), ", ".join(row["extended"]), ", ".join(row["at_edge"])]
            lines.append(line)
    return markdown_table(lines)


def sensitivity_table(outcomes: list[dict[str, Any]]) -> str:
    """Errors of settings that were drawn at random; empty if none."""
    rows = [row for row in outcomes if row.get("random")]
    if not rows:
        return ""
    lines = [["setting", "algorithm", *rows[0]["random"]]]
    for row in rows:
        shown = [f"{value:.2f}" for value in row["random"].values()]
        lines.append([row["setting"], row["contestant"], *shown])
    return markdown_table(lines)


def _fields(settings) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in settings.items())
