"""Solutions of a list: each is trained, measured, and recorded in a line.

The same call continues from the lines of the file.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from experiments.engine.config import TrainConfig
from experiments.engine.population import Trained, meeting_record
from experiments.engine.time_limit import TimeLimit
from experiments.report import store
from experiments.studies.runs import train_in_units

Records = list[dict[str, Any]]


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


def read_solutions(
    path: pathlib.Path, solutions: Sequence[Solution], identity: Mapping[str, Any]
) -> Records:
    """Reads the records of a file, in the order of the solutions.

    Args:
      path: a file of JSON lines.
      solutions: the list; records of other solutions are not returned.
      identity: everything on which a record depends except its settings and seed.

    Raises:
      ValueError: a record is damaged, or has another identity; the message names file and line.
    """
    found = {}
    for number, record in enumerate(store.read_lines(path, must_be_sealed=True), start=1):
        store.check_identity(identity, record, f"{path}, line {number}")
        found[_key(record["settings"], record["seed"])] = record
    keys = [_key(one.settings, one.seed) for one in solutions]
    return [found[key] for key in keys if key in found]


def run_solutions(
    path: pathlib.Path,
    config: TrainConfig,
    solutions: Sequence[Solution],
    identity: Mapping[str, Any],
    measure: Callable[[Trained], dict[str, Any]],
    *,
    kind: str,
    progress: bool = True,
    limit: TimeLimit | None = None,
) -> None:
    """Trains, measures and records the solutions that the file lacks.

    Args:
      path: see `read_solutions`.
      config: settings that all runs share.
      solutions: the list; the data of the first one normalise all images.
      identity: see `read_solutions`.
      measure: what the record says of a final model.
      kind: name of solutions that take equally long to measure.
      progress: show progress bars.
      limit: limit of the wall time.
    """
    limit = limit or TimeLimit()
    with store.claimed(path):
        records = read_solutions(path, solutions, identity)
        done = {_key(record["settings"], record["seed"]) for record in records}
        missing = [one for one in solutions if _key(one.settings, one.seed) not in done]
        if not missing:
            return
        units = train_in_units(
            config,
            [one.settings for one in missing],
            [one.seed for one in missing],
            normalized_by=solutions[0].seed,
            progress=progress,
            limit=limit,
            checkpoint=path.with_suffix(".npz"),
        )
        for unit in units:
            for position, model in zip(unit.positions, unit.models, strict=True):
                limit.require(kind, "finish")
                with limit.measuring(kind, "finish"):
                    measured = measure(model) | meeting_record(model)
                about = missing[position]._asdict() | {"seconds": unit.seconds}
                store.append_line(path, store.signed(about | measured | identity))


def _key(settings, seed) -> str:
    return store.digest({"settings": settings, "seed": seed})
