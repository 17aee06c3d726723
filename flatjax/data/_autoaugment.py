"""AutoAugment (Cubuk et al. 2019, arXiv:1805.09501): learned augmentation."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from flatjax._checks import check_count, check_number, described
from flatjax.data import _image_operations
from flatjax.data._augment import Augmentation, check_images

SubPolicy = Sequence[tuple[str, float, int]]

MAGNITUDES = 10

# Strengths at magnitudes 0 and 9; strengths between them are evenly spaced. Ranges are those in
# table 6 of the paper, with 0 as the weak end, as in the authors' code. Shifts are a fraction of
# the side of the image: 10 of 32 pixels on CIFAR, as in the authors' code. The table's 150 pixels
# are for large images.
_RANGES = {
    "ShearX": (0.0, 0.3),
    "ShearY": (0.0, 0.3),
    "TranslateX": (0.0, 10 / 32),
    "TranslateY": (0.0, 10 / 32),
    "Rotate": (0.0, 30.0),
    "Solarize": (256.0, 0.0),
    "Posterize": (8.0, 4.0),
    "Contrast": (0.1, 1.9),
    "Color": (0.1, 1.9),
    "Brightness": (0.1, 1.9),
    "Sharpness": (0.1, 1.9),
    "AutoContrast": (0.0, 0.0),
    "Equalize": (0.0, 0.0),
    "Invert": (0.0, 0.0),
}
_SIGNED = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


def _parse(lines: str) -> tuple[SubPolicy, ...]:
    """Reads a policy; a line is a sub-policy: name probability magnitude, twice."""
    words = [line.split() for line in lines.split("\n") if line]
    return tuple(
        tuple((row[i], float(row[i + 1]), int(row[i + 2])) for i in (0, 3)) for row in words
    )


# Tables 7 and 9 of the paper.
POLICIES: dict[str, tuple[SubPolicy, ...]] = {
    "cifar10": _parse("""
Invert       0.1 7  Contrast     0.2 6
Rotate       0.7 2  TranslateX   0.3 9
Sharpness    0.8 1  Sharpness    0.9 3
ShearY       0.5 8  TranslateY   0.7 9
AutoContrast 0.5 8  Equalize     0.9 2
ShearY       0.2 7  Posterize    0.3 7
Color        0.4 3  Brightness   0.6 7
Sharpness    0.3 9  Brightness   0.7 9
Equalize     0.6 5  Equalize     0.5 1
Contrast     0.6 7  Sharpness    0.6 5
Color        0.7 7  TranslateX   0.5 8
Equalize     0.3 7  AutoContrast 0.4 8
TranslateY   0.4 3  Sharpness    0.2 6
Brightness   0.9 6  Color        0.2 8
Solarize     0.5 2  Invert       0.0 3
Equalize     0.2 0  AutoContrast 0.6 0
Equalize     0.2 8  Equalize     0.6 4
Color        0.9 9  Equalize     0.6 6
AutoContrast 0.8 4  Solarize     0.2 8
Brightness   0.1 3  Color        0.7 0
Solarize     0.4 5  AutoContrast 0.9 3
TranslateY   0.9 9  TranslateY   0.7 9
AutoContrast 0.9 2  Solarize     0.8 3
Equalize     0.8 8  Invert       0.1 3
TranslateY   0.7 9  AutoContrast 0.9 1
"""),
    "imagenet": _parse("""
