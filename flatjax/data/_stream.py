"""Training data that do not fit into memory: batches of any loader."""

from __future__ import annotations

import base64
import dataclasses
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

from flatjax._checks import check_class_names, check_count, described
from flatjax.data._arrays import make_split
from flatjax.data._dataset import Split, check_labels


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """A classification or regression task with training batches from a loader.

    Attributes:
      batches: the training batches of a pass. Either an iterable that gives the same batches in the
        same order each time: a list, a `torch.utils.data.DataLoader`, a dataset of grain. Its
        method `set_epoch`, if there is one, is called first with the number of the pass. Or, for
        another order in each pass, a function of the number of the pass (from 0) that returns an
        iterable. A batch is `{"image": ..., "label": ...}` or a pair, with arrays as in
        `from_arrays`. All batches have one size. If `batches[i]` gives the i-th of `len(batches)`
        batches, as in a list, the reader takes a batch by its number and does not load the others:
        each of several processes loads its own batches only.
      test: the examples for testing, in memory.
      num_classes: number of classes; for a regression, of targets.
      num_batches: batches in a pass; by default `len(batches)`. Further batches are not read.
      class_names: the names of the classes, or None.
      name: the name of the data set.

    Raises:
      TypeError: `batches` is neither an iterable nor a function, or is an iterator, which ends
        after a pass. Or its length is not known.
      ValueError: `num_batches` is not positive, a label of `test` is not a class, or the numbers of
        names and classes differ.

    Examples:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> images, labels = rng.normal(size=(3, 8, 5)), rng.integers(2, size=(3, 8))
      >>> test = Split(np.zeros((4, 1, 1, 5), np.float32), np.zeros(4, np.int32))
      >>> stream = Stream(list(zip(images, labels)), test, num_classes=2)
      >>> reader = stream.read()
      >>> next(reader)
      Split(image=float32(8, 1, 1, 5), label=int32(8,))
      >>> again = stream.read(reader.position)
      >>> bool((next(again).image == next(reader).image).all())
      True

    See Also:
      `StreamReader` (reads it), `from_arrays` (for data in memory), `eval_batches` (batches for
      evaluation).
    """

    batches: Iterable[Any] | Callable[[int], Iterable[Any]]
    test: Split
    num_classes: int
    num_batches: int = 0
    class_names: tuple[str, ...] | None = None
    name: str = "stream"

    def __post_init__(self) -> None:
        is_iterable = hasattr(self.batches, "__iter__") or hasattr(self.batches, "__getitem__")
        if not is_iterable and not callable(self.batches):
            raise TypeError(
                "batches must be an iterable or a function of the number of the pass, "
                f"got {type(self.batches).__name__}"
            )
        if hasattr(self.batches, "__next__"):
            raise TypeError(
                "batches must be an iterable for many passes, got an iterator, which ends after "
                "one: pass the object that made it, or a function that makes it"
            )
        if self.num_batches == 0:
            if not isinstance(self.batches, Sized):
                raise TypeError("num_batches must be given: batches have no length")
            object.__setattr__(self, "num_batches", len(self.batches))
        check_count("num_batches", self.num_batches, minimum=1)
        check_labels("test", self.test, self.num_classes)
        check_class_names(self.class_names, self.num_classes)

    def read(self, position: Mapping[str, Any] | None = None) -> StreamReader:
        """Reads batches, pass after pass, from the start or from a position.

        Args:
          position: the `position` of an earlier reader.

        Raises:
          ValueError: the batch at the position differs from the batch that was read there before.
        """
        return StreamReader(self, position)


