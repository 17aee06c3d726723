"""Which weights move, the noise that moves them, and the order in which data are passed over."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import chex
import jax
import numpy as np

from flatjax import _checks
from flatjax._coupling import Mask, map_masked

Batches = Iterable[Any] | Callable[[], Iterable[Any]]


def moving(params: chex.ArrayTree, mask: Mask) -> chex.ArrayTree:
    """The leaves that the mask marks True; in place of the others None, a pytree of no leaves."""
    if mask is None:
        return params
    fixed = jax.tree.map(lambda w: False, params)
    moves = map_masked(lambda w: True, mask, params, fixed)
    return jax.tree.map(lambda is_moving, w: w if is_moving else None, moves, params)


def map_moving(
    fn: Callable[[jax.Array, jax.Array], jax.Array], params: chex.ArrayTree, moves: chex.ArrayTree
) -> chex.ArrayTree:
    """`params` with w replaced by fn(w, m), in the dtype of w, where `moves` has a leaf m."""
    is_none = lambda leaf: leaf is None
    new = lambda m, w: w if m is None else fn(w, m).astype(w.dtype)
    return jax.tree.map(new, moves, params, is_leaf=is_none)


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


def check_grid(name: str, values: Any) -> np.ndarray:
    """The values as an array; raises unless they are positive and finite numbers."""
    array = np.atleast_1d(_checks.real_array(name, values))
    if array.ndim != 1 or not array.size or not (np.isfinite(array) & (array > 0)).all():
        raise ValueError(f"{name} must be a list of positive finite numbers, got {array}.")
    return array