Posterize    0.4 8  Rotate       0.6 9
Solarize     0.6 5  AutoContrast 0.6 5
Equalize     0.8 8  Equalize     0.6 3
Posterize    0.6 7  Posterize    0.6 6
Equalize     0.4 7  Solarize     0.2 4
Equalize     0.4 4  Rotate       0.8 8
Solarize     0.6 3  Equalize     0.6 7
Posterize    0.8 5  Equalize     1.0 2
Rotate       0.2 3  Solarize     0.6 8
Equalize     0.6 8  Posterize    0.4 6
Rotate       0.8 8  Color        0.4 0
Rotate       0.4 9  Equalize     0.6 2
Equalize     0.0 7  Equalize     0.8 8
Invert       0.6 4  Equalize     1.0 8
Color        0.6 4  Contrast     1.0 8
Rotate       0.8 8  Color        1.0 2
Color        0.8 8  Solarize     0.8 7
Sharpness    0.4 7  Invert       0.6 8
ShearX       0.6 5  Equalize     1.0 9
Color        0.4 0  Equalize     0.6 3
Equalize     0.4 7  Solarize     0.2 4
Solarize     0.6 5  AutoContrast 0.6 5
Invert       0.6 4  Equalize     1.0 8
Color        0.6 4  Contrast     1.0 8
Equalize     0.8 8  Equalize     0.6 3
"""),
}


def autoaugment(policy: str | Sequence[SubPolicy] = "cifar10", fill: int = 128) -> Augmentation:
    """Applies a random sub-policy, a chain of operations, to each image.

    For each image a sub-policy is drawn with equal probability. Its operations are applied one
    after another, each with its own probability and at its magnitude 0, ..., 9. The ten magnitudes
    are evenly spaced in these ranges:

    - `ShearX`, `ShearY`: 0 to 0.3 pixels for each pixel from the upper left corner, of either sign;
    - `TranslateX`, `TranslateY`: 0 to 10/32 of the side, of either sign;
    - `Rotate`: 0 to 30 degrees about the middle, of either sign;
    - `Solarize`: 256 down to 0; values from this threshold on are inverted;
    - `Posterize`: 8 down to 4 bits are kept;
    - `Contrast`, `Color`, `Brightness`, `Sharpness`: a factor of 0.1 to 1.9, 1 for no change.

    `AutoContrast`, `Equalize` and `Invert` are the same at all magnitudes.

    Results equal those of Pillow (ImageOps, ImageEnhance, Image.transform without interpolation) to
    the bit, except that `AutoContrast` and `Brightness` may be brighter by 1. A CPU core processes
    about 9,000 images of 32x32x3 a second, in batches of 128.

    The usual order is flip, crop, AutoAugment, cutout, then normalization.

    Args:
      policy: "cifar10", "imagenet", or a sequence of sub-policies of equal length. A sub-policy is
        a sequence of `(operation, probability, magnitude)`.
      fill: value of pixels that geometric operations leave empty, in all channels. The authors use
        the mean colour (CIFAR) or 128 (ImageNet).

    Returns:
      The augmentation, of uint8 images (B, H, W, C), C = 1 or 3. It may be jitted and vmapped.

    Raises:
      TypeError: `fill` is not an int; or, when called, the images are not uint8 (for example
        because they were normalized before).
      ValueError: a policy, operation, probability, magnitude or fill value does not exist; or, when
        called, the images do not have four axes and one or three channels.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> darken_or_not = autoaugment(policy=[[("Brightness", 0.5, 0)]])
      >>> images = jnp.full((6, 1, 1, 1), 200, jnp.uint8)
      >>> jax.jit(darken_or_not)(jax.random.key(0), images).ravel().tolist()
      [20, 20, 200, 20, 20, 20]

    See Also:
      `compose` (with a crop and a flip), `random_crop` (moves alone).
    """
    sub_policies = _checked_policy(policy)
    fill = check_count("fill", fill, minimum=0)
    if fill > 255:
        raise ValueError(f"fill must be at most 255, got {fill}")
    probability = np.array([[p for _, p, _ in sub_policy] for sub_policy in sub_policies])
    count, length = probability.shape

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        check_images(images)
        if images.dtype != jnp.uint8:
            raise TypeError(f"images must be uint8, got {described(images)}")
        batch, height, width, channels = images.shape
        if channels not in (1, 3):
            raise ValueError(f"images must have 1 or 3 channels, got shape {images.shape}")
        if not images.size:
            return images
        operations = jax.tree.map(jnp.asarray, _operations(sub_policies, height, width))
        which_key, probability_key, sign_key = jax.random.split(key, 3)
        which = jax.random.randint(which_key, (batch,), 0, count)
        uniform = jax.random.uniform(probability_key, (batch, length))
        applied = uniform < jnp.asarray(probability, jnp.float32)[which]
        sign = jax.random.randint(sign_key, (batch, length), 0, 2)
        variant = jnp.where(applied, 1 + sign, 0)
        for position in range(length):
            index = which, position, variant[:, position]
            chosen = jax.tree.map(operator.itemgetter(index), operations)
            images = _image_operations.apply(chosen, images, fill)
        return images

    return augment


def _operations(
    sub_policies: Sequence[SubPolicy], height: int, width: int
) -> _image_operations.Operation:
    """Returns all parameters, with axes (sub-policy, position, variant).

    The three variants are: no action, the negative sign, the positive sign.
    """

    def variants(name: str, magnitude: int) -> list[_image_operations.Operation]:
        strength = np.linspace(*_RANGES[name], MAGNITUDES)[magnitude]
        strength *= {"TranslateX": width, "TranslateY": height}.get(name, 1)
        negative = -strength if name in _SIGNED else strength
        return [
            _image_operations.operation("Identity", 0.0, height, width),
            _image_operations.operation(name, negative, height, width),
            _image_operations.operation(name, strength, height, width),
        ]

    nested = [[variants(name, m) for name, _, m in sub_policy] for sub_policy in sub_policies]
    is_operation = lambda node: isinstance(node, _image_operations.Operation)
    leaves = jax.tree.leaves(nested, is_leaf=is_operation)
    axes = len(nested), len(nested[0]), 3
    return jax.tree.map(lambda *arrays: np.stack(arrays).reshape(*axes, *arrays[0].shape), *leaves)


def _checked_policy(policy: str | Sequence[SubPolicy]) -> Sequence[SubPolicy]:
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise ValueError(f"policy must be one of {sorted(POLICIES)}, got {policy!r}")
        return POLICIES[policy]
    try:
        lengths = {len(sub_policy) for sub_policy in policy}
        entries = [
            (name, p, magnitude) for sub_policy in policy for name, p, magnitude in sub_policy
        ]
    except (TypeError, ValueError):
        lengths, entries = set(), []
    if len(lengths) != 1 or not entries:
        raise ValueError(
            "policy must hold sub-policies of one length, of (operation, probability, magnitude) "
            f"each, got {policy!r}"
        )
    for name, probability, magnitude in entries:
        if name not in _RANGES:
            raise ValueError(f"policy: operations are {', '.join(_RANGES)}, got {name!r}")
        check_number(f"policy: {name}: probability", probability, minimum=0, maximum=1)
        if not (isinstance(magnitude, int) and magnitude in range(MAGNITUDES)):
            raise ValueError(f"policy: {name}: magnitude must be 0 to 9, got {magnitude!r}")
    return policy
