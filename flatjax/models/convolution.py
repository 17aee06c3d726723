"""Convolution whose gradient is fast on a CPU too."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

_CHUNK = (
    8  # images whose patches are held at once: small enough for a cache, of 4 to 16 the fastest
)
_LAYOUT = ("NHWC", "HWIO", "NHWC")

Padding = Sequence[tuple[int, int]]


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Padding,
    **options: Any,
) -> jax.Array:
    r"""`jax.lax.conv_general_dilated`, with another gradient of the kernel on a single CPU device.

    .. math::
      y_{bijo} = \sum_{uvc} k_{uvco} \, x_{b,\, s i + u,\, s j + v,\, c}, \quad
      \partial k_{uvco} = \sum_{bij} x_{b,\, s i + u,\, s j + v,\, c} \, \partial y_{bijo}

    XLA computes the second sum as a convolution whose window is as large as the maps, which its CPU
    backend does slowly. Here it is a matrix product of patches, some images at a time. Forward and
    backward through a layer of 3 x 3 kernels and batches of 128 take a quarter of the time with
    32 x 32 pixels and 64 channels, half with 16 x 16 and 128, two thirds with 28 x 28 and 16, and
    no more where little is gained (`python -m experiments.benchmarks.convolution`). Values,
    gradients and higher derivatives are the same up to rounding, in reverse and forward mode, and
    under `vmap`.

    Elsewhere, and for anything but two-dimensional convolutions in linen's layout (NHWC, HWIO),
    without groups or dilation, it is XLA's.

    Args:
      lhs: images x, (B, H, W, C).
      rhs: kernel k, (height, width, C, O).
      window_strides: s, for each axis.
      padding: "SAME", "VALID" or (low, high) for each axis.
      **options: as in `jax.lax.conv_general_dilated`.

    Returns:
      Maps y, (B, H', W', O).

    Examples:
      In a linen module:
      `nn.Conv(..., conv_general_dilated_cls=models.conv_general_dilated_cls)`.

      >>> import jax.numpy as jnp
      >>> from flatjax.models import conv_general_dilated
      >>> images, kernel = jnp.ones((2, 4, 4, 1)), jnp.ones((3, 3, 1, 5))
      >>> layout = ("NHWC", "HWIO", "NHWC")
      >>> conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=layout).shape
      (2, 4, 4, 5)
    """
    if not _is_ours(lhs, rhs, options):
        return jax.lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
    strides = tuple(window_strides)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    return _conv(lhs, rhs, strides, tuple(tuple(pair) for pair in padding))


def conv_general_dilated_cls() -> Callable[..., jax.Array]:
    """`conv_general_dilated`, as `nn.Conv` wants it for its argument of this name."""
    return conv_general_dilated


def _is_ours(lhs, rhs, options) -> bool:
    # With several devices a loop over images would gather a batch that is spread over them.
    if jax.default_backend() != "cpu" or jax.device_count() > 1 or lhs.ndim != 4:
        return False
    if rhs.shape[:2] == (1, 1) or not jnp.issubdtype(lhs.dtype, jnp.floating):
        return False
    layout = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, options.get("dimension_numbers"))
    if layout != jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, _LAYOUT):
        return False
    is_one = lambda value: value is None or set(value) == {1}
    return (
        is_one(options.get("lhs_dilation"))
        and is_one(options.get("rhs_dilation"))
        and options.get("feature_group_count", 1) == 1
        and options.get("batch_group_count", 1) == 1
        and options.get("preferred_element_type") is None
        and lhs.dtype == rhs.dtype
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _conv(images, kernel, strides, padding):
    return jax.lax.conv_general_dilated(images, kernel, strides, padding, dimension_numbers=_LAYOUT)


@_conv.defjvp
def _conv_jvp(strides, padding, primals, tangents):
    # Linear in both. JAX's transpose of the part that is linear in the kernel is the sum above.
    images, kernel = primals
    d_images, d_kernel = tangents
    maps = _conv(images, kernel, strides, padding)
    by_images = _conv(d_images, kernel, strides, padding)
    by_kernel = _by_patches(images, d_kernel, strides, padding, maps.shape[1:3])
    return maps, by_images + by_kernel


def _by_patches(images, kernel, strides, padding, size):
    """The convolution as matrix products, some images at a time; fast to transpose by kernel."""
    count = len(images)
    chunk = next(n for n in range(min(count, _CHUNK), 0, -1) if count % n == 0)
    matrix = kernel.reshape(-1, kernel.shape[-1])

    # Patches are nine times the images (3 x 3): made again for the transpose, never kept.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def some_images(_, images):
        patches = _patches(images, kernel.shape[:2], strides, padding, size)
        return None, patches @ matrix

    chunks = images.reshape(count // chunk, chunk, *images.shape[1:])
    _, maps = jax.lax.scan(some_images, None, chunks)
    return maps.reshape(count, *size, -1)


def _patches(images, window, strides, padding, size):
    """What each pixel of the result is made from: (B, H', W', height * width * C)."""
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    rows, columns = (
        stride * (pixels - 1) + 1 for stride, pixels in zip(strides, size, strict=True)
    )
    shifts = itertools.product(range(window[0]), range(window[1]))
    return jnp.concatenate(
        [padded[:, u : u + rows : strides[0], v : v + columns : strides[1]] for u, v in shifts],
        axis=-1,
    )
