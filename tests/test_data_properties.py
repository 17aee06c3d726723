"""Any data and any arguments: the data functions are right, or an error names what is wrong."""

import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from properties import holds

from flatjax.data import (
    Normalization,
    Split,
    autoaugment,
    choose_classes,
    cutout,
    enlarge,
    epoch_order,
    eval_batches,
    label_noise,
    random_crop,
    split_validation,
    subset,
)
from flatjax.data._idx import read_idx


@st.composite
def splits(draw):
    """A split whose images are numbered by their first pixel (and channel)."""
    size = draw(st.integers(1, 40))
    shape = draw(st.sampled_from([(1, 1, 1), (3, 2, 1), (2, 2, 3)]))
    label = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    image = np.random.default_rng(size).integers(0, 256, size=(size, *shape), dtype=np.uint8)
    image[:, 0, 0, 0] = np.arange(size)
    return Split(image=image, label=np.array(label, np.int32))


RAW = Normalization(mean=(0.0,), std=(1.0,))
seeds = st.integers(0, 2**32 - 1)


def numbers_of(split):
    return split.image[:, 0, 0, 0].tolist()


def is_refused(call, *names):
    """Whether a call raises an error that names one of the arguments."""
    with pytest.raises((TypeError, ValueError), match=rf"\b({'|'.join(names)})\b"):
        call()


@pytest.mark.slow
def test_validation_takes_its_share_of_every_class():
    def check(split, size, seed):
        count = size if isinstance(size, int) else round(size * len(split))
        if not 0 < count < len(split):
            return is_refused(lambda: split_validation(split, size, seed), "size")
        train, validation = split_validation(split, size, seed)
        assert len(validation) == count
        assert sorted(numbers_of(train) + numbers_of(validation)) == list(range(len(split)))
        assert numbers_of(train) == sorted(numbers_of(train))
        shares = np.bincount(split.label) * count / len(split)
        taken = np.bincount(validation.label, minlength=len(shares))
        assert np.all(np.abs(taken - shares) < 1)
        return None

    sizes = st.integers(-1, 41) | st.floats(-0.5, 1.5)
    holds(check, 60, split=splits(), size=sizes, seed=seeds)


@pytest.mark.slow
def test_subsets_are_nested():
    def check(split, counts, seed):
        small, large = sorted(counts)
        if small < 1 or large > len(split):
            worse = small if small < 1 else large
            return is_refused(lambda: subset(split, worse, seed), "count")
        few, many = subset(split, small, seed), subset(split, large, seed)
        assert (len(few), len(many)) == (small, large)
        assert set(numbers_of(few)) <= set(numbers_of(many))
        assert numbers_of(few) == sorted(set(numbers_of(few)))
        return None

    counts = st.tuples(st.integers(-1, 41), st.integers(-1, 41))
    holds(check, 60, split=splits(), counts=counts, seed=seeds)


def test_as_many_labels_change_as_are_asked_for():
    def check(split, fraction, num_classes, seed):
        call = lambda: label_noise(split, fraction, num_classes, seed)
        if not 0 <= fraction <= 1:
            return is_refused(call, "fraction")
        if num_classes < 2 or split.label.max() >= num_classes:
            return is_refused(call, "num_classes")
        noisy = call()
        assert np.sum(noisy.label != split.label) == round(fraction * len(split))
        assert noisy.label.min() >= 0
        assert noisy.label.max() < num_classes
        assert noisy.image is split.image
        return None

    fractions = st.floats(-0.5, 1.5) | st.sampled_from([0.0, 1.0])
    holds(check, 60, split=splits(), fraction=fractions, num_classes=st.integers(1, 6), seed=seeds)


def test_chosen_classes_are_numbered_in_their_order():
    def check(split, classes):
        call = lambda: choose_classes(split, classes)
        if not classes or len(set(classes)) < len(classes) or not set(classes) <= {*split.label}:
            return is_refused(call, "classes")
        chosen = call()
        expected = [(n, c) for n, c in enumerate(split.label) if c in classes]
        assert numbers_of(chosen) == [n for n, _ in expected]
        assert [classes[c] for c in chosen.label] == [c for _, c in expected]
        return None

    holds(check, 60, split=splits(), classes=st.lists(st.integers(0, 4), max_size=4))


def test_every_example_is_evaluated_once():
    def check(split, batch_size):
        normalization = Normalization(
            (0.0,) * split.image.shape[-1], (1.0,) * split.image.shape[-1]
        )
        batches = eval_batches(split, normalization, batch_size)
        assert {batch["weight"].shape for batch in batches} == {(batch_size,)}
        kept = [
            (float(image[0, 0, 0]), int(label))
            for batch in batches
            for image, label, weight in zip(*map(np.asarray, batch.values()), strict=True)
            if weight
        ]
        pixels = np.round(255 * np.array([pixel for pixel, _ in kept]))
        assert pixels.tolist() == numbers_of(split)
        assert [label for _, label in kept] == split.label.tolist()

    holds(check, 10, split=splits(), batch_size=st.integers(1, 50))


