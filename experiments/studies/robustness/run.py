"""Trains and measures all solutions, and records each in a line."""

import pathlib
from collections.abc import Iterator
from typing import Any

from experiments.engine.population import Trained
from experiments.engine.task import dataset_digest
from experiments.engine.time_limit import TimeLimit
from experiments.report import provenance
from experiments.studies.robustness.description import Robustness
from experiments.studies.robustness.measures import Measures
from experiments.studies.solutions import Part, Results, read_parts, run_parts


def run_study(
    study: Robustness, out: pathlib.Path, *, progress: bool = True, limit: TimeLimit | None = None
) -> None:
    """Trains and measures solutions of which `out` has no record; see `run_parts`."""
    measures: dict[str, Measures] = {}

    def measure(group: str, model: Trained) -> dict[str, Any]:
        if group not in measures:  # they are compiled once per group
            measures[group] = Measures(study, model.task)
        return measures[group](model)

    run_parts(_parts(study), out, measure, progress=progress, limit=limit)


def read_study(study: Robustness, out: pathlib.Path) -> Results:
    """Reads group -> algorithm -> records, where all of its solutions are there."""
    return read_parts(_parts(study), out)


def _parts(study: Robustness) -> Iterator[Part]:
    for group, own in study.groups.items():
        for algorithm in own.centers:
            config, solutions = study.config(group, algorithm), own.solutions(algorithm)
            identity = {"config": config.to_json()} | _identity(study)
            yield Part(group, algorithm, config, solutions, identity)


def _identity(study: Robustness) -> dict[str, Any]:
    """Everything on which a record depends, except the settings of its run."""
    measured = ("second_seed", "steps", "rate", "momentum", "chains", "chain_examples")
    outcomes = ("sigmas", "noise_samples", "bits", "sparsity", "examples")
    return {
        "measured": {name: getattr(study, name) for name in (*measured, "chain_batch")}
        | {name: getattr(study.outcomes, name) for name in outcomes},
        "data": dataset_digest(study.base.data.dataset),
        "revision": provenance.TRAINING,
    }
