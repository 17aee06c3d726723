"""Feeds a run with a stream or a file: a moving window of batches on the device.

The step in row r of an epoch takes y batches of the stream, one for each replica: r y, ...,
r y + y - 1, counted from the start of the epoch. Examples in a file are taken in the order of the
epoch, like examples in memory. A window holds up to k rows, (k, y, B, ...), spread over devices
like the replicas and their batches. The next window begins at a multiple of k, or with an epoch.
Results do not depend on k.

With several processes, each one reads only the batches of the replicas on its devices. If the
stream can select batches by number, it does not load the others. Nor are other examples of a file
loaded.
"""

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.engine import fingerprints, processes
from experiments.engine.datasets import Examples, Split
from flatjax import data
from flatjax.data._batches import as_tree

WINDOW_BYTES = 2**26


def rows_in_window(example: np.ndarray, num_replicas: int, batch_size: int, num_rows: int) -> int:
    """Returns k, the rows of batches on the device, for images like `example`."""
    row_bytes = example.nbytes * num_replicas * batch_size
    return max(1, min(num_rows, WINDOW_BYTES // row_bytes))


class Feed:
    """The window of a run; it moves forward only.

    Args:
      stream: the training examples.
      num_replicas: y.
      rows: k.
      put: function that moves a window, with arrays (k, y, B, ...), to the run's devices.
      own: the replicas whose batches this process needs; all if None.
    """

    def __init__(
        self,
        stream: data.Stream,
        num_replicas: int,
        rows: int,
        put: Callable[[Any], Any],
        own: Sequence[int] | None = None,
    ):
        self._stream, self._num_replicas, self._rows, self._put = stream, num_replicas, rows, put
        self._own = range(num_replicas) if own is None else own
        self._reader = stream.read()
        self._start = self._end = 0
        self._position: dict[str, Any] | None = None

    @property
    def position(self) -> dict[str, Any] | None:
        """The position of the window, as values for JSON; None if nothing was read."""
        return self._position

    def resume(self, position: Mapping[str, Any] | None) -> None:
        """Moves to the window of a checkpoint.

        Raises:
          ValueError: the stream gives other batches than before.
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
                "iterated again: seed its shuffling."
            )

    def window(self, row: int) -> data.DeviceSplit:
        """Returns the window that holds a row, counted from the start of the run."""
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
        # Rows of an epoch; a window does not extend into the next epoch.
        number = self._start % self._stream.num_batches
        # A run that continues with another number of replicas may begin within a window.
        first = number % self._rows
        count = min(self._rows - first, self._stream.num_batches - number)
        digests = np.zeros((count, self._num_replicas), np.uint32)
        arrays = None
        for row, replica in np.ndindex(digests.shape):
            if replica not in self._own:
                self._reader.skip()
                continue
            batch = next(self._reader)
            # All windows have one shape, so that programs are compiled once; the rest is unused.
            shape = (self._rows, self._num_replicas, len(batch))
            arrays = arrays or _empty(batch, shape)
            for array, part in zip(arrays, batch.arrays, strict=True):
                array[first + row, replica] = part
            digests[row, replica] = int(fingerprints.of_split(batch)["crc32"], 16)
        assert arrays is not None
        self._end = self._start + count
        # All batches count, no matter which process read them.
        found = f"{zlib.crc32(processes.largest(digests)):08x}"
        self._position = {"start": self._start, "before": before, "batches": found}
        self._window = self._put(data.DeviceSplit(*arrays))


class FileFeed:
    """The window of a run on examples in a file.

    Its position follows from the step; a checkpoint does not hold it.

    Args:
      train: the training examples; only those of a window are read.
      order: function of the epoch that returns the positions of the
        examples of its batches, (rows, y, B).
      num_rows: number of rows of an epoch.
      rows: k.
      put: function that moves a window, with arrays (k, y, B, ...), to the run's devices.
      own: the replicas whose batches this process needs.
    """

    position = None

    def __init__(
        self,
        train: Split,
        order: Callable[[int], np.ndarray],
        num_rows: int,
        rows: int,
        put: Callable[[Examples], Examples],
        own: Sequence[int],
    ):
        self._train, self._rows, self._put, self._own = train, rows, put, own
        self._order = functools.lru_cache(maxsize=1)(order)
        self._num_rows = num_rows
        self._start = self._end = 0

    def resume(self, position: None) -> None:
        """Does nothing."""

    def window(self, row: int) -> Examples:
        """Returns the window that holds a row, counted from the start of the run."""
        if not self._start <= row < self._end:
            self._load(row)
        return self._window

    def end(self, row: int) -> int:
        """Returns the first row after the window of `row`."""
        self.window(row)
        return self._end

    def _load(self, row: int) -> None:
        """Reads the window of a row."""
        epoch, number = divmod(row, self._num_rows)
        first = number - number % self._rows
        order = self._order(epoch)[first : first + self._rows]
        arrays = None
        for replica in self._own:
            examples = self._train[order[:, replica].ravel()]
            arrays = arrays or _empty(examples, (self._rows, *order.shape[1:]))
            for array, part in zip(arrays, examples.arrays, strict=True):
                own = array[: len(order), replica]
                own[...] = part.reshape(own.shape)
        self._start = row - (number - first)
        self._end = self._start + len(order)
        assert arrays is not None
        self._window = self._put(type(as_tree(examples))(*arrays))


def _empty(examples: Split, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Allocates the arrays of a window of examples, (k, y, B, ...)."""
    # Zeros that are never written take no memory in the operating system.
    return tuple(np.zeros((*shape, *array.shape[1:]), array.dtype) for array in examples.arrays)


def moved_position(
    stream: data.Stream | None, position: Mapping[str, Any] | None, row: int, num_replicas: int
) -> dict[str, Any] | None:
    """Returns the position of a window that begins with another window's row.

    Args:
      stream: the training examples; None if they are in memory.
      position: position of the window that holds the row, or ends before it; None if nothing was
        read.
      row: row counted from the start of the run.
      num_replicas: number of batches in a row so far. It may be different from there on.
    """
    if stream is None or position is None:
        return None
    reader = stream.read(position["before"])
    reader.skip((row - position["start"]) * num_replicas)
    return {"start": row, "before": reader.position}
