r"""The three gradients of the form T of `_convolution`, fast on each platform.

The form is linear in images x, a kernel k and maps y:

.. math::
  T(x, k, y) = \sum_{bijo} \sum_{uvc} y_{bijo} \, k_{uvco} \, x_{b,\, s i + u,\, s j + v,\, c}
  \tag{1}

Each function below computes the gradient of T in the factor `of` from the two other factors, which
are its arguments in the order images, kernel, maps.
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_CHUNK = 4  # images whose patches are held at once: they fit a cache; the fastest of 2 to 16
_FEW = 36  # largest number of weights in a filter for which a product of patches is faster
# On a GPU a product of patches is taken up to these limits: few channels, patches that fit its
# cache. On an H200 with jax 0.11, a step of one small network took 0.17 ms by products, and each of
# five vmapped ones 0.31 ms by XLA's grouped convolution. Other limits were not measured.
_GPU_CHANNELS, _GPU_BYTES = 64, 40 * 2**20
LAYOUT = ("NHWC", "HWIO", "NHWC")


def zeros_like(x, shape, dtype=None):
    """Makes zeros that vary over the axes of a mesh as x does, unlike `jnp.zeros`."""
    return jax.lax.full_like(x, 0, dtype, shape)


class Geometry(NamedTuple):
    """The parameters that the three gradients share."""

    pixels: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, ...], ...]
    precision: Any


def by_xla(of: str, x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """Computes XLA's convolution or one of its transposes, as JAX differentiates it."""

    def convolve(images, kernel):
        return jax.lax.conv_general_dilated(
            *(images, kernel, geometry.strides, geometry.padding),
            dimension_numbers=LAYOUT,
            precision=geometry.precision,
        )

    if of == "maps":
        return convolve(x, y)
    if of == "images":
        images = zeros_like(y, (len(y), *geometry.pixels, x.shape[2]))
        return jax.linear_transpose(lambda images: convolve(images, x), images)(y)[0]
    kernel = zeros_like(x, (*geometry.window, x.shape[-1], y.shape[-1]))
    return jax.linear_transpose(lambda kernel: convolve(x, kernel), kernel)(y)[0]


def by_hand(of: str, x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """Computes the same by operations that XLA's CPU backend runs fast."""
    if of == "maps":
        return _maps(x, y, geometry.strides, geometry.padding, (1, 1))  # eq. (1) without its y
    if of == "images":
        return _images(x, y, geometry)  # without its x
    return _kernel(x, y, geometry)  # without its k


def has_few_patches(of: str, x: jax.Array, y: jax.Array, geometry: Geometry) -> bool:
    """Whether a product of patches is faster than a convolution on a GPU."""
    channels = x.shape[-1] if of == "kernel" else (y if of == "maps" else x).shape[-2]
    maps = (x.shape[0], *_map_pixels(geometry)) if of == "maps" else y.shape[:-1]
    if not all(isinstance(size, int) for size in (*maps, channels)):
        return False  # an export for any batch size: the number of patches is not known
    size = math.prod((*maps, *geometry.window)) * channels * x.dtype.itemsize
    return channels <= _GPU_CHANNELS and size <= _GPU_BYTES


def _map_pixels(geometry) -> tuple[int, ...]:
    sides = zip(geometry.pixels, geometry.window, geometry.strides, geometry.padding, strict=True)
    return tuple((n + sum(pad) - side) // stride + 1 for n, side, stride, pad in sides)


def by_patches(of: str, x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """Computes the same as one matrix product of all patches."""
    cut = lambda images: _patches(images, geometry.window, geometry.strides, geometry.padding)
    product = functools.partial(jnp.matmul, precision=geometry.precision)
    if of == "maps":
        return product(cut(x), y.reshape(-1, y.shape[-1]))
    if of == "images":
        images = zeros_like(y, (len(y), *geometry.pixels, x.shape[2]))
        patches = product(y, x.reshape(-1, x.shape[-1]).T)
        return jax.linear_transpose(cut, images)(patches)[0]
    patches = cut(x)
    patches, maps = patches.reshape(-1, patches.shape[-1]), y.reshape(-1, y.shape[-1])
    shape = (*geometry.window, x.shape[-1], y.shape[-1])
    return product(patches.T, maps).reshape(shape)


def _maps(images, kernel, strides, padding, dilation):
    """Computes maps y of images with `dilation - 1` zeros between their pixels."""
    if math.prod(kernel.shape[:3]) <= _FEW and dilation == (1, 1):
        patches = _patches(images, kernel.shape[:2], strides, padding)
        return patches @ kernel.reshape(-1, kernel.shape[-1])
    return jax.lax.conv_general_dilated(
        images, kernel, strides, padding, dilation, dimension_numbers=LAYOUT
    )


def _images(kernel, maps, geometry):
    """Convolves maps with a turned kernel."""
    margins = []
    for axis in (0, 1):
        side, before = geometry.window[axis], geometry.window[axis] - 1 - geometry.padding[axis][0]
        reached = geometry.strides[axis] * (maps.shape[1 + axis] - 1) + 1
        margins.append((before, geometry.pixels[axis] + side - 1 - reached - before))
    # Without the barrier XLA folds the turn into the convolution, in a slow layout.
    turned = jax.lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
    return _maps(maps, turned, (1, 1), tuple(margins), geometry.strides)


def _kernel(images, maps, geometry):
    """Sums patches times maps over images and pixels, some images at a time."""
    count = len(images)
    chunk = next(n for n in range(min(count, _CHUNK), 0, -1) if count % n == 0)
    wide = jnp.promote_types(images.dtype, jnp.float32)
    shape = (*geometry.window, images.shape[-1], maps.shape[-1])

    def add(total, chunk):
        images, maps = chunk
        patches = _patches(images, geometry.window, geometry.strides, geometry.padding)
        # As matrices: XLA would first copy the operands of a product that sums over three axes.
        patches, maps = patches.reshape(-1, len(total)), maps.reshape(-1, shape[-1])
        return total + jnp.matmul(patches.T, maps, preferred_element_type=wide), None

    chunks = [x.reshape(count // chunk, chunk, *x.shape[1:]) for x in (images, maps)]
    total = zeros_like(images, (math.prod(shape[:3]), shape[-1]), wide)
    return jax.lax.scan(add, total, chunks)[0].reshape(shape).astype(images.dtype)


def _patches(images, window, strides, padding):
    """Returns the input pixels of each map pixel: (B, H', W', height * width * C)."""
    borders = [(*pair, 0) for pair in padding]
    padded = jax.lax.pad(images, jnp.zeros((), images.dtype), ((0, 0, 0), *borders, (0, 0, 0)))
    rows, columns = (
        pixels - side + 1 for pixels, side in zip(padded.shape[1:3], window, strict=True)
    )
    shifts = itertools.product(range(window[0]), range(window[1]))
    return jnp.concatenate(
        [padded[:, u : u + rows : strides[0], v : v + columns : strides[1]] for u, v in shifts],
        axis=-1,
    )
