"""The noise that moves weights, and the order in which data are passed over."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from flatjax import _checks
from flatjax._normal import normal

Batches = Iterable[Any] | Callable[[], Iterable[Any]]


def size(tree: chex.ArrayTree) -> int:
    """The number of weights in a pytree."""
    return sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(tree))


def unravel(vector: jax.Array, tree: chex.ArrayTree) -> chex.ArrayTree:
    """A vector cut into leaves of the shapes of a pytree."""
    treedef: Any
    leaves, treedef = jax.tree.flatten(tree)
    ends = np.cumsum([math.prod(np.shape(leaf)) for leaf in leaves])[:-1]
    parts = zip(jnp.split(vector, ends), leaves, strict=True)
    return treedef.unflatten([part.reshape(np.shape(leaf)) for part, leaf in parts])


def normal_like(key: chex.PRNGKey, tree: chex.ArrayTree) -> chex.ArrayTree:
    """Standard normal noise of the shapes of a pytree."""
    # One draw for all leaves: XLA takes half a second to compile each one on a CPU.
    return unravel(normal(key, size(tree)), tree) if jax.tree.leaves(tree) else tree


def unit(tree: chex.ArrayTree) -> tuple[chex.ArrayTree, jax.Array]:
    """(tree / norm, norm); zeros stay zeros."""
    norm = optax.tree.norm(tree)
    return optax.tree.scale(jnp.where(norm == 0, 0.0, 1 / norm), tree), norm


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
