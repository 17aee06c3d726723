"""Solutions of a study: each is trained, measured, and recorded in a line.

Each group (of networks and data) and algorithm has a file of JSON lines. The same call continues
from them.
"""

import functools
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from experiments.engine.config import TrainConfig
from experiments.engine.population import Trained, meeting_record
from experiments.engine.time_limit import TimeLimit
from experiments.report import store
from experiments.report.store import slug
from experiments.studies.runs import train_in_units
from experiments.studies.units import lacking, run_units

Records = list[dict[str, Any]]
Results = dict[str, dict[str, Records]]  # group -> algorithm -> records
Measure = Callable[[str, Trained], dict[str, Any]]  # of a group's name and a final model


class Solution(Protocol):
    """One run: the fields in which it differs from others of its list, and its seed."""

    @property
    def settings(self) -> dict[str, float]:
        """The fields in which it differs."""

    @property
    def seed(self) -> int:
        """The seed of the run, its subset and its wrong labels."""

    def _asdict(self) -> dict[str, Any]:
        """Everything that its record says of it."""


class Part(NamedTuple):
    """The solutions of one algorithm in one group; they share a file.

    Attributes:
      group: label of networks and data; solutions of a group take equally long to measure.
      algorithm: label of the algorithm.
      config: settings that all solutions share.
      solutions: the list; the data of the first one normalise all images.
      identity: everything on which a record depends except its settings and seed.
    """

    group: str
    algorithm: str
    config: TrainConfig
    solutions: Sequence[Solution]
    identity: Mapping[str, Any]


def path_of(out: pathlib.Path, group: str, algorithm: str) -> pathlib.Path:
    """Returns the file of a group and algorithm."""
    return out / slug(group) / f"{slug(algorithm)}.jsonl"


def read_part(part: Part, out: pathlib.Path) -> Records:
    """Reads the records of a part, in the order of its solutions.

    Records of other solutions are not returned.

    Raises:
      ValueError: a record is damaged, or has another identity; the message names file and line.
    """
    path, found = path_of(out, part.group, part.algorithm), {}
    for number, record in enumerate(store.read_lines(path, must_be_sealed=True), start=1):
        store.check_identity(part.identity, record, f"{path}, line {number}")
        found[store.digest({name: record[name] for name in ("settings", "seed")})] = record
    keys = [store.digest(_key(one)) for one in part.solutions]
    return [found[key] for key in keys if key in found]


def read_parts(parts: Iterable[Part], out: pathlib.Path) -> Results:
    """Reads the records of the parts whose solutions are all there."""
    results: Results = {}
    for part in parts:
        records = read_part(part, out)
        if len(records) == len(part.solutions):
            results.setdefault(part.group, {})[part.algorithm] = records
    return results


def run_parts(
    parts: Iterable[Part],
    out: pathlib.Path,
    measure: Measure,
    *,
    progress: bool = True,
    limit: TimeLimit | None = None,
) -> None:
    """Trains, measures and records the solutions of which `out` has no record.

    Args:
      parts: the parts, in the order of their value.
      out: directory; each group has its own.
      measure: what the record says of a final model.
      progress: show progress bars.
      limit: limit of the wall time; it counts the parts that are left.

    Raises:
      ValueError: a file in `out` is damaged, or belongs to another study.
    """
    limit = limit or TimeLimit()
    run = functools.partial(_run_part, out, measure, progress, limit)
    units = (((part.group, part.algorithm), functools.partial(run, part)) for part in parts)
    for _ in run_units(units, limit):
        pass


def _run_part(out, measure, progress, limit, part):
    """Makes the records that the file of a part lacks."""
    path = path_of(out, part.group, part.algorithm)
    with store.claimed(path):
        missing = lacking(read_part(part, out), part.solutions, _key)
        if not missing:
            return
        units = train_in_units(
            part.config,
            [one.settings for one in missing],
            [one.seed for one in missing],
            normalized_by=part.solutions[0].seed,
            progress=progress,
            limit=limit,
            checkpoint=path.with_suffix(".npz"),
        )
        for unit in units:
            for position, model in zip(unit.positions, unit.models, strict=True):
                with limit.part(part.group, "finish"):
                    measured = measure(part.group, model) | meeting_record(model)
                about = missing[position]._asdict() | {"seconds": unit.seconds}
                store.append_line(path, store.signed(about | measured | part.identity))


def _key(solution):
    return {"settings": solution.settings, "seed": solution.seed}
