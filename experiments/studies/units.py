"""Units of work that several processes share: each takes those that nobody else is at."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from experiments.report import lock


def run_units(units: Iterable[tuple[Any, Callable[[], Any]]]) -> Iterator[tuple[Any, Any]]:
    """Runs units one after another; leaves those that another process is at to that process.

    Args:
      units: key and function without arguments of each.

    Yields:
      Key and value of each unit that is complete.
    """
    for key, run in units:
        try:
            value = run()
        except lock.InUseError as error:
            print(f"left to another process: {error}", file=sys.stderr)
        else:
            yield key, value
