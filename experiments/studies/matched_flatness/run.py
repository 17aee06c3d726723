"""Trains and measures all solutions, and records each in a line."""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments.engine.population import Trained
from experiments.engine.task import dataset_digest
from experiments.engine.time_limit import TimeLimit
from experiments.report import provenance
from experiments.report.statistics import rounded
from experiments.studies.matched_flatness.description import MatchedFlatness
from experiments.studies.predictors import Predictors
from experiments.studies.solutions import Part, Results, read_parts, run_parts


def run_study(
    study: MatchedFlatness,
    out: pathlib.Path,
    *,
    progress: bool = True,
    limit: TimeLimit | None = None,
) -> None:
    """Trains and measures solutions of which `out` has no record; see `run_parts`."""
    predictors: dict[str, Predictors] = {}
    measure = functools.partial(_measured, predictors)
    run_parts(_parts(study), out, measure, progress=progress, limit=limit)


def read_study(study: MatchedFlatness, out: pathlib.Path) -> Results:
    """Reads network -> algorithm -> records, where all of its runs are there."""
    return read_parts(_parts(study), out)


def _parts(study: MatchedFlatness) -> Iterator[Part]:
    for network in study.networks:
        for algorithm in study.algorithms:
            config = study.config(network, algorithm)
            identity = {
                "config": config.to_json(),
                "data": dataset_digest(study.base.data.dataset),
                "revision": provenance.TRAINING,
            }
            yield Part(network, algorithm, config, study.runs(network, algorithm), identity)


def _measured(predictors: dict[str, Predictors], network: str, model: Trained) -> dict[str, Any]:
    """Measures a solution on its own training images, unless it diverged.

    All of them count, except for the local energy, which may be measured on fewer.
    """
    task, own = model.task, (model.params, model.batch_stats)
    found = task.evaluate(*own)
    if not np.isfinite(found["loss"]):
        return {"diverged": True}
    if network not in predictors:
        predictors[network] = Predictors(task)
    # One key for all runs: differences between solutions are less noisy than each of them.
    energy = task.objective.local_energy(
        model.params, task.train_batches, jax.random.key(0), model.batch_stats
    )
    whole = task.batches(task.train)
    train = task.evaluate(*own, whole)
    numbers = predictors[network](*own, whole)
    return {
        "test_error": 100 * float(found["error"]),
        "test_loss": float(found["loss"]),
        "train_error": rounded(100 * train["error"]),
        "predictors": numbers
        | {
            "local_energy": rounded(100 * energy.mean["error"][0]),
            "train_loss": rounded(train["loss"]),
        },
    }
