"""Feeds a run with a stream: consecutive batches lie on the device, in a window that moves on.

The step in row r of an epoch takes the batches r y, ..., r y + y - 1 of the stream after those of
the epochs before, one for each of y replicas. A window holds the batches of up to k rows; the next
one begins at a multiple of k, or with an epoch. Programs see the window as their training set, and
an order (`window_order`) that is the same for all windows. What is learned does not depend on k.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.engine import fingerprints
from experiments.engine.datasets import joined
from flatjax import data

WINDOW_BYTES = 2**26


def rows_in_window(example: np.ndarray, num_replicas: int, batch_size: int, num_rows: int) -> int:
    """k: how many rows of batches, of one image like `example`, lie on the device at once."""
    row_bytes = example.nbytes * num_replicas * batch_size
    return max(1, min(num_rows, WINDOW_BYTES // row_bytes))


def window_order(num_rows: int, num_replicas: int, batch_size: int, rows: int) -> jnp.ndarray:
    """Where the batches of each row of an epoch are in their window, (num_rows, y, B).

    Examples:
      >>> window_order(num_rows=3, num_replicas=1, batch_size=2, rows=2).tolist()
      [[[0, 1]], [[2, 3]], [[0, 1]]]
    """
    places = jnp.arange(rows * num_replicas * batch_size, dtype=jnp.int32)
    order = places.reshape(rows, num_replicas, batch_size)
    return order[jnp.arange(num_rows) % rows]


class Feed:
    """The window of a run, which moves forward only.

    Args:
      stream: the training examples.
      num_replicas: y.
      rows: k.
      put: brings a window to where the run lives.
    """

    def __init__(
        self,
        stream: data.Stream,
        num_replicas: int,
        rows: int,
        put: Callable[[data.Split], data.DeviceSplit],
    ):
        self._stream, self._num_replicas, self._rows, self._put = stream, num_replicas, rows, put
        self._reader = stream.read()
        self._start = self._end = 0
        self._position: dict[str, Any] | None = None

    @property
    def position(self) -> dict[str, Any] | None:
        """Where the window is, as JSON holds it; None if nothing was read."""
        return self._position

    def resume(self, position: Mapping[str, Any] | None) -> None:
        """Goes to the window of a checkpoint.

        Raises:
          ValueError: the stream does not give the batches that it gave before.
        """
        if position is None:
            return
        self._reader = self._stream.read(position["before"])
        self._start = self._end = position["start"]
        self._load()
        assert self._position is not None
        if self._position["crc32"] != position["crc32"]:
            raise ValueError(
                f"{self._stream.name} does not give the batches that it gave before the run was "
                "interrupted. A loader must give the same batches in the same order when it is "
                "iterated again: seed what it shuffles with."
            )

    def window(self, row: int) -> data.DeviceSplit:
        """The window that holds a row, counted from the start of the run."""
        while row >= self._end:
            self._load()
        assert self._start <= row
        return self._window

    def end(self, row: int) -> int:
        """The first row after the window of `row`."""
        self.window(row)
        return self._end

    def _load(self) -> None:
        """Reads the next window."""
        before, self._start = self._reader.position, self._end
        # Rows of an epoch; a window does not reach into the next one.
        left = self._stream.num_batches - self._start % self._stream.num_batches
        count = min(self._rows, left)
        batches = joined([next(self._reader) for _ in range(count * self._num_replicas)])
        self._end = self._start + count
        crc32 = fingerprints.of_split(batches)["crc32"]
        self._position = {"start": self._start, "before": before, "crc32": crc32}
        # All windows have one shape, so that programs are compiled once; nobody reads the rest.
        missing = (self._rows - count) * len(batches) // count
        padded = np.concatenate([np.arange(len(batches)), np.zeros(missing, int)])
        self._window = self._put(batches[padded] if missing else batches)
