"""Runs the missing runs of a comparison, and reports."""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

from experiments.engine.plan import make_plan
from experiments.engine.run_directory import RunDirectory
from experiments.engine.task import Task, is_task_of, make_task
from experiments.engine.time_limit import TimeLimit
from experiments.engine.train import train
from experiments.report import bars
from experiments.report.store import OtherIdentityError, slug
from experiments.studies.compare.description import Comparison
from experiments.studies.compare.report import report
from experiments.studies.units import run_units

NOTHING_TRAINED = "{out} holds all runs, which are complete: nothing was trained."


def compare(
    study: Comparison,
    out: pathlib.Path,
    *,
    progress: bool = True,
    report_only: bool = False,
    limit: TimeLimit | None = None,
) -> int:
    """Runs a comparison (see `run_study`) and reports it; returns the exit status."""
    limit = limit or TimeLimit()
    directories = [_directory(out, *run) for run in _runs(study)]
    was_complete = are_complete(directories)
    results, failures = run_study(
        study, out, progress=progress, report_only=report_only, limit=limit
    )
    if not any(results.values()) and not failures and not limit.unfinished:
        failures.append(f"{out} holds no complete run of this study yet")
    if any(results.values()):
        print(report(study, results, out))
    if was_complete and not failures and not report_only:
        print(NOTHING_TRAINED.format(out=out))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else limit.exit_status


def run_study(
    study: Comparison,
    out: pathlib.Path,
    *,
    progress: bool = True,
    report_only: bool = False,
    limit: TimeLimit | None = None,
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Runs every algorithm and seed that has no result in `out` yet.

    Args:
      study: the study.
      out: directory of the study; each run has its own directory in it, and resumes there.
      progress: show progress bars.
      report_only: use existing results, and run nothing.
      limit: limit of the wall time; it counts the runs that are left.

    Returns:
      label -> results, one for each seed; and a message for each run that failed, which does not
      stop the others.

    Raises:
      ValueError: a mistake stops every run, or `out` holds another study; the first message.
    """
    results: dict[str, list[dict[str, Any]]] = {label: [] for label in study.runs}
    failures = []
    configs = study.configs()
    tasks = _Tasks(study)
    if not report_only:
        _check(configs, tasks)
    bar = bars.bar(_runs(study), progress=progress, desc="runs", unit="run")

    def unit(seed, label):
        bar.set_postfix_str(f"{label}, seed {seed}")
        directory = _directory(out, seed, label)
        config = dataclasses.replace(configs[label], seed=seed)
        if report_only:
            return RunDirectory(directory, config).read_result()
        try:
            task = tasks[label]
            return train(config, task, directory=directory, progress=progress, limit=limit)
        except OtherIdentityError:  # as of the other runs: one message is enough
            raise
        except (RuntimeError, ValueError, OSError) as error:
            failures.append(f"{label}, seed {seed}: {error}")
            return None

    units = ((label, functools.partial(unit, seed, label)) for seed, label in bar)
    for label, result in run_units(units, limit):
        if result is not None:
            results[label].append(result)
    return results, failures


def are_complete(directories: Iterable[pathlib.Path]) -> bool:
    """Whether the runs in all directories are complete."""
    return all((path / "result.json").exists() for path in directories)


def _runs(study):
    """Lists the runs as seed and label."""
    # Seeds are the outer loop: a study that stops early has all algorithms, with fewer seeds.
    return [(seed, label) for seed in range(study.seeds) for label in study.runs]


def _directory(out, seed, label):
    return out / slug(label) / f"seed-{seed}"


def _check(configs, tasks):
    """Makes data, network and plans; raises if no run is possible."""
    problems = []
    for label, config in configs.items():
        task = tasks[label]
        try:
            make_plan(config, task)
        except ValueError as problem:
            problems.append(problem)
    if problems and len(problems) == len(configs):
        raise problems[0]


class _Tasks:
    """The task of each label, made when first needed; equal tasks are one object."""

    def __init__(self, study: Comparison):
        self._configs = study.configs()
        self._task: Task | None = None

    def __getitem__(self, label: str) -> Task:
        config = self._configs[label]
        if self._task is None or not is_task_of(self._task, config):
            self._task = make_task(config)
        return self._task
