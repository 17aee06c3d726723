"""Trains a full factorial of settings and measures every solution."""

import dataclasses
import functools
import itertools
import pathlib
from typing import Any

import numpy as np

from experiments.engine.population import Population, meeting_record
from experiments.engine.task import dataset_fingerprint, make_tasks
from experiments.engine.time_limit import TimeLimit
from experiments.report import provenance, store
from experiments.report.store import slug
from experiments.studies.flatness.measures import Measures
from experiments.studies.flatness_study.description import FlatnessStudy
from experiments.studies.runs import unit_file
from experiments.studies.spaces import grid
from experiments.studies.units import run_units


def run_study(
    study: FlatnessStudy,
    out: pathlib.Path,
    *,
    progress: bool = True,
    limit: TimeLimit | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Trains and measures what has no result in `out` yet.

    Args:
      study: the study.
      out: directory with a file for each block (task, algorithm, batch size). An interrupted block
        also has its networks and the measured solutions there.
      progress: show progress bars.
      limit: limit of the wall time; it counts the blocks that are left.

    Returns:
      task -> its solutions: factors, test error and measures.
    """
    measures: dict[str, Measures] = {}
    limit = limit or TimeLimit()
    data = {"data": dataset_fingerprint(study.base.data.dataset)}

    def unit(block):
        path, identity = path_of(out, *block), identity_of(study, *block) | data
        part = _Part(path, identity, limit)
        make = functools.partial(_run_block, study, *block, measures, progress, part)
        value = store.cached(path, identity, make)
        part.remove()
        return value

    blocks = itertools.product(study.tasks, study.algorithms, study.batch_sizes)
    for _ in run_units(((block, functools.partial(unit, block)) for block in blocks), limit):
        pass
    return read_study(study, out)


def read_study(study: FlatnessStudy, out: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """Reads the solutions of the complete blocks, by task."""
    solutions = {}
    for task in study.tasks:
        blocks = itertools.product([task], study.algorithms, study.batch_sizes)
        rows = [
            store.read_cached(path_of(out, *block), identity_of(study, *block)) for block in blocks
        ]
        found = [row for block in rows for row in block or ()]
        if found:
            solutions[task] = found
    return solutions


def path_of(out: pathlib.Path, task: str, algorithm: str, batch_size: int) -> pathlib.Path:
    """Returns the file of a block."""
    return out / slug(task) / f"{slug(algorithm)}-{batch_size}.json"


def identity_of(study: FlatnessStudy, task: str, algorithm: str, batch_size: int) -> dict[str, Any]:
    """Returns everything on which a block's solutions and measures depend."""
    return {
        "config": study.config(task, algorithm, batch_size).to_json(),
        "factors": dict(study.factors),
        "seeds": list(study.seeds),
        "effort": dataclasses.asdict(_effort(study, task)),
        "revision": provenance.TRAINING,
    }


def _effort(study, task):
    return dataclasses.replace(study.effort, **study.efforts.get(task, {}))


class _Part:
    """The files of an incomplete block: its networks, and the measured solutions."""

    def __init__(self, path, identity, limit):
        self.limit, self._block = limit, store.digest(identity)
        self._rows = path.with_suffix(".part.jsonl")
        self.networks = path.with_suffix(".part.npz")

    def rows(self) -> list[dict[str, Any]]:
        """Returns the measured solutions."""
        lines = store.read_lines(self._rows, must_be_sealed=True)
        return [line["row"] for line in lines if line["block"] == self._block]

    def append(self, row: dict[str, Any]) -> None:
        """Appends a solution."""
        store.append_line(self._rows, {"block": self._block, "row": row})

    def remove(self) -> None:
        """Deletes the files of the block."""
        for path in (self._rows, self.networks):
            path.unlink(missing_ok=True)


def _run_block(study, task, algorithm, batch_size, measures, progress, part):
    """Makes the solutions of one program; measures are compiled once per task."""
    config = study.config(task, algorithm, batch_size)
    tasks = make_tasks(config, [study.base.data.data_seed])
    if task not in measures:
        measures[task] = Measures(tasks[0].objective, _effort(study, task))
    runs = list(itertools.product(grid(study.factors), study.seeds))
    population = Population(config, tasks)
    trained = population.train(
        [settings for settings, _ in runs],
        [seed for _, seed in runs],
        [0] * len(runs),
        progress=progress,
        limit=part.limit,
        file=unit_file(part.networks, config, runs),
    )
    there = len(part.rows())
    for (settings, seed), run in list(zip(runs, trained, strict=True))[there:]:
        with part.limit.part(task, "finish"):
            factors = {"algorithm": algorithm, "batch_size": batch_size, **settings}
            part.append({"factors": factors, "seed": seed} | _measured(measures[task], run))
    return part.rows()


def _measured(measures, run) -> dict[str, Any]:
    """Returns test error and measures of a solution."""
    held_out = run.task.evaluate(run.params, run.batch_stats)
    if not np.isfinite(held_out["loss"]):
        return {"diverged": True}
    measured = measures(run.task, run.params, run.batch_stats)
    return {"test_error": 100 * float(held_out["error"]), **measured, **meeting_record(run)}
