"""Chooses the settings of a study's algorithms on validation data, by one rule."""

import dataclasses
import pathlib
from typing import Any

from experiments.engine.loop import TrainingDivergedError
from experiments.engine.plan import make_plan
from experiments.engine.task import Task, make_task
from experiments.engine.train import train
from experiments.report import bars
from experiments.report.meeting import meeting_of, not_met
from experiments.report.statistics import mean_and_sem, with_error
from experiments.report.store import slug, write_json
from experiments.studies.compare.description import Comparison
from experiments.studies.compare.own_data import tuning_base
from experiments.studies.compare.run import NOTHING_TRAINED, are_complete


def tune(
    study: Comparison,
    out: pathlib.Path,
    *,
    labels: tuple[str, ...],
    seeds: int,
    progress: bool = True,
) -> dict[str, list[dict[str, Any]]]:
    """Trains every candidate of a study's grids and ranks them by validation error.

    Args:
      study: study with a base, grids and tuning changes.
      out: directory; `<label>.json` is written there while candidates finish. Each run has its own
        directory in it, so that an interrupted search continues.
      labels: labels of the grids to search; all if empty.
      seeds: number of runs of each candidate.
      progress: show a progress bar.

    Returns:
      label -> candidates, best first: their settings and validation error (mean, standard error).
      A candidate that diverged has None and is last.

    Raises:
      ValueError: the data or the model do not fit the study; nothing was trained or written.
    """
    base = tuning_base(study)
    task = make_task(base)
    for label in labels or study.grids:
        for candidate in study.candidates(label):
            make_plan(_config(study, base, label, candidate), task)
    out.mkdir(parents=True, exist_ok=True)
    was_complete = are_complete(
        _directory(out, label, candidate, seed)
        for label in labels or study.grids
        for candidate in study.candidates(label)
        for seed in range(seeds)
    )
    found = {
        label: _tune_one(label, study, base, task, out, seeds, progress)
        for label in labels or study.grids
    }
    if was_complete:
        print(NOTHING_TRAINED.format(out=out))
    return found


def _config(study, base, label, candidate):
    return base.changed(**(study.runs[label] | study.tuning | candidate))


def _directory(out, label, candidate, seed) -> pathlib.Path:
    name = slug("-".join(f"{field}={value}" for field, value in candidate.items()))
    return out / slug(label) / name / f"seed-{seed}"


def _tune_one(label, study, base, task: Task, out, seeds, progress):
    found = []
    for candidate in bars.bar(study.candidates(label), progress=progress, desc=label):
        config = _config(study, base, label, candidate)
        try:
            results = [
                train(
                    dataclasses.replace(config, seed=seed),
                    task,
                    directory=_directory(out, label, candidate, seed),
                    progress=False,
                    evaluate_epochs=False,
                )
                for seed in range(seeds)
            ]
            error = mean_and_sem([result["test_error"] for result in results])
            warning = not_met([meeting_of(result) for result in results])
        except TrainingDivergedError:
            error = warning = None
        row = {"settings": candidate, "seeds": seeds, "validation_error": error}
        found.append(row | {"warning": warning})
        found.sort(key=lambda row: (row["validation_error"] is None, row["validation_error"]))
        write_json(out / f"{slug(label)}.json", {"candidates": found})
    return found


def report(found: dict[str, list[dict[str, Any]]]) -> str:
    """Formats the searches as text, best first."""
    lines = []
    for label, rows in found.items():
        lines.append(f"{label}:")
        for row in rows:
            error = row["validation_error"]
            shown = "diverged" if error is None else with_error(*error, row["seeds"]) + " %"
            lines.append(f"  {shown:>14}   {row['settings']}")
        if rows and rows[0]["warning"]:
            lines.append(f"  warning, of the first: {rows[0]['warning']}")
    return "\n".join(lines)
