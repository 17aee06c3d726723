"""Attempts to make a program return wrong numbers, and their table."""

import collections
import dataclasses
import pathlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from experiments.engine.config import TrainConfig
from experiments.report import store
from experiments.report.tables import markdown_table

CONFIG = TrainConfig.of(
    algorithm="rsgd",
    gamma=0.01,
    train_size=200,
    batch_size=50,
    epochs=6,
    held_out_size=200,
    curve_examples=100,
    local_energy_samples=2,
    local_energy_examples=100,
)
OUTCOMES = ("detected", "harmless", "unnamed", "silent")


@dataclasses.dataclass(frozen=True)
class Row:
    """Attempts of one kind.

    Attributes:
      files: name of the attacked files.
      damage: name of the damage.
      tries: number of attempts.
      attempts: function (random numbers, number of attempts) -> the outcome of each.
    """

    files: str
    damage: str
    tries: int
    attempts: Callable[[random.Random, int], Iterable[str]]


def outcome(look: Callable[[], Any], wanted: Any, place: pathlib.Path) -> str:
    """Returns the outcome of an attempt.

    Args:
      look: function that reads the damaged files, and computes results from them.
      wanted: result of `look` without damage.
      place: a directory that an error must name.
    """
    try:
        return "harmless" if look() == wanted else "silent"
    except Exception as error:
        return "detected" if str(place) in str(error) else "unnamed"


def without_times(result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the result of a run without its measured times."""
    history = [{**record, "seconds": 0} for record in result["history"]]
    return {**result, "seconds": 0, "history": history}


def run_rows(rows: Sequence[Row], path: pathlib.Path, seed: int) -> Iterator[dict[str, Any]]:
    """Runs the rows for which a file has no record.

    Args:
      rows: the rows.
      path: file of JSON lines; each row is written when it is complete.
      seed: random seed of the damage; each row has its own random numbers.

    Yields:
      The records in the order of the rows: files, damage, tries, and the count of each outcome.
    """
    with store.claimed(path):
        known = {(record["files"], record["damage"]): record for record in _read(path, seed)}
        for row in rows:
            record = known.get((row.files, row.damage))
            if record is None or record["tries"] != row.tries:
                draw = random.Random(f"{seed}, {row.files}, {row.damage}")
                counts = collections.Counter(row.attempts(draw, row.tries))
                record = {"files": row.files, "damage": row.damage, "tries": row.tries}
                record |= {name: counts[name] for name in OUTCOMES}
                store.append_line(path, store.signed(record | {"identity": _identity(seed)}))
            yield record


def _identity(seed):
    return {"config": CONFIG.to_json(), "seed": seed}


def _read(path, seed):
    records = store.read_lines(path, must_be_sealed=True)
    for number, record in enumerate(records, start=1):
        store.check_identity(_identity(seed), record.pop("identity"), f"{path}, line {number}")
    return records


def is_bad(record: Mapping[str, Any]) -> bool:
    """Whether an attempt of a row was silent or unnamed."""
    return record["silent"] + record["unnamed"] > 0


def table(records: Iterable[Mapping[str, Any]]) -> str:
    """Formats the table of the documentation."""
    columns = ("files", "damage", "tries", *OUTCOMES)
    lines = [[str(record[name]) for name in columns] for record in records]
    return markdown_table([list(columns), *lines])
