"""Compares algorithms over seeds: runs what is missing, then tables, JSON and a picture."""

import pathlib
import sys
from typing import Any

import numpy as np
import tqdm

from experiments import plots
from experiments.configs import Study
from experiments.engine.config import TrainConfig
from experiments.engine.run_directory import read_result
from experiments.engine.task import Task, make_task
from experiments.engine.train import train
from experiments.engine.trainer import Trainer
from experiments.report.statistics import mean_and_sem
from experiments.report.store import slug, write_json
from experiments.report.tables import markdown_table


def run_study(
    study: Study, out: pathlib.Path, *, progress: bool = True, report_only: bool = False
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Runs every algorithm and seed that has no result in `out` yet.

    Args:
      study: what to run.
      out: directory of the study; each run has its own in it, and resumes there.
      progress: show progress bars.
      report_only: take the results that are there, run nothing.

    Returns:
      label -> results, one for each seed; and a message for each run that failed, which does not
      stop the others.
    """
    results: dict[str, list[dict[str, Any]]] = {label: [] for label in study.runs}
    failures = []
    trainers = _Trainers(study)
    # Seeds outside: a study that is stopped early has all algorithms with fewer seeds.
    runs = [(seed, label) for seed in range(study.seeds) for label in study.runs]
    bar = tqdm.tqdm(runs, desc="runs", unit="run", disable=not progress)
    for seed, label in bar:
        bar.set_postfix_str(f"{label}, seed {seed}")
        directory = out / slug(label) / f"seed-{seed}"
        if report_only:
            if (result := read_result(directory)) is not None:
                results[label].append(result)
            continue
        try:
            result = train(trainers[label], seed, directory=directory, progress=progress)
            results[label].append(result)
        except (RuntimeError, ValueError, OSError) as error:
            failures.append(f"{label}, seed {seed}: {error}")
    return results, failures


class _Trainers:
    """The trainers of a study, made when first asked for; all share data and compiled programs."""

    def __init__(self, study: Study):
        self._configs = study.configs()
        self._trainers: dict[str, Trainer] = {}
        self._task: Task | None = None

    def __getitem__(self, label: str) -> Trainer:
        if label not in self._trainers:
            config = self._configs[label]
            if self._task is None or not _same_task(config, self._task.config):
                self._task = make_task(config)
            self._trainers[label] = Trainer(config, self._task)
        return self._trainers[label]


# What a task depends on; runs that agree on these share data on the device and compiled programs.
_TASK_FIELDS = [
    "dataset",
    "model",
    "model_options",
    "rgb32",
    "batch_size",
    "micro_batches",
    "label_smoothing",
    "augment",
    "train_size",
    "label_noise",
    "validation",
    "evaluate_on",
    "held_out_size",
    "curve_examples",
    "data_seed",
    "sigmas",
    "local_energy_samples",
    "local_energy_examples",
]


def _same_task(config: TrainConfig, other: TrainConfig) -> bool:
    return all(getattr(config, field) == getattr(other, field) for field in _TASK_FIELDS)


def summarize(results: dict[str, list[dict[str, Any]]], sigma: float) -> dict[str, dict[str, Any]]:
    """Means and standard errors over seeds, one row for each label."""
    rows = {}
    for label, runs in results.items():
        if not runs:
            continue
        energies = [run["local_energy"] for run in runs]
        at = energies[0]["sigma"].index(sigma)
        rows[label] = {
            "algorithm": runs[0]["config"]["algorithm"],
            "seeds": len(runs),
            "gradient_evaluations": runs[0]["gradient_evaluations"],
            "test_error": mean_and_sem([run["test_error"] for run in runs]),
            "train_error": mean_and_sem([run["train_error"] for run in runs]),
            "replica_error": mean_and_sem([np.mean(run["replica_test_errors"]) for run in runs]),
            "ensemble_error": mean_and_sem([run["ensemble_test_error"] for run in runs]),
            "local_energy": mean_and_sem([energy["error"][at] for energy in energies]),
            "seconds": mean_and_sem([run["seconds"] for run in runs]),
        }
        if has_batch_statistics(runs):
            errors = [run["test_error_averaged_statistics"] for run in runs]
            rows[label]["averaged_statistics_error"] = mean_and_sem(errors)
    return rows


def has_batch_statistics(runs: list[dict[str, Any]]) -> bool:
    """Whether the network has batch norm, so that its statistics can be had in two ways."""
    return all("test_error_averaged_statistics" in run for run in runs)


def table(rows: dict[str, dict[str, Any]], sigma: float) -> str:
    """The summary as a Markdown table."""
    header = [
        "algorithm",
        "seeds",
        "test error %",
        "replicas %",
        "ensemble %",
        "train error %",
        f"local energy %, σ={sigma:g}",
        "gradients",
        "seconds",
    ]
    with_statistics = all("averaged_statistics_error" in row for row in rows.values())
    if with_statistics:
        header.insert(3, "averaged statistics %")
    lines = [header]
    for label, row in rows.items():
        shown = "{:.2f} ± {:.2f}" if row["seeds"] > 1 else "{:.2f}"
        pair = lambda name, row=row, shown=shown: shown.format(*row[name])
        lines.append(
            [
                label,
                str(row["seeds"]),
                pair("test_error"),
                f"{row['replica_error'][0]:.2f}",
                f"{row['ensemble_error'][0]:.2f}",
                f"{row['train_error'][0]:.2f}",
                pair("local_energy"),
                f"{row['gradient_evaluations']:,}",
                f"{row['seconds'][0]:.1f}",
            ]
        )
        if with_statistics:
            lines[-1].insert(3, pair("averaged_statistics_error"))
    return markdown_table(lines)


def compare(
    study: Study, out: pathlib.Path, *, progress: bool = True, report_only: bool = False
) -> int:
    """Runs a study (see `run_study`) and reports it; returns the exit status."""
    out.mkdir(parents=True, exist_ok=True)
    results, failures = run_study(study, out, progress=progress, report_only=report_only)
    if not any(results.values()) and not failures:
        failures.append(f"{out} holds no complete run of this study yet")
    rows = summarize(results, study.sigma)
    if rows:
        settings = {"base": study.base.to_json(), "runs": study.runs}
        write_json(out / "comparison.json", settings | {"summary": rows})
        text = table(rows, study.sigma)
        (out / "comparison.md").write_text(text + "\n")
        plots.comparison(results, study, out / "comparison.png")
        if has_batch_statistics([run for runs in results.values() for run in runs]):
            plots.batch_statistics(results, out / "batch_statistics.png")
        base = study.base
        print(f"\n{base.dataset}, {base.model}, {base.evaluate_on}: mean ± s.e. over seeds\n")
        print(text)
        print(f"\nwritten: {out / 'comparison.json'}, comparison.md, comparison.png")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0
