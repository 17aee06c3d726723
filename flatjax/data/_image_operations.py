"""Operations of Pillow on a batch, with a separate operation for each image.

A switch under vmap would compute all fourteen operations for every image. Here every image passes
through one chain, and an operation is a choice of the parameters of this chain:

    resampling (affine)  ->  look-up table (of each channel)  ->  blend with a degenerate image,

Two of the three links are neutral. Results equal those of Pillow to the bit on every device, with
one exception. If the exact result of `AutoContrast` or `Brightness` is a whole number, Pillow's
floating-point result may be slightly smaller, and is then rounded down to one less.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Parameters that are measured on the image: the table and the image to blend with.
_FIXED, _AUTO_CONTRAST, _EQUALIZE = range(3)
_BLACK, _MEAN_GREY, _GREY, _SMOOTH = range(4)

_FIXED_POINT = 16  # fractional bits of coordinates
_LUMA = (19595, 38470, 7471)  # ITU-R 601-2 weights of red, green and blue, in units of 2^-16


class Operation(NamedTuple):
    """Parameters of one operation, or of one for each image (with a leading axis).

    Attributes:
      affine: int32 (6,): (a, b, c, d, e, f) in units of 2^-16. The pixel in column x and row y of
        the result is taken from column a x + b y + c and row d x + e y + f, rounded down.
      threshold: int32; values from here on are inverted, 256 for none.
      mask: int32; the bits that are kept.
      table: int32; whether the table is fixed (threshold and mask), equalizes or stretches.
      degenerate: int32; the image to blend with.
      factor: int32; weight of the image itself, in tenths; 10 for no change.
    """

    affine: Any
    threshold: Any
    mask: Any
    table: Any
    degenerate: Any
    factor: Any


def operation(name: str, strength: float, height: int, width: int) -> Operation:
    """Returns the parameters of an operation on images of a given size.

    Args:
      name: name of the operation. Without a strength: `AutoContrast`, `Equalize`, `Invert` or
        `Identity`. With a strength: `ShearX` or `ShearY` (pixels for each pixel from the upper left
        corner), `TranslateX` or `TranslateY` (pixels), `Rotate` (degrees), `Solarize` (threshold),
        `Posterize` (bits kept). With a factor in steps of 0.1: `Contrast`, `Color`, `Brightness` or
        `Sharpness`.
      strength: see above.
      height: height of the images, in pixels.
      width: width of the images, in pixels.

    Returns:
      The parameters, on the host.
    """
    matrix = {
        "ShearX": (1.0, strength, 0.0, 0.0, 1.0, 0.0),
        "ShearY": (1.0, 0.0, 0.0, strength, 1.0, 0.0),
        "TranslateX": (1.0, 0.0, strength, 0.0, 1.0, 0.0),
        "TranslateY": (1.0, 0.0, 0.0, 0.0, 1.0, strength),
        "Rotate": _rotation(strength, height, width),
    }.get(name, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    blends = {"Brightness": _BLACK, "Contrast": _MEAN_GREY, "Color": _GREY, "Sharpness": _SMOOTH}
    return Operation(
        affine=_fixed_point(matrix),
        threshold=np.int32({"Invert": 0, "Solarize": math.ceil(strength)}.get(name, 256)),
        mask=np.int32(256 - 2 ** (8 - round(strength)) if name == "Posterize" else 255),
        table=np.int32({"AutoContrast": _AUTO_CONTRAST, "Equalize": _EQUALIZE}.get(name, _FIXED)),
        degenerate=np.int32(blends.get(name, _BLACK)),
        factor=np.int32(round(10 * strength) if name in blends else 10),
    )


def apply(operations: Operation, images: jax.Array, fill: int) -> jax.Array:
    """Applies its operation to each image.

    Args:
      operations: parameters with a leading axis (B,).
      images: uint8 of shape (B, H, W, C), C = 1 or 3.
      fill: value of all channels where the affine map points outside the image.

    Returns:
      uint8 of the same shape.
    """
    images = _resample(operations.affine, images, fill)
    images = _map_values(_tables(operations, images), images)
    return _blend(operations, images)


def _divide(numerator: jax.Array, denominator: jax.Array | int) -> jax.Array:
    """Divides whole numbers, rounded down; exact for numerators from 0 to 2^20.

    Adding half a unit keeps floating-point rounding from crossing a whole number. Integers would
    not need it, but CPUs cannot divide vectors of integers. A negative quotient may become 0.
    """
    return ((numerator + 0.5) / denominator).astype(jnp.int32)


# Geometry


def _rotation(degrees: float, height: int, width: int) -> tuple[float, ...]:
    """Returns the affine map of a counterclockwise rotation about the middle."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return (cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y)


def _fixed_point(matrix: tuple[float, ...]) -> np.ndarray:
    a, b, c, d, e, f = matrix
    at_pixel_centres = np.array([a, b, c + (a + b) / 2, d, e, f + (d + e) / 2])
    return np.floor(at_pixel_centres * 2**_FIXED_POINT + 0.5).astype(np.int32)


