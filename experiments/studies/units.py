"""Units of work that several processes share: each takes those that nobody else is at.

Units come in the order of their value: a command that is stopped early has done the first ones.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from experiments.engine.time_limit import TimeIsUp, TimeLimit
from experiments.report import lock


def run_units(
    units: Iterable[tuple[Any, Callable[[], Any]]], limit: TimeLimit | None = None
) -> Iterator[tuple[Any, Any]]:
    """Runs units one after another; leaves those that another process is at to that process.

    A unit for which the time does not suffice is left to a later call; a shorter one after it may
    still fit.

    Args:
      units: key and function without arguments of each.
      limit: counts the units that are left.

    Yields:
      Key and value of each unit that is complete.
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
