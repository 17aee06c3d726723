"""AutoAugment: its operations against Pillow, its draws against their probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import PIL.ImageEnhance
import PIL.ImageOps
import pytest

from flatjax.data import (
    _image_operations,
    autoaugment,
    compose,
    cutout,
    load,
    random_crop,
    random_flip,
)
from flatjax.data._autoaugment import POLICIES

KEY = jax.random.key(0)
FILL = 77

# Everything that a policy can ask for, at strengths within the paper's ranges and at their ends.
SHEARS = (-0.3, -0.1, 0.0, 0.2, 0.3)
FACTORS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.1, 1.3, 1.5, 1.7, 1.9)
CASES = [
    (name, strength)
    for names, strengths in (
        (("ShearX", "ShearY"), SHEARS),
        (("TranslateX", "TranslateY"), (-10.0, -5.5, -2.2, 0.0, 3.3, 8.5)),
        (("Rotate",), (-30.0, -10.0, 0.0, 3.3, 20.0, 30.0)),
        (("Solarize",), (0.0, 28.4, 113.8, 227.6, 256.0)),
        (("Posterize",), (4.0, 4.9, 6.0, 7.1, 8.0)),
        (("Contrast", "Color", "Brightness", "Sharpness"), FACTORS),
        (("AutoContrast", "Equalize", "Invert", "Identity"), (0.0,) * 5),
    )
    for name in names
    for strength in strengths
]


def by_pillow(name, strength, image):
    """The operation on one image (H, W, C)."""
    grey = image.shape[-1] == 1
    picture = PIL.Image.fromarray(image[..., 0] if grey else image)
    fill = FILL if grey else (FILL,) * 3
    match name:
        case "ShearX" | "ShearY" | "TranslateX" | "TranslateY":
            matrix = {
                "ShearX": (1, strength, 0, 0, 1, 0),
                "ShearY": (1, 0, 0, strength, 1, 0),
                "TranslateX": (1, 0, strength, 0, 1, 0),
                "TranslateY": (1, 0, 0, 0, 1, strength),
            }[name]
            result = picture.transform(
                picture.size, PIL.Image.Transform.AFFINE, matrix, fillcolor=fill
            )
        case "Rotate":
            result = picture.rotate(strength, fillcolor=fill)
        case "Solarize":
            result = PIL.ImageOps.solarize(picture, strength)
        case "Posterize":
            result = PIL.ImageOps.posterize(picture, round(strength))
        case "AutoContrast" | "Equalize" | "Invert":
            result = getattr(PIL.ImageOps, name.lower())(picture)
        case "Identity":
            result = picture
        case _:
            result = getattr(PIL.ImageEnhance, name)(picture).enhance(strength)
    return np.asarray(result).reshape(image.shape)


def real_images(count, shape):
    """Digits enlarged and in colours, with all of the values, few of them, or only one."""
    height, width, channels = shape
    rng = np.random.default_rng(0)
    digits = load("digits").train.image[:count, :, :, 0].astype(float)
    digits = digits.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width, None]
    images = digits * rng.uniform(0.3, 1, size=(count, 1, 1, channels))
    images = np.clip(images + rng.normal(20, 15, size=images.shape), 0, 255).astype(np.uint8)
    images[::4] = images[::4] // 64 * 50 + 20
    images[7] = 90
    return images


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 31, 1)])
def test_operations_are_those_of_pillow(shape):
    height, width, _ = shape
    images = real_images(len(CASES), shape)
    operations = jax.tree.map(
        lambda *arrays: np.stack(arrays),
        *(_image_operations.operation(*case, height, width) for case in CASES),
    )
    # One call for all: that the operation is each image's own is tested with it.
    results = jax.jit(_image_operations.apply, static_argnums=2)(operations, images, FILL)
    assert (results.shape, results.dtype) == (images.shape, jnp.uint8)
    for case, image, result in zip(CASES, images, np.asarray(results), strict=True):
        difference = result.astype(int) - by_pillow(*case, image)
        if case[0] in ("AutoContrast", "Brightness"):
            # Pillow computes a whole number in floating point and rounds down, sometimes below it.
            assert set(np.unique(difference)) <= {0, 1}, case
            assert np.mean(difference) < 0.05, case
        else:
            np.testing.assert_array_equal(difference, 0, str(case))


@pytest.mark.parametrize("denominator", [1, 3, 10, 26, 49, 255])
def test_quotients_are_those_of_whole_numbers(denominator):
    numerator = np.arange(2**20, dtype=np.int32)
    quotient = _image_operations._divide(numerator, denominator)
    np.testing.assert_array_equal(quotient, numerator // denominator)


@pytest.mark.parametrize(
    ("name", "probabilities", "magnitudes"), [("cifar10", 26.5, 187), ("imagenet", 31.0, 159)]
)
def test_the_policies_are_25_pairs_that_add_up(name, probabilities, magnitudes):
    # The sums are those of another transcription of the paper's tables, without magnitudes for
    # operations that have no strength.
    policy = POLICIES[name]
    assert [len(pair) for pair in policy] == [2] * 25
    entries = [entry for pair in policy for entry in pair]
    assert sum(entry[1] for entry in entries) == pytest.approx(probabilities)
    without = ("AutoContrast", "Equalize", "Invert")
    assert sum(entry[2] for entry in entries if entry[0] not in without) == magnitudes


@pytest.mark.slow
def test_draws_have_the_probabilities_of_the_policy():
    sub_policies = [
        [("TranslateY", 1.0, 9), ("Invert", 0.0, 0)],
        [("Rotate", 1.0, 3), ("Brightness", 1.0, 0)],
        [("Invert", 0.25, 0), ("Posterize", 0.5, 7)],
    ]
    image = real_images(8, (32, 32, 1))[1]
    inverted = by_pillow("Invert", 0, image)
    outcomes = [  # and their probabilities; both signs of the geometric operations
        (by_pillow("TranslateY", -10, image), 1 / 6),
        (by_pillow("TranslateY", 10, image), 1 / 6),
        (by_pillow("Brightness", 0.1, by_pillow("Rotate", -10, image)), 1 / 6),
        (by_pillow("Brightness", 0.1, by_pillow("Rotate", 10, image)), 1 / 6),
        (image, 1 / 8),
        (inverted, 1 / 24),
        (by_pillow("Posterize", 5, image), 1 / 8),
        (by_pillow("Posterize", 5, inverted), 1 / 24),
    ]
    count = 1000
    augment = jax.jit(autoaugment(sub_policies, fill=FILL))
    results = np.asarray(augment(KEY, np.repeat(image[None], count, axis=0))).astype(int)
    found = [np.sum(np.all(abs(results - o) <= 1, axis=(1, 2, 3))) for o, _ in outcomes]
    assert sum(found) == count
    for number, (_, p) in zip(found, outcomes, strict=True):
        assert abs(number - p * count) < 5 * np.sqrt(count * p * (1 - p))


@pytest.fixture(scope="module")
def policy():
    """The policy of CIFAR, compiled for two replicas of 40 images."""
    return jax.jit(jax.vmap(autoaugment("cifar10")))


@pytest.mark.slow
def test_every_replica_has_its_own_draws_and_those_it_has_alone(policy):
    images = np.stack([real_images(40, (32, 32, 3))] * 2)
    keys = jax.random.split(KEY, 2)
    together = policy(keys, images)
    assert (together.shape, together.dtype) == (images.shape, jnp.uint8)
    assert not np.array_equal(together[0], together[1])
    alone = jax.jit(autoaugment("cifar10"))
    for replica in range(2):
        np.testing.assert_array_equal(together[replica], alone(keys[replica], images[replica]))


@pytest.mark.slow
def test_randomness_is_each_images_own_and_the_keys_alone(policy):
    same = np.broadcast_to(real_images(8, (32, 32, 3))[1], (2, 40, 32, 32, 3))
    keys = jax.random.split(KEY, 2)
    result = np.asarray(policy(keys, same))
    assert len(np.unique(result[0], axis=0)) > 15
    np.testing.assert_array_equal(policy(keys, same), result)


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "message"),
    [
        ((8, 8, 3), np.uint8, ValueError, r"images must have shape \(B, H, W, C\).*vmap"),
        ((2, 8, 8, 3), np.float32, TypeError, r"images must be uint8, got float32\(2, 8, 8, 3\)"),
        ((2, 8, 8, 4), np.uint8, ValueError, "1 or 3 channels, got shape"),
    ],
)
def test_images_must_be_grey_or_coloured_bytes(shape, dtype, error, message):
    with pytest.raises(error, match=message):
        autoaugment()(KEY, jnp.zeros(shape, dtype))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "svhn"}, r"policy must be one of \['cifar10', 'imagenet'\], got 'svhn'"),
        ({"policy": []}, "policy must hold sub-policies of one length"),
        ({"policy": [[("Invert", 1.0, 0)], []]}, "policy must hold sub-policies of one length"),
        ({"policy": [[("Blur", 1.0, 0)]]}, "operations are ShearX, .*, got 'Blur'"),
        ({"policy": [[("Invert", 1.5, 0)]]}, r"Invert: probability must be in \[0, 1\], got 1.5"),
        ({"policy": [[("Rotate", 1.0, 10)]]}, "Rotate: magnitude must be 0 to 9, got 10"),
        ({"policy": [[("Rotate", 1.0, 0.5)]]}, "Rotate: magnitude must be 0 to 9, got 0.5"),
        ({"fill": 256}, "fill must be at most 255, got 256"),
        ({"fill": -1}, "fill must be >= 0, got -1"),
    ],
)
def test_impossible_policies_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        autoaugment(**arguments)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (0, 8, 8, 1), (2, 0, 8, 3)])
def test_nothing_stays_nothing(shape):
    """Also by each of a compiled pipeline, and of replicas."""
    images, key = jnp.zeros(shape, jnp.uint8), jax.random.key(0)
    augment = compose(random_flip, random_crop(2), autoaugment(), cutout(4))
    for found in (augment(key, images), jax.jit(augment)(key, images)):
        assert (found.shape, found.dtype) == (shape, jnp.uint8)
    stacked = jax.vmap(augment)(jax.random.split(key), jnp.stack([images, images]))
    assert stacked.shape == (2, *shape)
