"""Units of work that several processes share: each takes units that are free.

Units are in the order of their value: a command that stops early has done the most useful ones.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from experiments.engine.time_limit import TimeIsUp, TimeLimit
from experiments.report import lock, store

Run = TypeVar("Run")


def run_units(
    units: Iterable[tuple[Any, Callable[[], Any]]], limit: TimeLimit | None = None
) -> Iterator[tuple[Any, Any]]:
    """Runs units one after another, and skips units that another process runs.

    A unit for which there is not enough time is left to a later call. A later, shorter unit may
    still fit.

    Args:
      units: key of each unit, and a function without arguments that runs it.
      limit: limit of the wall time, which counts the units that are left.

    Yields:
      Key and value of each complete unit.
    """
    limit = limit or TimeLimit()
    for key, run in units:
        try:
            value = run()
        except lock.InUseError as error:
            print(f"left to another process: {error}", file=sys.stderr)
        except TimeIsUp:
            limit.unfinished += 1
        else:
            yield key, value
    if limit.unfinished:
        print(
            f"Time limit: {limit.unfinished} units are left; the same command continues.",
            file=sys.stderr,
        )


def lacking(
    records: Iterable[Mapping[str, Any]],
    runs: Iterable[Run],
    key_of: Callable[[Run], Mapping[str, Any]],
) -> list[Run]:
    """Lists the runs of which there is no record.

    Args:
      records: records of runs, with more fields than their keys.
      runs: all runs.
      key_of: fields by which a record is that of a run; they are the same for all runs.

    Examples:
      >>> lacking([{"seed": 0, "error": 3.5}], [0, 1], lambda seed: {"seed": seed})
      [1]
    """
    keys = [(run, key_of(run)) for run in runs]
    fields = list(keys[0][1]) if keys else []
    there = {store.digest({name: record[name] for name in fields}) for record in records}
    return [run for run, key in keys if store.digest(key) not in there]
