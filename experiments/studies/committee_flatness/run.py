"""Trains and measures all solutions, and records each in a line.

Each cell has a file of JSON lines. The same command continues from them.
"""

import functools
import pathlib
import time
import zlib
from typing import Any

import chex
import jax
import numpy as np

import flatjax
from experiments.engine.task import dataset_digest
from experiments.engine.time_limit import TimeLimit
from experiments.report import bars, provenance, store
from experiments.studies.committee import records as committee_records
from experiments.studies.committee.measures import error_of, eval_fn, floats, unit_overlap
from experiments.studies.committee.solvers import train
from experiments.studies.committee.task import Patterns, make_patterns
from experiments.studies.committee_flatness.description import Cell, CommitteeFlatness
from experiments.studies.units import lacking, run_units
from flatjax import flatness

Records = list[dict[str, Any]]


def run_study(
    study: CommitteeFlatness,
    out: pathlib.Path,
    *,
    progress: bool = True,
    limit: TimeLimit | None = None,
) -> None:
    """Trains and measures solutions of which `out` has no record yet.

    Args:
      study: the study.
      out: directory with a file for each cell.
      progress: show progress bars.
      limit: limit of the wall time; it counts the cells that are left.

    Raises:
      ValueError: a file in `out` is damaged, or belongs to another study.
    """
    limit = limit or TimeLimit()
    units = [
        (cell, functools.partial(_run_cell, study, cell, out, progress, limit))
        for cell in study.cells()
    ]
    for _ in run_units(units, limit):
        pass


def path_of(out: pathlib.Path, cell: Cell) -> pathlib.Path:
    """Returns the file of a cell."""
    return out / f"p-{cell[0]}-noise-{cell[1]:g}.jsonl"


def read_records(
    study: CommitteeFlatness, cell: Cell, out: pathlib.Path, *, is_part: bool = False
) -> Records:
    """Reads the records of a cell.

    Args:
      study: the study.
      cell: the cell.
      out: directory with a file for each cell.
      is_part: whether the study has a part of the algorithms, so that records of others are left
        out instead of refused.

    Raises:
      ValueError: a record is damaged, or has other settings; the message names file and line.
    """
    path, solvers = path_of(out, cell), study.solvers_of(cell)
    found = []
    for number, record in enumerate(store.read_lines(path, must_be_sealed=True), start=1):
        if is_part and record["solver"].rsplit(" ", 1)[0] not in study.solvers:
            continue
        found.append(record)
        place = f"{path}, line {number}"
        if record["solver"] not in solvers:
            raise store.OtherIdentityError(
                f"{place} belongs to another study: this one has no solver {record['solver']!r}."
            )
        store.check_identity(_identity(study, cell, record["solver"]), record, place)
    return found


def read_study(study: CommitteeFlatness, out: pathlib.Path) -> dict[Cell, Records]:
    """Reads the records of the complete cells."""
    results = {}
    for cell in study.cells():
        records = read_records(study, cell, out)
        if len(records) == len(study.subsets) * len(study.solvers_of(cell)):
            results[cell] = records
    return results


def key_of(label: str, subset: int) -> chex.PRNGKey:
    """Returns the key of a run: no two settings or subsets share initial weights."""
    return jax.random.fold_in(jax.random.key(subset), zlib.crc32(label.encode()))


def _identity(study, cell, label) -> dict[str, Any]:
    """Everything on which a record depends, except its subset."""
    task = study.task_of(cell)
    return {
        "task": {name: committee_records.plain(value) for name, value in vars(task).items()},
        "num_units": study.num_units,
        "settings": committee_records.as_json(study.solvers_of(cell)[label]),
        "sigmas": list(study.sigmas),
        "num_samples": study.num_samples,
        "data": dataset_digest(task.dataset),
        "revision": provenance.COMMITTEE,
    }


def _run_cell(study, cell, out, progress, limit):
    """Trains and measures what the file of a cell lacks."""
    path, solvers = path_of(out, cell), study.solvers_of(cell)
    energy = flatness.local_energy(eval_fn, sigmas=study.sigmas, num_samples=study.num_samples)
    with store.claimed(path):
        known = read_records(study, cell, out, is_part=True)
        # Solvers are the outer loop: each of them compiles a program.
        runs = [{"solver": label, "subset": one} for label in solvers for one in study.subsets]
        missing = lacking(known, runs, dict)
        patterns = functools.cache(functools.partial(make_patterns, study.task_of(cell)))
        for run in (bar := bars.bar(missing, progress=progress, desc=path.stem)):
            label, subset = run.values()
            bar.set_postfix_str(label)
            with limit.part(cell, "finish"):
                learned, _, test = patterns(subset)
                found = _solution(study, solvers[label], label, subset, learned, test, energy)
            identity = _identity(study, cell, label)
            store.append_line(path, store.signed(run | found | identity))


def _solution(
    study: CommitteeFlatness,
    solver: Any,
    label: str,
    subset: int,
    learned: Patterns,
    test: Patterns,
    energy: Any,
) -> dict[str, Any]:
    """Trains one solution from weights of its own, and measures it; errors in %."""
    began = time.perf_counter()
    weights, members = jax.block_until_ready(
        train(solver, study.num_units, learned, key_of(label, subset))
    )
    seconds = time.perf_counter() - began
    rises = energy(weights, [learned], jax.random.key(0)).mean["error"]
    test_error = 100 * error_of(weights, test)
    found = {
        "train_error": 100 * error_of(weights, learned),
        "test_error": test_error,
        "local_energy": floats(100 * np.asarray(rises)),
        "unit_overlap": unit_overlap(weights),
        "seconds": round(seconds, 3),
    }
    if len(members) > 1:
        distance = flatjax.replica_distance(members, replica_axis=0) / weights.size  # of norm K N
        found["meeting"] = {
            "center": test_error,
            "replicas": 100 * float(np.mean([error_of(one, test) for one in members])),
            "distance": float(np.sqrt(distance)),
        }
    return found