class StreamReader(Iterator[Split]):
    """Iterates over the batches of a stream without end.

    If batches have numbers, or if the iterators of the loader have `get_state` and `set_state` (as
    in grain), a reader that starts at a position goes there at once. With other iterators, the
    batches before the position are read and dropped. In both cases the last batch is read again and
    compared with its checksum. This detects a loader that shuffles without a seed.

    Attributes:
      position: position after the last batch, as JSON; None before the first batch.

    Args:
      stream: the stream to read.
      position: where to start.

    See Also:
      `Stream` (what it reads, and its method `read`).
    """

    def __init__(self, stream: Stream, position: Mapping[str, Any] | None = None):
        self._stream = stream
        self.position: dict[str, Any] | None = None
        self._epoch, self._batch = 0, 0
        self._batches: Iterator[Any] | _Numbered | None = None
        self._shape: tuple[int, ...] | None = None
        if position is not None:
            self._go_to(position)

    def _go_to(self, position: Mapping[str, Any]) -> None:
        """Reads the last batch before a position again."""
        self._epoch = position["epoch"]
        self._batches = self._start()
        if position["crc32"] is None and isinstance(self._batches, _Numbered):
            self._batch = self._batches.place = position["batch"] + 1
            self.position = dict(position)
            return
        if isinstance(self._batches, _Numbered):
            self._batches.place = position["batch"]
        elif position["state"] is None or not hasattr(self._batches, "set_state"):
            for self._batch in range(position["batch"]):
                self._take()
        else:
            self._batches.set_state(_unpacked(position["state"]))
        self._batch = position["batch"]
        self._read()
        assert self.position is not None
        if position["crc32"] not in (None, self.position["crc32"]):
            raise ValueError(
                f"{self._stream.name}: batch {position['batch']} of pass {position['epoch']} is "
                "not the batch that was read there before. A loader must give the same batches in "
                "the same order when it is iterated again: seed what it shuffles with"
            )

    def _start(self) -> Iterator[Any] | _Numbered:
        """Starts a new pass."""
        batches: Any = self._stream.batches
        if callable(batches) and not hasattr(batches, "__iter__"):
            batches = batches(self._epoch)
        elif hasattr(batches, "set_epoch"):
            batches.set_epoch(self._epoch)
        has_numbers = hasattr(batches, "__getitem__") and hasattr(batches, "__len__")
        return _Numbered(batches) if has_numbers else iter(batches)

    def _take(self) -> Any:
        assert self._batches is not None
        try:
            return next(self._batches)
        except StopIteration:
            raise ValueError(
                f"{self._stream.name}: pass {self._epoch} ended after {self._batch} batches, "
                f"expected num_batches={self._stream.num_batches}"
            ) from None

    def _read(self) -> Split:
        """Reads the next batch, and moves the position behind it."""
        get_state = getattr(self._batches, "get_state", None)
        state = None if get_state is None else _packed(get_state())
        split = self._checked(self._take())
        crc32 = zlib.crc32(split.label.tobytes(), zlib.crc32(split.image.tobytes()))
        place = {"epoch": self._epoch, "batch": self._batch}
        self.position = place | {"state": state, "crc32": f"{crc32:08x}"}
        self._batch += 1
        return split

    def __next__(self) -> Split:
        """Returns the next batch."""
        self._start_pass_if_due()
        return self._read()

    def skip(self, count: int = 1) -> None:
        """Skips some batches; batches that have numbers are not loaded."""
        for _ in range(count):
            self._start_pass_if_due()
            if isinstance(self._batches, _Numbered):
                place = {"epoch": self._epoch, "batch": self._batch}
                self.position = place | {"state": None, "crc32": None}
                self._batches.place += 1
                self._batch += 1
            else:
                self._read()

    def _start_pass_if_due(self) -> None:
        if self._batches is None or self._batch == self._stream.num_batches:
            self._epoch += self._batches is not None
            self._batch = 0
            self._batches = self._start()

    def _checked(self, batch: Any) -> Split:
        place = f"{self._stream.name}: batch {self._batch} of pass {self._epoch}"
        if isinstance(batch, Mapping):
            if not {"image", "label"} <= batch.keys():
                raise ValueError(f"{place} must hold image and label, got {sorted(batch)}")
            batch = batch["image"], batch["label"]
        split = make_split(place, batch, regression=self._stream.test.is_regression)
        check_labels(place, split, self._stream.num_classes)
        expected = self._stream.test.image
        if (split.image.shape[1:], split.image.dtype) != (expected.shape[1:], expected.dtype):
            raise ValueError(
                f"{place} must hold images like those of test, {described(expected)}, "
                f"got {described(split.image)}"
            )
        self._shape = self._shape or split.image.shape
        if split.image.shape != self._shape:
            raise ValueError(
                f"{place} has {len(split)} examples, and the first one {self._shape[0]}: leave out "
                "the last, smaller batch (drop_remainder in grain, drop_last in PyTorch)"
            )
        return split


class _Numbered(Iterator[Any]):
    """The batches of a pass, which have numbers, from any of them on."""

    def __init__(self, batches: Any):
        self._batches, self.place = batches, 0

    def __next__(self) -> Any:
        if self.place >= len(self._batches):
            raise StopIteration
        self.place += 1
        return self._batches[self.place - 1]


def _packed(state: Any) -> Any:
    """Converts the state of an iterator to JSON."""
    return {"base64": base64.b64encode(state).decode()} if isinstance(state, bytes) else state


def _unpacked(state: Any) -> Any:
    is_bytes = isinstance(state, Mapping) and state.keys() == {"base64"}
    return base64.b64decode(state["base64"]) if is_bytes else state
