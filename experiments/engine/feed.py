"""Feeds a run with a stream or a file: batches lie on the device, in a window that moves on.

The step in row r of an epoch takes the batches r y, ..., r y + y - 1 of the stream after those of
the epochs before, one for each of y replicas. Examples in a file are taken in the order of the
epoch, as those in memory are. A window holds up to k rows, (k, y, B, ...), spread
over devices as the replicas and their batches are; the next one begins at a multiple of k, or with
an epoch. What is learned does not depend on k.

Of several processes each reads the batches of the replicas that its devices hold. Batches that the
stream can take by their numbers are not loaded by the others, nor are examples in a file.
"""

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.engine import fingerprints, processes
from flatjax import data

WINDOW_BYTES = 2**26


def rows_in_window(example: np.ndarray, num_replicas: int, batch_size: int, num_rows: int) -> int:
    """k: how many rows of batches, of one image like `example`, lie on the device at once."""
    row_bytes = example.nbytes * num_replicas * batch_size
    return max(1, min(num_rows, WINDOW_BYTES // row_bytes))


class Feed:
    """The window of a run, which moves forward only.

    Args:
      stream: the training examples.
      num_replicas: y.
      rows: k.
      put: brings a window, whose arrays are (k, y, B, ...), to where the run lives.
      own: the replicas whose batches this process needs; all if None.
    """

    def __init__(
        self,
        stream: data.Stream,
        num_replicas: int,
        rows: int,
        put: Callable[[data.DeviceSplit], data.DeviceSplit],
        own: Sequence[int] | None = None,
    ):
        self._stream, self._num_replicas, self._rows, self._put = stream, num_replicas, rows, put
        self._own = range(num_replicas) if own is None else own
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
        if position.get("batches") not in (None, self._position["batches"]):
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
        number = self._start % self._stream.num_batches
        # A run that goes on with another number of replicas may begin within a window.
        first = number % self._rows
        count = min(self._rows - first, self._stream.num_batches - number)
        digests = np.zeros((count, self._num_replicas), np.uint32)
        arrays = None
        for row, replica in np.ndindex(digests.shape):
            if replica not in self._own:
                self._reader.skip()
                continue
            batch = next(self._reader)
            # All windows have one shape, so that programs are compiled once; nobody reads the rest.
            shape = (self._rows, self._num_replicas, len(batch))
            arrays = arrays or _empty(batch, shape)
            for array, part in zip(arrays, (batch.image, batch.label), strict=True):
                array[first + row, replica] = part
            digests[row, replica] = int(fingerprints.of_split(batch)["crc32"], 16)
        assert arrays is not None
        self._end = self._start + count
        # Of all batches, whichever process has read them.
        found = f"{zlib.crc32(processes.largest(digests)):08x}"
        self._position = {"start": self._start, "before": before, "batches": found}
        self._window = self._put(data.DeviceSplit(*arrays))


class FileFeed:
    """The window of a run on examples that lie in a file.

    Where it is follows from the step: a checkpoint holds no position.

    Args:
      train: the training examples; only those of a window are read.
      order: epoch -> positions of the examples of its batches, (rows, y, B).
      num_rows: rows of an epoch.
      rows: k.
      put: brings a window, whose arrays are (k, y, B, ...), to where the run lives.
      own: the replicas whose batches this process needs.
    """

    position = None

    def __init__(
        self,
        train: data.Split,
        order: Callable[[int], np.ndarray],
        num_rows: int,
        rows: int,
        put: Callable[[data.DeviceSplit], data.DeviceSplit],
        own: Sequence[int],
    ):
        self._train, self._rows, self._put, self._own = train, rows, put, own
        self._order = functools.lru_cache(maxsize=1)(order)
        self._num_rows = num_rows
        self._start = self._end = 0

    def resume(self, position: None) -> None:
        """Does nothing."""

    def window(self, row: int) -> data.DeviceSplit:
        """The window that holds a row, counted from the start of the run."""
        if not self._start <= row < self._end:
            self._load(row)
        return self._window

    def end(self, row: int) -> int:
        """The first row after the window of `row`."""
        self.window(row)
        return self._end

    def _load(self, row: int) -> None:
        """Reads the window of a row."""
        epoch, number = divmod(row, self._num_rows)
        first = number - number % self._rows
        order = self._order(epoch)[first : first + self._rows]
        arrays = _empty(self._train, (self._rows, *order.shape[1:]))
        for replica in self._own:
            examples = self._train[order[:, replica].ravel()]
            for array, part in zip(arrays, examples.arrays, strict=True):
                own = array[: len(order), replica]
                own[...] = part.reshape(own.shape)
        self._start = row - (number - first)
        self._end = self._start + len(order)
        self._window = self._put(data.DeviceSplit(*arrays))


def _empty(examples: data.Split, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Images and labels of a window of examples, (k, y, B, ...)."""
    # Of zeros that nobody writes, the operating system keeps none.
    zeros = lambda array: np.zeros((*shape, *array.shape[1:]), array.dtype)
    return zeros(examples.image), zeros(examples.label)


def moved_position(
    stream: data.Stream | None, position: Mapping[str, Any] | None, row: int, num_replicas: int
) -> dict[str, Any] | None:
    """The position of a window that begins with a row of the window at `position`.

    Args:
      stream: the training examples; None if they are in memory.
      position: of the window that holds the row, or ends before it; None if nothing was read.
      row: counted from the start of the run.
      num_replicas: how many batches a row had so far. It may have another number from there on.
    """
    if stream is None or position is None:
        return None
    reader = stream.read(position["before"])
    reader.skip((row - position["start"]) * num_replicas)
    return {"start": row, "before": reader.position}
