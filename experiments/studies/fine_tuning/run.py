"""Tunes methods alike on validation data, then tests each on fresh seeds.

Each mode and arm has a file of JSON lines, with one line for each run. A line is written when its
run ends, and the same command continues from the lines. One process at a time works on a file.
"""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine.task import dataset_digest
from experiments.engine.time_limit import TimeIsUp, TimeLimit
from experiments.report import provenance, store
from experiments.report.store import slug
from experiments.studies.contest.results import Part, Results
from experiments.studies.contest.search import Search, search
from experiments.studies.fine_tuning.description import FineTuning
from experiments.studies.fine_tuning.methods import make_run
from experiments.studies.fine_tuning.outcomes import Measures
from experiments.studies.fine_tuning.task import Tasks
from experiments.studies.units import lacking, run_units

Records = list[dict[str, Any]]


def run_study(
    study: FineTuning, out: pathlib.Path, *, progress: bool = True, limit: TimeLimit | None = None
) -> None:
    """Runs what `out` has no record of.

    Args:
      study: what to run.
      out: directory; each mode has its own, with a file for each arm.
      progress: print a line for each complete arm.
      limit: limit of the wall time; a run that would not end in time is not started.
    """
    limit = limit or TimeLimit()
    runner = _Runner(study, out, limit)
    units = [
        ((mode, arm), functools.partial(runner.complete, mode, arm))
        for mode in study.modes
        for arm in arms_of(study)
    ]
    for (mode, arm), records in run_units(units, limit):
        if progress:
            error = np.mean([record["new_error"] for record in records])
            print(f"{mode}, {arm}: test error {error:.2f}% on new classes", flush=True)


def arms_of(study: FineTuning) -> list[str]:
    """Returns the labels of contestants and of longer variants of these."""
    longer = [label for label in study.longer if study.base_of(label) in study.contestants]
    return [*study.contestants, *longer]


def path_of(out: pathlib.Path, mode: str, arm: str) -> pathlib.Path:
    """Returns the file of an arm."""
    return out / slug(mode) / f"{slug(arm)}.jsonl"


def read_records(
    study: FineTuning, mode: str, arm: str, out: pathlib.Path
) -> tuple[Search, Records]:
    """Reads the search of an arm's settings, and the records of its test by seed.

    Raises:
      ValueError: a record is damaged, or belongs to other settings; the message names file and
        line.
    """
    base = study.base_of(arm)
    found = _search(study, mode, base, out)
    path = path_of(out, mode, arm)
    tests = [record for record in _read(study, mode, arm, path) if record["part"] == "test"]
    if tests:
        # A test is of the choice, or the records are not those of one search.
        wanted = None if found.chosen is None else found.candidates[found.chosen]
        store.check_identity({"settings": wanted}, tests[0], f"the test in {path}")
    return found, sorted(tests, key=lambda record: record["seed"])


def _search(study, mode, contestant, out) -> Search:
    path = path_of(out, mode, contestant)
    records = [r for r in _read(study, mode, contestant, path) if r["part"] == "validation"]
    errors = {(r["candidate"], r["seed"]): r["new_error"] for r in records}
    found = search(study, contestant, errors)
    for record in records:
        settings = found.candidates[record["candidate"]]
        store.check_identity({"settings": settings}, record, str(path))
    return found


def _read(study, mode, arm, path) -> Records:
    """Reads the lines of a file and checks to what they belong."""
    records = store.read_lines(path)
    identity = {"run": study.run_of(mode, arm), "revision": provenance.TRAINING}
    identity |= {"images": dataset_digest(study.data.dataset)} if records else {}
    for number, record in enumerate(records, start=1):
        store.check_identity(identity, record, f"{path}, line {number}")
    return records


class _Runner:
    """Runs arms; programs, tasks and measures are shared."""

    def __init__(self, study: FineTuning, out: pathlib.Path, limit: TimeLimit):
        self._study, self._out, self._limit = study, out, limit
        self._programs = functools.cache(self._program)

    @functools.cached_property
    def _tasks(self) -> Tasks:
        return Tasks(self._study)

    @functools.cached_property
    def _measures(self) -> Measures:
        return Measures(self._study, self._tasks)

    def complete(self, mode: str, arm: str) -> Records:
        """Runs what an arm lacks, and returns the records of its test."""
        study, path = self._study, path_of(self._out, mode, arm)
        with store.claimed(path):
            base = study.base_of(arm)
            while (found := _search(study, mode, base, self._out)).missing:
                if base != arm:
                    raise TimeIsUp(f"{arm} waits for the choice of {base}.")
                for candidate, seed in found.missing:
                    keys = {"part": "validation", "candidate": candidate, "seed": seed}
                    self._run(mode, arm, path, keys, found.candidates[candidate])
            found, tested = read_records(study, mode, arm, self._out)
            for seed in lacking(tested, study.seeds_of_test, lambda seed: {"seed": seed}):
                keys = {"part": "test", "candidate": found.chosen, "seed": seed}
                self._run(mode, arm, path, keys, found.candidates[found.chosen])
        return read_records(study, mode, arm, self._out)[1]

    def _run(self, mode, arm, path, keys, settings):
        """Trains and measures one run, and writes its record."""
        kind, shared = (mode, arm), self._study.run_of(mode, arm)
        whole = {name: value for name, value in settings.items() if isinstance(value, int)}
        fixed = shared["fixed"] | whole
        program = self._programs(mode, tuple(fixed.items()), shared["gradients"])
        with self._limit.part(kind, "unit"):
            task, seed = self._tasks.of(keys["seed"]), jax.random.key(keys["seed"])
            numbers = {n: jnp.float32(v) for n, v in settings.items() if n not in whole}
            stack = program(numbers, jax.random.fold_in(seed, 1), task.pretrained, task.train)
            jax.block_until_ready(stack)
            outcomes = self._measures(mode, fixed, task, stack, is_test=keys["part"] == "test")
        about = {"settings": settings, "run": shared}
        about |= {
            "images": dataset_digest(self._study.data.dataset),
            "revision": provenance.TRAINING,
        }
        store.append_line(path, store.signed(keys | outcomes | about))

    def _program(self, mode: str, fixed: tuple[tuple[str, Any], ...], gradients: int):
        own: Mapping[str, Any] = dict(fixed)
        return make_run(self._study, self._tasks, mode, own, gradients)


def read_study(study: FineTuning, out: pathlib.Path) -> Results:
    """Reads what is complete: mode -> arm -> its search, and the records of its test.

    Variants with more gradients have no search of their own.
    """
    results: Results = {}
    for mode in study.modes:
        for arm in arms_of(study):
            found, tests = read_records(study, mode, arm, out)
            if [record["seed"] for record in tests] == study.seeds_of_test:
                own = None if arm in study.longer else found
                results.setdefault(mode, {})[arm] = Part(own, tests)
    return results


def read_validation(study: FineTuning, mode: str, arm: str, out: pathlib.Path) -> Records:
    """Reads the validation records of an arm."""
    path = path_of(out, mode, arm)
    return [record for record in _read(study, mode, arm, path) if record["part"] == "validation"]