def _resample(affine: jax.Array, images: jax.Array, fill: int) -> jax.Array:
    count, height, width, channels = images.shape
    a, b, c, d, e, f = affine.T[:, :, None, None]
    x, y = jnp.arange(width)[None, None, :], jnp.arange(height)[None, :, None]
    column = (a * x + b * y + c) >> _FIXED_POINT
    row = (d * x + e * y + f) >> _FIXED_POINT
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    source = jnp.where(inside, row * width + column, 0).reshape(count, -1, 1)
    pixels = images.reshape(count, -1, channels)
    sampled = jnp.take_along_axis(pixels, source, axis=1, mode="promise_in_bounds")
    return jnp.where(inside[..., None], sampled.reshape(images.shape), jnp.uint8(fill))


# Values, channel by channel


def _tables(operations: Operation, images: jax.Array) -> jax.Array:
    """Returns the new value of each value in each channel, uint8 (B, 256, C)."""
    value = jnp.arange(256)[None, :, None]
    threshold, mask, kind = (
        parameter[:, None, None]
        for parameter in (operations.threshold, operations.mask, operations.table)
    )
    fixed = jnp.where(value >= threshold, 255 - value, value) & mask
    table = jnp.where(
        kind == _EQUALIZE,
        _equalizing(images),
        jnp.where(kind == _AUTO_CONTRAST, _stretching(images), fixed),
    )
    return table.astype(jnp.uint8)


def _stretching(images: jax.Array) -> jax.Array:
    """Returns tables that stretch the values of a channel to 0 to 255."""
    value = jnp.arange(256)[None, :, None]
    smallest, largest = (
        reduce(images, axis=(1, 2)).astype(jnp.int32)[:, None, :] for reduce in (jnp.min, jnp.max)
    )
    span = jnp.maximum(largest - smallest, 1)
    stretched = jnp.clip(_divide(255 * (value - smallest), span), 0, 255)
    return jnp.where(largest > smallest, stretched, value)


def _equalizing(images: jax.Array) -> jax.Array:
    """Returns tables that equalize the histogram of a channel."""
    count, height, width, channels = images.shape
    values = images.reshape(count, height * width, channels).astype(jnp.int32)
    count_up = lambda v: jnp.zeros(256, jnp.int32).at[v].add(1, mode="promise_in_bounds")
    histogram = jax.vmap(jax.vmap(count_up, 1, 1))(values)
    below = jnp.cumsum(histogram, axis=1) - histogram
    at_largest = jnp.take_along_axis(histogram, values.max(axis=1, keepdims=True), axis=1)
    step = (height * width - at_largest) // 255
    equalized = jnp.minimum(_divide(step // 2 + below, jnp.maximum(step, 1)), 255)
    return jnp.where(step > 0, equalized, jnp.arange(256)[None, :, None])


def _map_values(tables: jax.Array, images: jax.Array) -> jax.Array:
    count, _, _, channels = images.shape
    values = images.reshape(count, -1, channels).astype(jnp.int32)
    mapped = jnp.take_along_axis(tables, values, axis=1, mode="promise_in_bounds")
    return mapped.reshape(images.shape)


# Blends


def _blend(operations: Operation, images: jax.Array) -> jax.Array:
    """Returns degenerate + factor * (image - degenerate), clipped and rounded down.

    The factor is in whole tenths. With a floating-point factor, it would depend on the device
    whether the product is rounded before the sum. The result could then fall on either side of a
    whole number.
    """
    kind, factor = (
        parameter[:, None, None, None] for parameter in (operations.degenerate, operations.factor)
    )
    values = images.astype(jnp.int32)
    grey = _grey(values)
    degenerate = jnp.where(
        kind == _SMOOTH,
        _smooth(values),
        jnp.where(kind == _GREY, grey, jnp.where(kind == _MEAN_GREY, _rounded_mean(grey), 0)),
    )
    blended = _divide(10 * degenerate + factor * (values - degenerate), 10)
    return jnp.clip(blended, 0, 255).astype(jnp.uint8)


def _grey(values: jax.Array) -> jax.Array:
    """Computes the luma of each pixel, shape (B, H, W, 1)."""
    if values.shape[-1] == 1:
        return values
    weighted = [weight * values[..., channel] for channel, weight in enumerate(_LUMA)]
    luma = sum(weighted, start=jnp.zeros((), values.dtype))
    return ((luma + 2**15) >> 16)[..., None]


def _rounded_mean(grey: jax.Array) -> jax.Array:
    pixels = grey.shape[1] * grey.shape[2]
    return (2 * grey.sum(axis=(1, 2, 3), keepdims=True) + pixels) // (2 * pixels)


def _smooth(values: jax.Array) -> jax.Array:
    """Averages 3 x 3 pixels, the middle one with weight 5; keeps the border."""
    _, height, width, _ = values.shape
    padded = jnp.pad(values, [(0, 0), (1, 1), (1, 1), (0, 0)])
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * values
    within = lambda length: (jnp.arange(length) > 0) & (jnp.arange(length) < length - 1)
    interior = within(height)[None, :, None, None] & within(width)[None, None, :, None]
    return jnp.where(interior, _divide(2 * total + 13, 26), values)
