"""Trains and measures all solutions, and records each in a line.

Each group and algorithm has a file of JSON lines. The same command continues from them.
"""

import functools
import pathlib
from typing import Any

from experiments.engine.task import dataset_digest
from experiments.engine.time_limit import TimeLimit
from experiments.report import provenance
from experiments.report.store import slug
from experiments.studies.robustness.description import Robustness
from experiments.studies.robustness.measures import Measures
from experiments.studies.solutions import Records, read_solutions, run_solutions
from experiments.studies.units import run_units


def run_study(
    study: Robustness, out: pathlib.Path, *, progress: bool = True, limit: TimeLimit | None = None
) -> None:
    """Trains and measures solutions of which `out` has no record yet.

    Args:
      study: the study.
      out: directory; each group has its own, with a file for each algorithm.
      progress: show progress bars.
      limit: limit of the wall time; it counts the files that are left.

    Raises:
      ValueError: a file in `out` is damaged, or belongs to another study.
    """
    limit = limit or TimeLimit()
    measures: dict[str, Measures] = {}
    units = [
        (
            (group, algorithm),
            functools.partial(_run_part, study, group, algorithm, out, measures, progress, limit),
        )
        for group in study.groups
        for algorithm in study.groups[group].centers
    ]
    for _ in run_units(units, limit):
        pass


def path_of(out: pathlib.Path, group: str, algorithm: str) -> pathlib.Path:
    """Returns the file of a group and algorithm."""
    return out / slug(group) / f"{slug(algorithm)}.jsonl"


def read_records(study: Robustness, group: str, algorithm: str, out: pathlib.Path) -> Records:
    """Reads the records of a group and algorithm, in the order of the description.

    Raises:
      ValueError: a record is damaged, or has other settings; the message names file and line.
    """
    solutions = study.groups[group].solutions(algorithm)
    identity = _identity(study, group, algorithm)
    return read_solutions(path_of(out, group, algorithm), solutions, identity)


def read_study(study: Robustness, out: pathlib.Path) -> dict[str, dict[str, Records]]:
    """Reads group -> algorithm -> records, where all of its solutions are there."""
    results: dict[str, dict[str, Records]] = {}
    for group, own in study.groups.items():
        for algorithm in own.centers:
            records = read_records(study, group, algorithm, out)
            if len(records) == len(own.solutions(algorithm)):
                results.setdefault(group, {})[algorithm] = records
    return results


def _identity(study, group, algorithm) -> dict[str, Any]:
    """Everything on which a record depends except its own settings and seed."""
    measured = ("second_seed", "steps", "rate", "momentum", "chains", "chain_examples")
    outcomes = ("sigmas", "noise_samples", "bits", "sparsity", "examples")
    return {
        "config": study.config(group, algorithm).to_json(),
        "measured": {name: getattr(study, name) for name in (*measured, "chain_batch")}
        | {name: getattr(study.outcomes, name) for name in outcomes},
        "data": dataset_digest(study.base.data.dataset),
        "revision": provenance.TRAINING,
    }


def _run_part(study, group, algorithm, out, measures, progress, limit):
    """Runs the missing solutions; measures are compiled once per group."""

    def measure(model):
        if group not in measures:
            measures[group] = Measures(study, model.task)
        return measures[group](model)

    run_solutions(
        path_of(out, group, algorithm),
        study.config(group, algorithm),
        study.groups[group].solutions(algorithm),
        _identity(study, group, algorithm),
        measure,
        kind=group,
        progress=progress,
        limit=limit,
    )
