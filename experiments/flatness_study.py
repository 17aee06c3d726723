"""Trains a full factorial of settings, measures every solution, and ranks measures by the error."""

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import plots
from experiments.engine.config import TrainConfig
from experiments.engine.population import Population, make_tasks
from experiments.flatness import MEASURES, Effort, Measures
from experiments.report.store import read_json, slug, write_json
from experiments.report.tables import markdown_table
from flatjax import flatness


@dataclasses.dataclass(frozen=True)
class FlatnessStudy:
    """What is trained and measured; see `experiments.configs.flatness_study`.

    Attributes:
      base: what all runs share.
      tasks: label -> network and data.
      algorithms: label -> what it changes; `epochs` there multiplies the task's.
      factors: field -> its levels.
      batch_sizes: another factor, which shapes the program.
      seeds: of every combination; all train on the same data.
      effort: how accurately solutions are measured.
      efforts: task -> what it changes of that; all have the same `sigma`.
    """

    base: TrainConfig
    tasks: Mapping[str, Mapping[str, Any]]
    algorithms: Mapping[str, Mapping[str, Any]]
    factors: Mapping[str, Sequence[float]]
    batch_sizes: Sequence[int]
    seeds: Sequence[int]
    effort: Effort = dataclasses.field(default_factory=Effort)
    efforts: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def config(self, task: str, algorithm: str, batch_size: int) -> TrainConfig:
        """What the runs of one block share."""
        changes = dict(self.tasks[task]) | {"batch_size": batch_size}
        config = dataclasses.replace(self.base, **changes)
        own = dict(self.algorithms[algorithm])
        own["epochs"] = config.epochs * own.get("epochs", 1)
        return dataclasses.replace(config, **own)


def run_study(
    study: FlatnessStudy, out: pathlib.Path, *, progress: bool = True
) -> dict[str, list[dict[str, Any]]]:
    """Trains and measures what has no result in `out` yet.

    Args:
      study: what is wanted.
      out: directory; each block (task, algorithm, batch size) has a file in it.
      progress: show progress bars.

    Returns:
      task -> its solutions: factors, test error and measures.
    """
    for task in study.tasks:
        measures = None
        for algorithm, batch_size in itertools.product(study.algorithms, study.batch_sizes):
            path = _block(out, task, algorithm, batch_size)
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            config = study.config(task, algorithm, batch_size)
            tasks = make_tasks(config, [study.base.data_seed])
            if measures is None:
                effort = dataclasses.replace(study.effort, **study.efforts.get(task, {}))
                measures = Measures(tasks[0], effort)
            write_json(path, _run_block(study, algorithm, config, tasks, measures, progress))
    return read_study(study, out)


def read_study(study: FlatnessStudy, out: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """The solutions of the blocks that are complete, by task."""
    solutions = {}
    for task in study.tasks:
        blocks = itertools.product(study.algorithms, study.batch_sizes)
        paths = [_block(out, task, *block) for block in blocks]
        found = [row for path in paths if path.exists() for row in read_json(path)]
        if found:
            solutions[task] = found
    return solutions


def _block(out, task, algorithm, batch_size):
    return out / slug(task) / f"{slug(algorithm)}-{batch_size}.json"


def _run_block(study, algorithm, config, tasks, measures, progress):
    combinations = [
        dict(zip(study.factors, levels, strict=True))
        for levels in itertools.product(*study.factors.values())
    ]
    runs = list(itertools.product(combinations, study.seeds))
    population = Population(config, tasks, list(study.factors))
    trained = population.train(
        [settings for settings, _ in runs],
        [seed for _, seed in runs],
        [0] * len(runs),
        progress=progress,
    )
    rows = []
    for (settings, seed), run in zip(runs, trained, strict=True):
        factors = {"algorithm": algorithm, "batch_size": config.batch_size, **settings}
        held_out = run.task.evaluate(run.params, run.batch_stats)
        if not np.isfinite(held_out["loss"]):
            rows.append({"factors": factors, "seed": seed, "diverged": True})
            continue
        measured = measures(run.task, run.params, run.batch_stats)
        test_error = 100 * float(held_out["error"])
        rows.append({"factors": factors, "seed": seed, "test_error": test_error, **measured})
    return rows


# --- the report ---------------------------------------------------------------------------------


def rank(
    study: FlatnessStudy, solutions: dict[str, list[dict[str, Any]]]
) -> dict[str, dict[str, flatness.Ranking]]:
    """Task -> measure -> how it ranks the solutions of that task."""
    found = {}
    for task, rows in solutions.items():
        rows = [row for row in rows if not row.get("diverged")]
        factors = {name: [row["factors"][name] for row in rows] for name in rows[0]["factors"]}
        factors = {name: values for name, values in factors.items() if len(set(values)) > 1}
        errors = [row["test_error"] for row in rows]
        found[task] = {}
        for measure in (*MEASURES, "train_error"):
            values = np.array([row[measure] for row in rows])
            # A minimum that bears more noise than was tried (NaN) is the flattest.
            values = np.nan_to_num(values, nan=0.0) if measure == "pac_bayes" else values
            found[task][measure] = flatness.rank_solutions(values, errors, factors)
    return found


def table(study: FlatnessStudy, rankings: dict[str, dict[str, flatness.Ranking]]) -> str:
    """Kendall's tau of every measure, overall and granulated, as Markdown."""
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
            for value, (low, high) in (
                (found.tau, found.interval),
                (found.granulated, found.granulated_interval),
            ):
                line.append(f"{value:+.2f} [{low:+.2f}, {high:+.2f}]")
        lines.append(line)
    return markdown_table(lines)


def algorithms_table(solutions: dict[str, list[dict[str, Any]]]) -> str:
    """Median over all settings of each algorithm's errors and local energy, as Markdown."""
    lines = [["task", "algorithm", "solutions", "test error %", "training error %", "loss"]]
    lines[0].append("local energy %")
    for task, rows in solutions.items():
        rows = [row for row in rows if not row.get("diverged")]
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
    rankings = rank(study, solutions)
    as_json = {
        task: {measure: found._asdict() for measure, found in measures.items()}
        for task, measures in rankings.items()
    }
    write_json(out / "flatness_study.json", {"rankings": as_json, "solutions": solutions})
    text = f"{table(study, rankings)}\n\n{algorithms_table(solutions)}"
    (out / "flatness_study.md").write_text(text + "\n")
    plots.flatness_study(solutions, out / "flatness_study.png")
    return text
