"""Tunes SGD by successive halving at one length after another, until longer does not pay.

Every round of candidates is a unit of work: its records are written, with what they belong to, when
it is done, and the same command continues from the records.
"""

import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.engine.population import Population, Trained
from experiments.engine.task import dataset_fingerprint, make_tasks
from experiments.report import provenance, store
from experiments.studies.ladder.description import Ladder
from experiments.studies.ladder.ranking import best, ranking, records_of

# Runs of a convolutional network go one after another; a unit ends within about 20 minutes.
RUNS_PER_UNIT = 24


def run_ladder(ladder: Ladder, path: pathlib.Path, *, progress: bool = True) -> None:
    """Runs what `path` has no record of: the shortest lengths of all settings first.

    Args:
      ladder: what is wanted.
      path: a file of JSON lines, one for each run.
      progress: show progress bars.
    """
    data = dataset_fingerprint(ladder.base.data.dataset)
    with store.claimed(path):
        for length in ladder.lengths:
            for setting in ladder.settings:
                if is_decided(ladder, read_records(ladder, path, data), setting, length):
                    continue
                for keep, seeds in ladder.rounds:
                    _run_round(ladder, path, setting, length, keep, seeds, progress)


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


def is_decided(ladder: Ladder, records: list[dict[str, Any]], setting: str, length: int) -> bool:
    """Whether the two lengths before this one already differ by less than the least gain."""
    position = list(ladder.lengths).index(length)
    if position < 2:
        return False
    lengths = ladder.lengths[position - 2 : position]
    shorter, longer = (best(records, setting, at) for at in lengths)
    if shorter is None or longer is None:
        return False
    return shorter["error"] - longer["error"] < ladder.least_gain


def _run_round(ladder, path, setting, length, keep, seeds, progress):
    """The best `keep` candidates on seeds 0 ... seeds - 1, as far as they are missing."""
    known = records_of(read_records(ladder, path), setting, length)
    candidates = ladder.candidates()
    ranked = ranking(known) or list(range(len(candidates)))
    done = {(record["candidate"], record["seed"]) for record in known}
    wanted = [(candidate, seed) for candidate in ranked[:keep] for seed in range(seeds)]
    missing = [run for run in wanted if run not in done]
    config = ladder.config(setting, length)
    for start in range(0, len(missing), RUNS_PER_UNIT):
        unit = missing[start : start + RUNS_PER_UNIT]
        settings = [candidates[candidate] for candidate, _ in unit]
        began = time.perf_counter()
        trained = _train(config, settings, [seed for _, seed in unit], progress)
        seconds = round((time.perf_counter() - began) / len(unit), 2)
        for (candidate, seed), changed, model in zip(unit, settings, trained, strict=True):
            keys = {"setting": setting, "length": length, "candidate": candidate, "seed": seed}
            about = {"settings": changed, "seconds": seconds, "config": config.to_json()}
            about |= {"revision": provenance.TRAINING}
            about |= {"data": dataset_fingerprint(ladder.base.data.dataset)}
            store.append_line(path, store.signed(keys | _errors(model) | about))


def _train(config, settings, seeds, progress):
    """One run for each of the settings; a seed draws the data as well."""
    data_seeds = sorted(set(seeds))
    population = Population(config, make_tasks(config, data_seeds))
    tasks = [data_seeds.index(seed) for seed in seeds]
    return population.train(settings, seeds, tasks, progress=progress)


def _errors(model: Trained) -> dict[str, float | None]:
    """Validation error in %, 100 for a run that diverged, and losses."""
    found = model.task.evaluate(model.params, model.batch_stats)
    finite = bool(np.isfinite(found["loss"]))
    return {
        "validation_error": 100 * float(found["error"]) if finite else 100.0,
        "validation_loss": float(found["loss"]) if finite else None,
        "train_loss": model.train_loss if np.isfinite(model.train_loss) else None,
    }
