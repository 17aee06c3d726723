"""Splits, data sets, their division, label noise and normalization."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatjax.data import (
    Dataset,
    Normalization,
    Split,
    choose_classes,
    enlarge,
    label_noise,
    split_validation,
    subset,
)
from flatjax.data._subsets import stratified_counts


def make_split(class_counts, seed=0):
    """Examples in random order; the pixels of an image spell its position."""
    label = np.repeat(np.arange(len(class_counts), dtype=np.int32), class_counts)
    label = np.random.default_rng(seed).permutation(label)
    position = np.arange(len(label), dtype=">u4")
    return Split(image=position.view(np.uint8).reshape(-1, 2, 2, 1), label=label)


def positions(split):
    return split.image.reshape(-1, 4).copy().view(">u4").ravel()


IMAGE = np.zeros((3, 8, 8, 1), np.uint8)
LABEL = np.zeros(3, np.int32)


@pytest.mark.parametrize(
    ("image", "label", "error", "message"),
    [
        (IMAGE.astype(float), LABEL, TypeError, r"uint8 or float32, got float64\(3, 8, 8, 1\)"),
        (IMAGE, LABEL.astype(np.int64), TypeError, r"label .* int32 or float32, got int64\(3,\)"),
        (jnp.asarray(IMAGE), LABEL, TypeError, "image must be a NumPy array"),
        (IMAGE, [0, 1, 2], TypeError, "label .* got list"),
        (IMAGE[..., 0], LABEL, ValueError, r"image .* \(N, H, W, C\).*, got \(3, 8, 8\)"),
        (IMAGE, LABEL[:, None], ValueError, r"label .* \(N,\).*, got \(3, 1\)"),
        (IMAGE[:0], LABEL[:0], ValueError, "image .* not be empty"),
        (IMAGE[:2], LABEL, ValueError, "2 images and 3 labels"),
        (IMAGE, LABEL - 1, ValueError, "label must not be negative, got a label -1"),
    ],
)
def test_split_checks_its_arrays(image, label, error, message):
    with pytest.raises(error, match=message):
        Split(image=image, label=label)


def test_dataset_checks_its_splits():
    good = Split(IMAGE, LABEL + 2)
    assert Dataset("three", good, good, num_classes=3).image_shape == (8, 8, 1)
    with pytest.raises(ValueError, match="train labels must be below num_classes=2, got a label 2"):
        Dataset("two", good, Split(IMAGE, LABEL), num_classes=2)
    with pytest.raises(ValueError, match="test labels must be below num_classes=2"):
        Dataset("two", Split(IMAGE, LABEL), good, num_classes=2)
    with pytest.raises(ValueError, match=r"one shape .* got \(8, 8, 1\) and \(4, 8, 1\)"):
        Dataset("three", good, Split(IMAGE[:, ::2], LABEL), num_classes=3)


def test_chosen_classes_are_counted_in_the_order_given():
    split = make_split([5, 3, 4, 2])
    chosen = choose_classes(split, [3, 1])
    old = split.label[positions(chosen)]
    assert np.all(np.diff(positions(chosen)) > 0)
    assert np.bincount(old).tolist() == [0, 3, 0, 2]
    assert np.array_equal(chosen.label, (old == 1).astype(np.int32))
    with pytest.raises(ValueError, match="classes must be one or more different labels"):
        choose_classes(split, [1, 1])
    with pytest.raises(ValueError, match=r"\[4, 7\] have none"):
        choose_classes(split, [1, 4, 7])


def test_split_is_indexed_by_slices_masks_and_positions():
    split = make_split([4, 6])
    for index in (slice(2, 5), np.array([7, 1]), split.label == 1):
        np.testing.assert_array_equal(split[index].image, split.image[index])
        np.testing.assert_array_equal(split[index].label, split.label[index])


@pytest.mark.parametrize("count", [1, 7, 33, 100, 149])
def test_stratified_counts_are_shares_rounded_up_or_down(count):
    class_counts = np.array([50, 3, 0, 90, 7])
    given = stratified_counts(np.repeat(np.arange(5), class_counts), count)
    shares = count * class_counts / class_counts.sum()
    assert given.sum() == count
    assert np.all((given >= np.floor(shares)) & (given <= np.ceil(shares)))
    # Whatever was rounded up has a remainder at least as large as whatever was rounded down.
    remainders = shares - np.floor(shares)
    up = given > shares
    assert remainders[up].min(initial=1) >= remainders[~up & (remainders > 0)].max(initial=0)


@pytest.mark.parametrize(("size", "count"), [(0.25, 50), (30, 30), (np.int64(1), 1), (199, 199)])
def test_split_validation_divides_into_disjoint_stratified_parts(size, count):
    split = make_split([100, 60, 40])
    train, validation = split_validation(split, size, seed=3)
    assert len(validation) == count
    assert sorted([*positions(train), *positions(validation)]) == list(range(200))
    np.testing.assert_array_equal(split.label[positions(validation)], validation.label)
    shares = np.array([100, 60, 40]) * count / 200
    np.testing.assert_allclose(np.bincount(validation.label, minlength=3), shares, atol=1)
    assert np.all(np.diff(positions(train).astype(int)) > 0)


def test_split_validation_depends_on_the_seed_alone():
    split = make_split([100, 60, 40])
    first, again, other = (
        positions(split_validation(split, 0.2, seed=seed)[1]) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


@pytest.mark.parametrize(
    ("size", "error"),
    [
        *((size, ValueError) for size in (0, 10, -1, 0.01, 1.0, -0.5, 1.5)),
        *((size, TypeError) for size in (True, "half", None)),
    ],
)
def test_split_validation_refuses_to_leave_a_side_empty(size, error):
    with pytest.raises(error, match=f"size must .* got {size!r}"):
        split_validation(make_split([5, 5]), size, seed=0)


def test_subsets_are_nested_draws_without_replacement():
    split = make_split([60, 40])
    small, large, everything = (subset(split, count, seed=5) for count in (10, 50, 100))
    assert len(set(positions(small))) == 10
    assert set(positions(small)) < set(positions(large))
    np.testing.assert_array_equal(everything.image, split.image)
    np.testing.assert_array_equal(small.label, split.label[positions(small)])
    assert set(positions(subset(split, 10, seed=6))) != set(positions(small))


@pytest.mark.parametrize(("count", "error"), [(0, ValueError), (11, ValueError), (0.5, TypeError)])
def test_subset_refuses_impossible_counts(count, error):
    with pytest.raises(error, match=f"count must .* got {count}"):
        subset(make_split([5, 5]), count, seed=0)


def test_label_noise_changes_exactly_the_fraction_uniformly_to_other_classes():
    clean = make_split([5000] * 4)
    noisy = label_noise(clean, 0.3, num_classes=4, seed=0)
    changed = noisy.label != clean.label
    assert changed.sum() == 6000
    assert noisy.image is clean.image
    transitions = np.zeros((4, 4))
    np.add.at(transitions, (clean.label[changed], noisy.label[changed]), 1)
    # 12 kinds of change, 500 expected of each, with a standard deviation below 23.
    np.testing.assert_allclose(transitions, 500 * (1 - np.eye(4)), atol=90)


def test_label_noise_depends_on_the_seed_alone_and_keeps_its_input():
    clean = make_split([50, 50])
    before = clean.label.copy()
    first, again, other = (label_noise(clean, 0.5, 2, seed=seed).label for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(clean.label, before)
    np.testing.assert_array_equal(label_noise(clean, 0.0, 2, seed=0).label, before)
    np.testing.assert_array_equal(label_noise(clean, 1.0, 2, seed=0).label, 1 - before)


@pytest.mark.parametrize(
    ("fraction", "num_classes", "message"),
    [
        (1.5, 3, r"fraction must be in \[0, 1\], got 1.5"),
        (float("nan"), 3, r"fraction must be in \[0, 1\], got nan"),
        (0.1, 1, "num_classes must be >= 2, got 1"),
        (0.1, 2, "labels must be below num_classes=2, got a label 2"),
    ],
)
def test_label_noise_refuses_impossible_arguments(fraction, num_classes, message):
    with pytest.raises(ValueError, match=message):
        label_noise(make_split([5, 5, 5]), fraction, num_classes, seed=0)


def test_normalization_measures_what_numpy_measures_and_standardizes():
    rng = np.random.default_rng(0)
    images = np.stack(
        [rng.integers(0, high, size=(2500, 5, 3)) for high in (256, 100, 7)], axis=-1
    ).astype(np.uint8)
    normalization = Normalization.from_images(images)
    np.testing.assert_allclose(normalization.mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(normalization.std, (images / 255).std((0, 1, 2)), rtol=1e-10)
    normalized = normalization.normalize(images)
    assert normalized.dtype == jnp.float32
    np.testing.assert_allclose(normalized.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(normalized.std((0, 1, 2)), 1, atol=1e-5)
    expected = (images / 255 - np.array(normalization.mean)) / np.array(normalization.std)
    np.testing.assert_allclose(normalized, expected, atol=1e-5)


def test_normalization_passes_through_jit_as_an_argument_or_a_closure():
    normalization = Normalization([0.5, 0.2], [0.25, 0.1])
    images = np.arange(2 * 3 * 4 * 2, dtype=np.uint8).reshape(2, 3, 4, 2)
    expected = normalization.normalize(images)
    argument = jax.jit(lambda normalization, images: normalization.normalize(images))
    np.testing.assert_allclose(argument(normalization, images), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(normalization.normalize)(images), expected, rtol=1e-6)
    assert hash(normalization) == hash(Normalization((0.5, 0.2), (0.25, 0.1)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Normalization((0.5,), (0.0,)), ValueError, r"std must be positive.*\(0.0,\)"),
        (lambda: Normalization((0.5,), (np.nan,)), ValueError, r"std\[0\] must be finite"),
        (lambda: Normalization((0.5, 0.5), (1.0,)), ValueError, "got 2 and 1 numbers"),
        (lambda: Normalization.from_images(IMAGE), ValueError, "std must be positive"),
        (lambda: Normalization.from_images(IMAGE[0]), ValueError, r"images .*got \(8, 8, 1\)"),
        (lambda: Normalization.from_images(IMAGE / 255), TypeError, "images .*got float64"),
        (lambda: UNIT.normalize(IMAGE / 255), TypeError, "images must be uint8, got float64"),
        (lambda: UNIT.normalize(IMAGE[..., [0, 0]]), ValueError, r"1 channels, .*\(3, 8, 8, 2\)"),
    ],
)
def test_normalization_refuses_what_it_cannot_normalize(call, error, message):
    with pytest.raises(error, match=message):
        call()


UNIT = Normalization((0.0,), (1.0,))


# Images in another shape


@pytest.mark.parametrize(
    ("shape", "size", "channels", "factor", "corner"),
    [
        ((8, 8, 1), 32, 3, 4, (0, 0)),  # digits
        ((28, 28, 1), 32, 3, 1, (2, 2)),  # Fashion-MNIST
        ((32, 32, 3), 32, 3, 1, (0, 0)),  # CIFAR stays as it is
        ((4, 5, 1), 16, 2, 3, (2, 0)),
        ((3, 2, 2), 8, 2, 2, (1, 2)),
    ],
)
def test_enlarged_images_are_squares_of_pixels_in_a_border(shape, size, channels, factor, corner):
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, size=(3, *shape), dtype=np.uint8)
    expected = np.zeros((3, size, size, channels), np.uint8)
    for index, row, column, channel in np.ndindex(
        3, factor * shape[0], factor * shape[1], channels
    ):
        value = image[index, row // factor, column // factor, channel if shape[2] > 1 else 0]
        expected[index, corner[0] + row, corner[1] + column, channel] = value
    result = enlarge(Split(image, LABEL), size, channels)
    np.testing.assert_array_equal(result.image, expected)
    assert result.label is LABEL


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"size": 7}, ValueError, "size must be at least the size of the images, 8x8, got 7"),
        ({"size": 8.0}, TypeError, "size must be an int, got 8.0"),
        ({"channels": 0}, ValueError, "channels must be >= 1, got 0"),
    ],
)
def test_images_are_not_made_smaller(arguments, error, message):
    with pytest.raises(error, match=message):
        enlarge(Split(IMAGE, LABEL), **arguments)


def test_colours_do_not_become_other_channels():
    colours = Split(IMAGE.repeat(3, axis=-1), LABEL)
    with pytest.raises(ValueError, match="channels must be 3, as in the images, got 1"):
        enlarge(colours, 32, 1)
