r"""Passes over a data set in `report`: counted, and with values of each batch.

Measures know only sums over all batches. To find each batch's contribution, the evaluation function
gets the number b of the batch and returns, next to each sum s, the vector

.. math:: s \, e_b, \qquad (e_b)_i = [i = b], \tag{1}

Its sum over K batches holds the contributions of all batches, shape (K,). To a measure, this is
another quantity.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax._batches import Batches, Data, repeatable
from flatjax._evaluation import EvalFn, check_sums
from flatjax._keys import is_typed
from flatjax.flatness._check_eval_fn import check_finite

BY_BATCH = "by batch: "


class Passes:
    """The batches of a data set, which report their use; read once at the start.

    Attributes:
      num_batches: K.
      fingerprint: SHA-256 of all numbers: equal for equal data sets.
      plain: the batches.
      labelled: pairs of a number b = 0, ..., K - 1 and a batch.
      reference: {name: mean at the solution}.
      num_examples: the sum of counts.
      shares: each batch's share of the examples, (K,).

    Raises:
      ValueError: a sum at the solution is NaN or infinite for some batch.
    """

    def __init__(
        self,
        eval_fn: EvalFn,
        params: chex.ArrayTree,
        batches: Batches,
        state: tuple[Any, ...],
        tick: Callable[[], None] = lambda: None,
    ):
        data = repeatable(batches)
        digest = hashlib.sha256()
        found = []
        for batch in data:
            _update(digest, batch)
            found.append(check_sums(eval_fn(params, batch, *state)))
        sums = {name: np.array([float(one[name]) for one in found]) for name in found[0]}
        counts = sums.pop("count")
        for name, of_batches in sums.items():
            check_finite(name, of_batches)
        self.num_batches, self.num_examples = len(counts), float(counts.sum())
        self.shares = counts / counts.sum()
        self.reference = {name: float(s.sum() / counts.sum()) for name, s in sums.items()}
        self.fingerprint = digest.hexdigest()
        self.plain = _view(data, tick, lambda number, batch: batch)
        self.labelled = _view(data, tick, lambda number, batch: (np.int32(number), batch))


class _Loader:
    """Batches that can be iterated again."""

    def __init__(self, data: Data, tick: Callable[[], None], make: Callable[[int, Any], Any]):
        self._data, self._tick, self._make = data, tick, make

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self._data):
            yield self._make(number, batch)
            self._tick()


class _List(_Loader, Sequence[Any]):
    """Batches in memory."""

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]


def _view(data, tick, make) -> Any:
    return (_List if data.in_memory else _Loader)(data, tick, make)


def by_batch(eval_fn: EvalFn, num_batches: int) -> EvalFn:
    """Makes the `eval_fn` of labelled batches, with the vectors of eq. (1)."""

    def labelled(params, batch, *state):
        number, examples = batch
        sums = check_sums(eval_fn(params, examples, *state))
        where = jax.nn.one_hot(number, num_batches)
        return dict(sums) | {BY_BATCH + name: where * total for name, total in sums.items()}

    return jax.jit(labelled)


def weighted(shares: np.ndarray, means: Sequence[float]) -> np.ndarray:
    """Multiplies means of batches by their shares; an empty batch contributes 0."""
    contributions = np.zeros(len(shares))
    return np.multiply(shares, means, out=contributions, where=shares > 0)


def _update(digest: Any, batch: chex.ArrayTree) -> None:
    for path, leaf in jax.tree.leaves_with_path(batch):
        array = np.asarray(jax.random.key_data(leaf) if is_typed(leaf) else jnp.asarray(leaf))
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
