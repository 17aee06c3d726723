"""Batches of a data set, in all forms that the measures accept."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from flatjax import _checks

Batches = Iterable[Any] | Callable[[], Iterable[Any]]

EXPECTED = (
    "a list of batches, a loader that can be iterated again, or a function without arguments that "
    "returns a fresh iterator"
)


class Data:
    """Batches of a data set, and the ways in which they can be iterated.

    Attributes:
      in_memory: whether the batches are a sequence, which can be read in any order.
      repeatable: whether they can be iterated more than once.
    """

    def __init__(self, batches: Batches, name: str = "batches"):
        self._name = name
        self._check_form(batches, "got")
        self.in_memory = isinstance(batches, Sequence)
        self.repeatable = not isinstance(batches, Iterator)
        self._batches = batches
        self._last: Iterator[Any] | None = None

    def __len__(self) -> int:
        if not isinstance(self._batches, Sequence):
            raise TypeError("only batches that are a sequence have a length.")
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        """Iterates over the data once; raises if there are none, or none are left."""
        batches: Any = self._batches
        if not _is_iterable(batches):
            batches = batches()
            self._check_form(batches, "it returned")
        iterator = iter(batches)
        if iterator is self._last:
            raise ValueError(
                f"{self._name} must be {EXPECTED}; got the same iterator twice, which would "
                "continue in the middle of the data."
            )
        self._last = iterator
        first = list(itertools.islice(iterator, 1))
        if not first:
            hint = "" if self.in_memory else " Is this an iterator that is used up?"
            raise ValueError(f"{self._name} must hold at least one batch, got none.{hint}")
        return itertools.chain(first, iterator)

    def _check_form(self, batches: Any, got: str) -> None:
        """Raises if `batches` has a wrong type, or is one batch and not a list."""
        if _is_one_batch(batches):
            raise TypeError(
                f"{self._name} must be {EXPECTED}; {got} one batch, {_described(batches)}: put it "
                "in a list, [batch]."
            )
        may_be_called = got == "got" and callable(batches)
        if not may_be_called and not _is_iterable(batches):
            raise TypeError(f"{self._name} must be {EXPECTED}; {got} {batches!r}.")


def repeatable(batches: Batches, name: str = "batches") -> Data:
    """Returns data that can be iterated many times; raises if they cannot."""
    data = Data(batches, name)
    if not data.repeatable:
        raise ValueError(
            f"{name} must be {EXPECTED}, because it is read many times; got an iterator, "
            f"{batches!r}."
        )
    return data


def _is_iterable(batches: Any) -> bool:
    # Some loaders have only __getitem__, the old protocol of iteration.
    return hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")


def _is_one_batch(batches: Any) -> bool:
    if isinstance(batches, Mapping | str | bytes) or hasattr(batches, "_fields"):
        return True
    if hasattr(batches, "dtype") and hasattr(batches, "shape"):
        return True
    # A pair (images, labels): arrays of equally many examples, but of different dtypes or shapes.
    is_pair = isinstance(batches, tuple | list) and len(batches) > 1
    if not is_pair or not all(isinstance(x, np.ndarray | jax.Array) for x in batches):
        return False
    kinds = {(x.shape[1:], x.dtype) for x in batches}
    return len({x.shape[:1] for x in batches}) == 1 and len(kinds) > 1


def _described(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a mapping of {sorted(map(str, batch))}"
    if isinstance(batch, tuple | list):
        return f"a {type(batch).__name__} of {', '.join(map(_checks.described, batch))}"
    return _checks.described(batch)
