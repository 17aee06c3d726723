"""Batches of any loader: in order, pass after pass, from any position."""

import json

import numpy as np
import pytest

from flatjax.data import Split, Stream

TEST = Split(np.zeros((2, 2, 2, 1), np.uint8), np.zeros(2, np.int32))


def batch(number, size=3):
    """A batch whose images show its number."""
    return {"image": np.full((size, 2, 2, 1), number, np.uint8), "label": np.arange(size) % 2}


BATCHES = [batch(number) for number in range(4)]


class Stateful:
    """An iterator of numbered batches that can be set to any place, as those of grain."""

    def __init__(self, log, as_bytes):
        self.place, self.log, self.as_bytes = 0, log, as_bytes

    def __iter__(self):
        return self

    def __next__(self):
        self.place += 1
        self.log.append(self.place - 1)
        return batch(self.place - 1)

    def get_state(self):
        """The place, as JSON or as bytes."""
        state = {"next": self.place}
        return json.dumps(state).encode() if self.as_bytes else state

    def set_state(self, state):
        """Goes to the place."""
        self.place = (json.loads(state.decode()) if self.as_bytes else state)["next"]


class Restarted:
    """A loader that is told the pass, and gives another order in each."""

    def set_epoch(self, epoch):
        """Another order."""
        self.epoch = epoch

    def __iter__(self):
        return iter([batch(10 * self.epoch + number) for number in range(3)])

    def __len__(self):
        return 3


def numbers(reader, count):
    return [int(next(reader).image[0, 0, 0, 0]) for _ in range(count)]


def shuffled(epoch):
    return (batch(number) for number in np.random.default_rng(epoch).permutation(4))


LOADERS = {
    "list": (BATCHES, 4),
    "pairs": ([(one["image"], one["label"]) for one in BATCHES], 4),
    "function": (shuffled, 4),
    "set_epoch": (Restarted(), 3),
    "stateful": (lambda epoch: Stateful([], as_bytes=False), 4),
    "bytes": (lambda epoch: Stateful([], as_bytes=True), 4),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_reader_goes_on_from_any_position(name):
    batches, num_batches = LOADERS[name]
    stream = Stream(batches, TEST, num_classes=2, num_batches=num_batches)
    reader = stream.read()
    assert reader.position is None
    positions, found = [None], []
    for _ in range(9):
        found += numbers(reader, 1)
        positions.append(json.loads(json.dumps(reader.position)))  # as a file holds it
    for start, position in enumerate(positions):
        assert numbers(stream.read(position), 9 - start) == found[start:]


@pytest.mark.parametrize("name", LOADERS)
def test_skipping_is_reading_and_dropping(name):
    batches, num_batches = LOADERS[name]
    stream = Stream(batches, TEST, num_classes=2, num_batches=num_batches)
    reader, skipping = stream.read(), stream.read()
    for count in (1, 3, 5):
        numbers(reader, count)
        skipping.skip(count)
        position = json.loads(json.dumps(skipping.position))
        expected = numbers(reader, 2)
        assert numbers(skipping, 2) == numbers(stream.read(position), 2) == expected


def test_batches_with_numbers_are_loaded_when_asked_for_only():
    log = []

    class Numbered:
        def __len__(self):
            return 4

        def __getitem__(self, number):
            log.append(number)
            return batch(number)

    stream = Stream(Numbered(), TEST, num_classes=2)
    reader = stream.read()
    reader.skip(2)
    assert numbers(reader, 1) == [2]
    reader.skip(3)
    assert (numbers(reader, 1), log) == ([2], [2, 2])
    # Where the last batch was read, it is compared; where it was skipped, nothing is.
    reader.skip()
    assert (numbers(stream.read(reader.position), 1), log) == ([0], [2, 2, 0])


def test_passes_follow_each_other():
    assert numbers(Stream(BATCHES, TEST, 2).read(), 10) == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert numbers(Stream(Restarted(), TEST, 2).read(), 5) == [0, 1, 2, 10, 11]
    found = numbers(Stream(shuffled, TEST, 2, num_batches=4).read(), 12)
    assert [sorted(found[i : i + 4]) for i in (0, 4, 8)] == [[0, 1, 2, 3]] * 3
    assert found[:4] != found[4:8]
    assert numbers(Stream(BATCHES, TEST, 2, num_batches=3).read(), 4) == [0, 1, 2, 0]


def test_nothing_is_read_twice_where_the_loader_has_a_state():
    log = []
    stream = Stream(lambda epoch: Stateful(log, as_bytes=False), TEST, 2, num_batches=100)
    reader = stream.read()
    numbers(reader, 50)
    log.clear()
    assert numbers(stream.read(reader.position), 2) == [50, 51]
    assert log == [49, 50, 51]


def test_a_loader_that_gives_other_batches_again_is_found_out():
    draw = np.random.default_rng(0)
    stream = Stream(lambda epoch: (batch(n) for n in draw.permutation(100)), TEST, 2, 100)
    reader = stream.read()
    numbers(reader, 3)
    with pytest.raises(ValueError, match=r"stream: batch 2 of pass 0 is not the batch .* seed"):
        stream.read(reader.position)


@pytest.mark.parametrize(
    ("batches", "options", "error", "message"),
    [
        (iter(BATCHES), {}, TypeError, "got an iterator, which ends after one"),
        (3, {}, TypeError, "batches must be an iterable or a function"),
        (shuffled, {"num_batches": 0}, TypeError, "num_batches must be given"),
        (BATCHES, {"num_batches": -1}, ValueError, "num_batches must be"),
        (BATCHES, {"num_classes": 0}, ValueError, "test labels must be below num_classes=0"),
        (BATCHES, {"class_names": ("a",)}, ValueError, "class_names must be 2, one for each"),
    ],
    ids=["iterator", "number", "no length", "negative length", "no classes", "no name"],
)
def test_other_streams_are_refused(batches, options, error, message):
    with pytest.raises(error, match=message):
        Stream(batches, TEST, **{"num_classes": 2} | options)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (batch(1, size=2), "has 2 examples, and the first one 3: leave out .*drop_last"),
        ({"x": 1}, r"must hold image and label, got \['x'\]"),
        (batch(1) | {"label": np.array([0, 1, 2])}, "labels must be below num_classes=2"),
        (batch(1) | {"image": np.zeros((3, 2, 3, 1), np.uint8)}, r"like those of test, uint8\(2,"),
        (batch(1) | {"image": np.zeros((3, 2, 2, 1))}, "like those of test, .* got float32"),
        (batch(1) | {"label": np.array([0, 1])}, "same length"),
    ],
)
def test_other_batches_are_refused(bad, message):
    reader = Stream([batch(0), bad], TEST, 2, name="mine").read()
    next(reader)
    with pytest.raises(ValueError, match=message) as error:
        next(reader)
    assert "mine: batch 1 of pass 0" in str(error.value) or "same length" in message


def test_a_pass_that_ends_too_soon_is_refused():
    reader = Stream(BATCHES, TEST, 2, num_batches=5, name="mine").read()
    numbers(reader, 4)
    with pytest.raises(ValueError, match=r"mine: pass 0 ended after 4 batches, expected .*=5"):
        next(reader)
