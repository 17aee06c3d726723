"""Trains and measures all solutions, and records each in a line."""

import functools
import pathlib
from typing import Any

import jax
import numpy as np

from experiments.engine.population import Trained
from experiments.engine.task import dataset_digest
from experiments.engine.time_limit import TimeLimit
from experiments.report import provenance
from experiments.report.statistics import rounded
from experiments.report.store import slug
from experiments.studies.matched_flatness.description import MatchedFlatness
from experiments.studies.predictors import Predictors
from experiments.studies.solutions import Records, read_solutions, run_solutions
from experiments.studies.units import run_units

Results = dict[str, dict[str, Records]]


def run_study(
    study: MatchedFlatness,
    out: pathlib.Path,
    *,
    progress: bool = True,
    limit: TimeLimit | None = None,
) -> None:
    """Trains and measures solutions of which `out` has no record yet.

    Args:
      study: the study.
      out: directory; each network has its own, with a file for each algorithm.
      progress: show progress bars.
      limit: limit of the wall time; it counts the files that are left.

    Raises:
      ValueError: a file in `out` is damaged, or belongs to another study.
    """
    limit = limit or TimeLimit()
    predictors: dict[str, Predictors] = {}

    def unit(network, algorithm):
        run_solutions(
            path_of(out, network, algorithm),
            study.config(network, algorithm),
            study.runs(network, algorithm),
            _identity(study, network, algorithm),
            functools.partial(_measured, predictors, network),
            kind=network,
            progress=progress,
            limit=limit,
        )

    units = [
        ((network, algorithm), functools.partial(unit, network, algorithm))
        for network in study.networks
        for algorithm in study.algorithms
    ]
    for _ in run_units(units, limit):
        pass


def path_of(out: pathlib.Path, network: str, algorithm: str) -> pathlib.Path:
    """Returns the file of a network and algorithm."""
    return out / slug(network) / f"{slug(algorithm)}.jsonl"


def read_study(study: MatchedFlatness, out: pathlib.Path) -> Results:
    """Reads network -> algorithm -> records, where all of its runs are there."""
    results: Results = {}
    for network in study.networks:
        for algorithm in study.algorithms:
            runs, identity = study.runs(network, algorithm), _identity(study, network, algorithm)
            records = read_solutions(path_of(out, network, algorithm), runs, identity)
            if len(records) == len(runs):
                results.setdefault(network, {})[algorithm] = records
    return results


def _identity(study, network, algorithm) -> dict[str, Any]:
    """Everything on which a record depends except its own settings and seed."""
    return {
        "config": study.config(network, algorithm).to_json(),
        "data": dataset_digest(study.base.data.dataset),
        "revision": provenance.TRAINING,
    }


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