@pytest.mark.slow
def test_an_epoch_shows_nothing_twice():
    def check(num_examples, batch_size, num_replicas, seed):
        call = lambda: epoch_order(jax.random.key(seed), num_examples, batch_size, num_replicas)
        if batch_size > num_examples:
            return is_refused(call, "batch_size")
        order = np.asarray(call())
        steps = num_examples // batch_size
        assert order.shape == (steps, num_replicas, batch_size)
        for replica in range(num_replicas):
            seen = order[:, replica].ravel().tolist()
            assert len(set(seen)) == len(seen)
            assert set(seen) <= set(range(num_examples))
        return None

    sizes = {"num_examples": st.integers(1, 30), "batch_size": st.integers(1, 33)}
    holds(check, 10, **sizes, num_replicas=st.integers(1, 3), seed=st.integers(0, 9))


def test_enlarged_images_hold_every_pixel_as_often():
    def check(split, size, channels):
        _, height, width, old = split.image.shape
        call = lambda: enlarge(split, size, channels)
        if size < max(height, width) or old not in (1, channels):
            return is_refused(call, "size", "channels")
        large = call()
        assert large.image.shape == (len(split), size, size, channels)
        factor = size // max(height, width)
        copies = factor**2 * (channels if old == 1 else 1)
        assert large.image.sum(dtype=int) == copies * split.image.sum(dtype=int)
        return None

    holds(check, 60, split=splits(), size=st.integers(1, 9), channels=st.integers(1, 4))


@pytest.mark.slow
def test_normalized_images_have_mean_zero_and_deviation_one():
    def check(split):
        channels = split.image.reshape(-1, split.image.shape[-1])
        if np.any(channels.std(axis=0) == 0):
            return is_refused(lambda: Normalization.from_images(split.image), "std")
        normalized = np.asarray(Normalization.from_images(split.image).normalize(split.image))
        axes = tuple(range(normalized.ndim - 1))
        np.testing.assert_allclose(normalized.mean(axes), 0, atol=1e-5)
        np.testing.assert_allclose(normalized.std(axes), 1, rtol=1e-4)
        return None

    holds(check, 20, split=splits())


def test_any_bytes_are_an_array_or_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "images"
    good = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes(range(6))

    def check(content):
        path.write_bytes(content)
        if content == good:
            assert read_idx(path, (2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]
        else:
            with pytest.raises(ValueError, match=r"images: "):
                read_idx(path, (2, 3))

    @st.composite
    def damaged(draw):
        content = bytearray(good)
        content[draw(st.integers(0, 11))] ^= draw(st.integers(0, 255))
        return bytes(content[: draw(st.integers(0, 18))]) + draw(st.binary(max_size=2))

    holds(check, 200, content=st.just(good) | st.binary(max_size=40) | damaged())


# --- arguments ------------------------------------------------------------------------------------

SPLIT = Split(image=np.zeros((4, 3, 3, 1), np.uint8), label=np.array([0, 1, 0, 1], np.int32))
NO_COUNTS = [0, -1, 2.5, np.nan, "3", None, [4], 1j]
NO_SEEDS = [-1, 0.5, "0", 1j, [None]]
REFUSED = {
    "size of split_validation": (
        lambda value: split_validation(SPLIT, value, 0),
        [0, 4, 1.0, 0.0, -1, np.nan, np.inf, "1", None, True, [1], 1j],
    ),
    "seed of split_validation": (lambda value: split_validation(SPLIT, 0.5, value), NO_SEEDS),
    "count of subset": (lambda value: subset(SPLIT, value, 0), [*NO_COUNTS, 5]),
    "seed of subset": (lambda value: subset(SPLIT, 2, value), NO_SEEDS),
    "fraction of label_noise": (
        lambda value: label_noise(SPLIT, value, 2, 0),
        [-0.1, 1.1, np.nan, np.inf, "0.1", None, [0.1], 1j],
    ),
    "num_classes of label_noise": (lambda value: label_noise(SPLIT, 0.5, value, 0), NO_COUNTS),
    "seed of label_noise": (lambda value: label_noise(SPLIT, 0.5, 2, value), NO_SEEDS),
    "classes of choose_classes": (
        lambda value: choose_classes(SPLIT, value),
        [[], [0, 0], [2], ["0"], [np.nan], [None], 3],
    ),
    "size of enlarge": (lambda value: enlarge(SPLIT, value), [*NO_COUNTS, 2]),
    "channels of enlarge": (lambda value: enlarge(SPLIT, 4, value), NO_COUNTS),
    "batch_size of eval_batches": (lambda value: eval_batches(SPLIT, RAW, value), NO_COUNTS),
    "mean of Normalization": (
        lambda value: Normalization(mean=value, std=(1.0,)),
        [0.0, None, (), (np.nan,), ("0",), (None,), (1j,), (0.0, 0.0)],
    ),
    "std of Normalization": (
        lambda value: Normalization(mean=(0.0,), std=value),
        [1.0, None, (), (np.nan,), (np.inf,), ("1",), (0.0,), (-1.0,), (1.0, 1.0)],
    ),
    "batch_size of epoch_order": (
        lambda value: epoch_order(jax.random.key(0), 4, value),
        [0, -1, 2.5, np.nan, "3", None, 5],
    ),
    "padding of random_crop": (random_crop, [-1, 2.5, np.nan, "3", None, [4]]),
    "size of cutout": (cutout, NO_COUNTS),
    "policy of autoaugment": (autoaugment, ["cifar", None, 3, [], [1], [("Invert", 0.5)]]),
    "fill of autoaugment": (
        lambda value: autoaugment(fill=value),
        [-1, 256, 2.5, np.nan, "3", None, [4]],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_are_refused_by_name(name):
    call, values = REFUSED[name]
    for value in values:
        is_refused(lambda value=value: call(value), name.split()[0])
