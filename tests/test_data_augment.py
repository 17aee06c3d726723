"""Augmentations against plain NumPy: every outcome is allowed, and all allowed ones come up."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast import only, slow

from flatjax.data import compose, cutout, random_crop, random_flip

KEY = jax.random.key(0)
AUGMENTATIONS = {
    "random_flip": random_flip,
    "random_crop": random_crop(padding=2),
    "cutout": cutout(size=3),
    "compose": compose(random_flip, random_crop(padding=2), cutout(size=3)),
}


def make_images(count, shape=(6, 5, 2), dtype=np.uint8):
    """Random images without zeros, so that what was filled in can be told."""
    return np.random.default_rng(0).integers(1, 256, size=(count, *shape)).astype(dtype)


# The outcomes that each augmentation may have, in NumPy loops


def flips(image):
    height, width, _ = image.shape
    mirrored = np.empty_like(image)
    for row in range(height):
        for column in range(width):
            mirrored[row, column] = image[row, width - 1 - column]
    return [image, mirrored]


def crops(image, padding):
    height, width, _ = image.shape
    outcomes = []
    for down in range(-padding, padding + 1):
        for right in range(-padding, padding + 1):
            shifted = np.zeros_like(image)
            for row in range(height):
                for column in range(width):
                    if 0 <= row + down < height and 0 <= column + right < width:
                        shifted[row, column] = image[row + down, column + right]
            outcomes.append(shifted)
    return outcomes


def cutouts(image, size):
    height, width, _ = image.shape
    outcomes = []
    for centre_row in range(height):
        for centre_column in range(width):
            blanked = image.copy()
            for row in range(centre_row - size // 2, centre_row - size // 2 + size):
                for column in range(centre_column - size // 2, centre_column - size // 2 + size):
                    if 0 <= row < height and 0 <= column < width:
                        blanked[row, column] = 0
            outcomes.append(blanked)
    return outcomes


def frequencies(augmented, images, outcomes_of):
    """How often each outcome came up; fails if an image is none of its outcomes."""
    frequency = np.zeros(len(outcomes_of(images[0])), int)
    for result, image in zip(np.asarray(augmented), images, strict=True):
        matches = [np.array_equal(result, outcome) for outcome in outcomes_of(image)]
        assert sum(matches) == 1
        frequency[np.argmax(matches)] += 1
    return frequency


@pytest.mark.slow
@pytest.mark.parametrize(
    ("augmentation", "outcomes_of"),
    [
        (random_flip, flips),
        (random_crop(padding=1), lambda image: crops(image, 1)),
        slow(random_crop(padding=2), lambda image: crops(image, 2)),
        (random_crop(padding=0), lambda image: crops(image, 0)),
        slow(cutout(size=1), lambda image: cutouts(image, 1)),
        slow(cutout(size=2), lambda image: cutouts(image, 2)),
        (cutout(size=3), lambda image: cutouts(image, 3)),
    ],
)
def test_each_outcome_comes_up_as_often_as_any_other(augmentation, outcomes_of):
    images = make_images(1500)
    frequency = frequencies(augmentation(KEY, images), images, outcomes_of)
    expected = len(images) / len(frequency)
    # Five standard deviations of a Poisson count.
    np.testing.assert_allclose(frequency, expected, atol=5 * np.sqrt(expected))


def test_the_default_crop_pads_by_four():
    images = make_images(40, shape=(8, 8, 1))
    assert frequencies(random_crop()(KEY, images), images, lambda i: crops(i, 4)).sum() == 40


def test_a_cutout_may_be_as_large_as_the_image_and_larger():
    images = make_images(40)
    for size in (6, 11):
        results = np.asarray(cutout(size)(KEY, images))
        for result, image in zip(results, images, strict=True):
            assert any(np.array_equal(result, outcome) for outcome in cutouts(image, size))
    assert not np.any(cutout(12)(KEY, images))


@pytest.mark.parametrize(
    ("dtype", "name"),
    only(
        [("float32", "cutout"), ("bfloat16", "random_crop"), ("uint8", "random_flip")],
        itertools.product(["uint8", "float32", "bfloat16"], AUGMENTATIONS),
    ),
)
def test_shape_and_dtype_are_kept_and_jit_changes_nothing(dtype, name):
    augment = AUGMENTATIONS[name]
    images = jnp.asarray(make_images(7), dtype)
    result = augment(KEY, images)
    assert (result.shape, result.dtype) == (images.shape, images.dtype)
    np.testing.assert_array_equal(jax.jit(augment)(KEY, images), result)
    # The random choices do not depend on the dtype.
    np.testing.assert_array_equal(augment(KEY, make_images(7)), result.astype(jnp.uint8))


@pytest.mark.slow
@pytest.mark.parametrize("name", only(["random_crop"], AUGMENTATIONS))
def test_vmap_over_replicas_is_a_loop_over_replicas(name):
    augment = AUGMENTATIONS[name]
    images = make_images(12).reshape(3, 4, 6, 5, 2)
    keys = jax.random.split(KEY, 3)
    together = jax.vmap(augment)(keys, images)
    for replica in range(3):
        np.testing.assert_array_equal(together[replica], augment(keys[replica], images[replica]))


@pytest.mark.slow
@pytest.mark.parametrize("name", only(["compose"], AUGMENTATIONS))
def test_replicas_have_their_own_draws_of_the_same_images(name):
    images = np.stack([make_images(30)] * 3)
    results = np.asarray(jax.vmap(AUGMENTATIONS[name])(jax.random.split(KEY, 3), images))
    assert len(np.unique(results, axis=0)) == 3


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_randomness_is_each_images_own_and_the_keys_alone(name):
    augment = AUGMENTATIONS[name]
    same = np.repeat(make_images(1), 30, axis=0)
    result = np.asarray(augment(KEY, same))
    assert len(np.unique(result, axis=0)) > 1
    np.testing.assert_array_equal(augment(jax.random.key(0), same), result)
    assert not np.array_equal(augment(jax.random.key(1), same), result)


def test_compose_applies_in_order():
    double = lambda key, images: images * 2
    increment = lambda key, images: images + 1
    images = jnp.array([[[[3]]]])
    assert compose(double, increment)(KEY, images).item() == 7
    assert compose(increment, double)(KEY, images).item() == 8
    assert compose()(KEY, images) is images


def test_compose_gives_each_function_a_key_of_its_own():
    images = make_images(40)
    # With one key for both, the second flip would undo the first.
    assert not np.array_equal(compose(random_flip, random_flip)(KEY, images), images)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_images_must_have_four_axes(name):
    with pytest.raises(ValueError, match=r"images must have shape .* got \(6, 5, 2\); .*vmap"):
        AUGMENTATIONS[name](KEY, make_images(1)[0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: random_crop(padding=-1), ValueError, "padding must be >= 0, got -1"),
        (lambda: random_crop(padding=1.5), TypeError, "padding must be an int, got 1.5"),
        (lambda: cutout(size=0), ValueError, "size must be >= 1, got 0"),
        (lambda: cutout(size="big"), TypeError, "size must be an int, got 'big'"),
    ],
)
def test_impossible_sizes_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
