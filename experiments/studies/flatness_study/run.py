"""Trains a full factorial of settings and measures every solution."""

import dataclasses
import itertools
import pathlib
from typing import Any

import numpy as np

from experiments.engine.population import Population, make_tasks
from experiments.report import store
from experiments.report.store import slug
from experiments.studies.flatness.measures import Measures
from experiments.studies.flatness_study.description import FlatnessStudy
from experiments.studies.spaces import grid


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
            store.write_json(path, _run_block(study, algorithm, config, tasks, measures, progress))
    return read_study(study, out)


def read_study(study: FlatnessStudy, out: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """The solutions of the blocks that are complete, by task."""
    solutions = {}
    for task in study.tasks:
        blocks = itertools.product(study.algorithms, study.batch_sizes)
        paths = [_block(out, task, *block) for block in blocks]
        found = [row for path in paths if path.exists() for row in store.read_json(path)]
        if found:
            solutions[task] = found
    return solutions


def _block(out, task, algorithm, batch_size):
    return out / slug(task) / f"{slug(algorithm)}-{batch_size}.json"


def _run_block(study, algorithm, config, tasks, measures, progress):
    runs = list(itertools.product(grid(study.factors), study.seeds))
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
