"""Tunes SGD at one length after another, until longer does not pay.

The records of a unit of runs are written, with what they belong to, when it is done, and the same
command continues from the records.
"""

import itertools
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.engine.task import dataset_fingerprint
from experiments.report import provenance, store
from experiments.studies.halving import halve
from experiments.studies.ladder.description import Ladder
from experiments.studies.ladder.ranking import best, records_of
from experiments.studies.runs import train_in_units, validation_errors


def run_ladder(
    ladder: Ladder,
    path: pathlib.Path,
    *,
    settings: Iterable[str] | None = None,
    progress: bool = True,
) -> None:
    """Runs what `path` has no record of: the shortest lengths of all settings first.

    Args:
      ladder: the description of the study.
      path: a file of JSON lines, one for each run.
      settings: labels of the settings to run; all by default.
      progress: show progress bars.
    """
    data = dataset_fingerprint(ladder.base.data.dataset)
    with store.claimed(path):
        for length in ladder.lengths:
            for setting in settings or ladder.settings:
                if decided_length(ladder, read_records(ladder, path, data), setting) is None:
                    _run_length(ladder, path, setting, length, progress)


def read_records(
    ladder: Ladder, path: pathlib.Path, data: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The records of a file, all of which must belong to the ladder.

    Args:
      ladder: of the records.
      path: the file.
      data: fingerprint of the data set; not compared if None, nor with records that have none.

    Raises:
      ValueError: a record is damaged, or of other settings; the message names file and line.
    """
    records = store.read_lines(path)
    candidates = ladder.candidates()
    for number, record in enumerate(records, start=1):
        place = f"{path}, line {number}"
        keys = {
            "setting": record["setting"] in ladder.settings,
            "length": record["length"] in ladder.lengths,
            "candidate": record["candidate"] < len(candidates),
        }
        for key, is_known in keys.items():
            if not is_known:
                raise store.OtherIdentityError(
                    f"{place} belongs to another ladder: {key} {record[key]!r} is none of this one."
                )
        wanted = {
            "config": ladder.config(record["setting"], record["length"]).to_json(),
            "settings": candidates[record["candidate"]],
            "revision": provenance.TRAINING,
        }
        wanted |= {"data": data} if data is not None and "data" in record else {}
        store.check_identity(wanted, record, place)
    return records


def decided_length(ladder: Ladder, records: list[dict[str, Any]], setting: str) -> int | None:
    """The shortest length that a longer one hardly betters, or else the longest.

    None if the lengths that would decide are not complete.
    """
    for shorter, longer in itertools.pairwise(ladder.lengths):
        if any(_missing(ladder, records, setting, length) for length in (shorter, longer)):
            return None
        before, after = (best(records, setting, length) for length in (shorter, longer))
        if before["error"] - after["error"] < ladder.least_gain:
            return shorter
    return ladder.lengths[-1]


def _run_length(ladder, path, setting, length, progress):
    """All rounds of a setting and length, as far as runs are missing."""
    candidates = ladder.candidates()
    config = ladder.config(setting, length)
    while missing := _missing(ladder, read_records(ladder, path), setting, length):
        settings = [candidates[candidate] for candidate, _ in missing]
        seeds = [seed for _, seed in missing]
        for unit in train_in_units(config, settings, seeds, progress=progress):
            for position, model in zip(unit.positions, unit.models, strict=True):
                candidate, seed = missing[position]
                keys = {"setting": setting, "length": length, "candidate": candidate, "seed": seed}
                about = {
                    "settings": settings[position],
                    "seconds": unit.seconds,
                    "config": config.to_json(),
                    "revision": provenance.TRAINING,
                    "data": dataset_fingerprint(ladder.base.data.dataset),
                }
                store.append_line(path, store.signed(keys | validation_errors(model) | about))


def _missing(ladder, records, setting, length):
    """Candidate and seed of the runs that the present round lacks."""
    known = records_of(records, setting, length)
    errors = {(r["candidate"], r["seed"]): r["validation_error"] for r in known}
    return halve(errors, range(ladder.trials), ladder.rounds).missing
