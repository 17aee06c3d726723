"""What measures are given: batches of data, and how they may be passed over; grids."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from flatjax import _checks

Batches = Iterable[Any] | Callable[[], Iterable[Any]]


class Data:
    """Batches of a data set, and how they may be passed over.

    Attributes:
      in_memory: the batches are a sequence, which may be passed over in any order of loops.
      repeatable: they can be passed over more than once.
    """

    def __init__(self, batches: Batches):
        if not callable(batches) and not isinstance(batches, Iterable):
            raise TypeError(
                "batches must be a sequence, an iterable, or a function that returns one; "
                f"got {batches!r}."
            )
        self.in_memory = isinstance(batches, Sequence)
        self.repeatable = not isinstance(batches, Iterator)
        self._batches = batches

    def __len__(self) -> int:
        if not isinstance(self._batches, Sequence):
            raise TypeError("only batches that are a sequence have a length.")
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        """One pass over the data; raises if there are none."""
        batches = iter(self._batches() if callable(self._batches) else self._batches)
        first = list(itertools.islice(batches, 1))
        if not first:
            raise ValueError("batches must hold at least one batch, got none.")
        return itertools.chain(first, batches)


def repeatable(batches: Batches) -> Data:
    """The data of a measure that passes over them many times; raises if that cannot be done."""
    data = Data(batches)
    if not data.repeatable:
        raise ValueError(
            "batches must be passed over many times, got an iterator: give a sequence, or a "
            "function that returns a fresh iterator."
        )
    return data


def check_grid(name: str, values: Any) -> np.ndarray:
    """The values as an array; raises unless they are positive and finite numbers."""
    array = np.atleast_1d(_checks.real_array(name, values))
    if array.ndim != 1 or not array.size or not (np.isfinite(array) & (array > 0)).all():
        raise ValueError(f"{name} must be a list of positive finite numbers, got {array}.")
    return array
