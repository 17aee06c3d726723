"""Ranks measures of flatness by the test error of the solutions."""

import pathlib
from typing import Any

import numpy as np

from experiments.report import plots, store
from experiments.report.meeting import Meetings
from experiments.report.plots import COLORS
from experiments.report.ranking import Taus, rank
from experiments.report.statistics import LEAST_FOR_TAU, standard_error, with_interval
from experiments.report.tables import markdown_table
from experiments.studies.flatness.description import MEASURES
from experiments.studies.flatness_study.description import FlatnessStudy
from flatjax import flatness

# Training error, in %, up to which solutions are matched; test error above which one collapsed.
MATCHED, COLLAPSED = 1.0, 40.0
CONTROLS = ("train_loss", "norm")
KINDS = {
    "all": "τ of solutions with a training error of at most 1%, intervals over configurations",
    "partial": "Partial τ of these solutions, given training loss and norm of the weights",
}


def _finite(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leaves out solutions that diverged."""
    return [row for row in rows if not row.get("diverged")]


def _values(rows: list[dict[str, Any]], measure: str) -> np.ndarray:
    values = np.array([row[measure] for row in rows])
    # A minimum that tolerates more noise than was tried (NaN) is the flattest.
    return np.nan_to_num(values, nan=0.0) if measure == "pac_bayes" else values


def rank_tasks(
    solutions: dict[str, list[dict[str, Any]]],
) -> dict[str, dict[str, flatness.Ranking]]:
    """Returns task -> measure -> its ranking of the solutions of that task."""
    found: dict[str, dict[str, flatness.Ranking]] = {}
    for task, every in solutions.items():
        rows = _finite(every)
        factors = {name: [row["factors"][name] for row in rows] for name in rows[0]["factors"]}
        factors = {name: values for name, values in factors.items() if len(set(values)) > 1}
        errors = [row["test_error"] for row in rows]
        found[task] = {}
        for measure in (*MEASURES, "train_error"):
            ranking = flatness.rank_solutions(_values(rows, measure), errors, factors)
            found[task][measure] = ranking
    return found


def table(study: FlatnessStudy, rankings: dict[str, dict[str, flatness.Ranking]]) -> str:
    """Tabulates Kendall's tau of every measure, overall and granulated, as Markdown."""
    header = ["measure"]
    for task, measures in rankings.items():
        num = next(iter(measures.values())).num_solutions
        header += [f"{task}: τ ({num} solutions)", "granulated τ"]
    lines = [header]
    titles = MEASURES | {"train_error": "training error"}
    for measure, title in titles.items():
        line = [title.format(sigma=study.effort.sigma)]
        for measures in rankings.values():
            found = measures[measure]
            cells = [
                with_interval(found.tau, found.interval),
                with_interval(found.granulated, found.granulated_interval),
            ]
            line += cells if found.num_solutions >= LEAST_FOR_TAU else ["", ""]
        lines.append(line)
    return markdown_table(lines)


def matched(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Selects solutions that have learned their training images and not collapsed."""
    is_matched = lambda row: row["train_error"] <= MATCHED and row["test_error"] <= COLLAPSED
    return [row for row in _finite(rows) if is_matched(row)]


def rank_matched(solutions: dict[str, list[dict[str, Any]]]) -> dict[str, Taus]:
    """Ranks the matched solutions of each task that has enough settings."""
    found = {}
    for task, rows in solutions.items():
        used = matched(rows)
        if len({str(row["factors"]) for row in used}) < LEAST_FOR_TAU:
            continue
        found[task] = rank(
            {measure: _values(used, measure) for measure in MEASURES},
            {"test error": [row["test_error"] for row in used]},
            configurations=[row["factors"] for row in used],
            within=[task] * len(used),
            controls=CONTROLS,
            planned=len(solutions),
        )
    return found


def matched_table(
    study: FlatnessStudy,
    solutions: dict[str, list[dict[str, Any]]],
    taus: dict[str, Taus],
    kind: str,
) -> str:
    """Tabulates tau ("all") or partial tau of the matched solutions, as Markdown."""
    counts = {task: (len(matched(solutions[task])), len(solutions[task])) for task in taus}
    lines = [["measure", *(f"{task}: {n} of {total}" for task, (n, total) in counts.items())]]
    for measure, title in MEASURES.items():
        line = [title.format(sigma=study.effort.sigma)]
        for found in taus.values():
            tau = found[kind][measure]["test error"]
            line.append(with_interval(tau.value, tau.interval))
        lines.append(line)
    return markdown_table(lines)


def algorithms_table(solutions: dict[str, list[dict[str, Any]]]) -> str:
    """Tabulates medians of each algorithm's errors and local energy."""
    lines = [["task", "algorithm", "solutions", "test error %", "training error %", "loss"]]
    lines[0].append("local energy %")
    for task, every in solutions.items():
        rows = _finite(every)
        for algorithm in dict.fromkeys(row["factors"]["algorithm"] for row in rows):
            own = [row for row in rows if row["factors"]["algorithm"] == algorithm]
            median = lambda name, own=own: np.median([row[name] for row in own])
            lines.append(
                [task, algorithm, str(len(own))]
                + [f"{median(name):.2f}" for name in ("test_error", "train_error")]
                + [f"{median('train_loss'):.3f}", f"{median('local_energy'):.2f}"]
            )
    return markdown_table(lines)


def report(study: FlatnessStudy, solutions: dict[str, Any], out: pathlib.Path) -> str:
    """Writes flatness_study.json, .md and .png; returns the tables."""
    rankings = rank_tasks(solutions)
    as_json = {
        task: {measure: found._asdict() for measure, found in measures.items()}
        for task, measures in rankings.items()
    }
    store.write_json(out / "flatness_study.json", {"rankings": as_json, "solutions": solutions})
    parts = [table(study, rankings), algorithms_table(solutions)]
    if taus := rank_matched(solutions):
        for kind, title in KINDS.items():
            parts.append(f"{title}:\n\n{matched_table(study, solutions, taus, kind)}")
    text = "\n\n".join(parts)
    store.write_text(out / "flatness_study.md", text + "\n")
    draw(solutions, out / "flatness_study.png")
    return text


def meetings(solutions: dict[str, list[dict[str, Any]]]) -> Meetings:
    """Of the runs of each algorithm, with their tasks and batch sizes."""
    found: Meetings = {}
    for task, rows in solutions.items():
        for row in rows:
            place = f"{task}, batches of {row['factors']['batch_size']}"
            found.setdefault(row["factors"]["algorithm"], []).append((place, row.get("meeting")))
    return found


_PALETTE = {
    "SGD": "sgd",
    "SAM": "sam",
    "SWA": "swa",
    "eSGD": "esgd",
    "rSGD": "rsgd",
    "rSGD x 3": "rsgd",
    "Parle": "parle",
}


def draw(solutions: dict[str, list[dict[str, Any]]], path: pathlib.Path) -> None:
    """Draws, for each task, local energy curves, and test error against local energy."""
    options = {"height": 5.8, "squeeze": False}
    with plots.drawing(path, 2, len(solutions), **options) as (figure, panels):
        for (task, every), curves, scatter in zip(
            solutions.items(), panels[0], panels[1], strict=True
        ):
            rows = _finite(every)
            for algorithm in dict.fromkeys(row["factors"]["algorithm"] for row in rows):
                own = [row for row in rows if row["factors"]["algorithm"] == algorithm]
                _draw_algorithm(curves, scatter, own, algorithm)
            curves.set_title(task)
            curves.set(xlabel="noise σ (multiplicative)")
            scatter.set(xlabel="local energy at σ = 0.3 (%)", xscale="log")
            scatter.xaxis.set_major_formatter("{x:g}")
            plots.logarithmic(scatter)  # collapsed networks would compress the others
        panels[0][0].set(ylabel="rise of training error (%)")
        panels[1][0].set(ylabel="test error (%)")
        handles, labels = panels[0][0].get_legend_handles_labels()
        plots.legend_below(figure, handles, labels, len(labels))


def _draw_algorithm(curves, scatter, rows, algorithm):
    name, is_longer = _PALETTE[algorithm], algorithm.endswith("x 3")
    style = {"color": COLORS[name], "marker": plots.MARKERS[name], "ms": 4}
    style |= {"ls": "--", "mfc": "white"} if is_longer else {}
    energies = np.array([row["curve"]["error"] for row in rows])
    sigma, mean = rows[0]["curve"]["sigma"], energies.mean(axis=0)
    error = standard_error(energies)
    curves.vlines(sigma, mean - error, mean + error, color=COLORS[name], **plots.BAR)
    curves.plot(sigma, mean, label=algorithm, lw=1.2, **style)
    x, y = ([row[name] for row in rows] for name in ("local_energy", "test_error"))
    scatter.plot(x, y, **style | {"ls": "", "ms": 3, "mew": 0.8}, alpha=0.75)
