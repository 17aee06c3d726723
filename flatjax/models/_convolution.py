"""Convolution that is fast on a CPU too: its gradients, in loops, and under `jax.vmap`."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir

_CHUNK = 4  # images whose patches are held at once: small enough for a cache, of 2 to 16 fastest
_FEW = 36  # weights of a filter up to which a product of patches is faster than a convolution
_LAYOUT = ("NHWC", "HWIO", "NHWC")

Padding = Sequence[tuple[int, int]]


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Padding,
    **options: Any,
) -> jax.Array:
    r"""`jax.lax.conv_general_dilated`, computed in another way on a single CPU device.

    .. math::
      y_{bijo} = \sum_{uvc} k_{uvco} \, x_{b,\, s i + u,\, s j + v,\, c}, \quad
      \partial k_{uvco} = \sum_{bij} x_{b,\, s i + u,\, s j + v,\, c} \, \partial y_{bijo}

    XLA's CPU backend has one fast convolution, and uses it for the first sum. What it does slowly
    is written here as what it does fast:

    - the gradient of the kernel, to XLA a convolution whose window is as large as the maps, is a
      matrix product of patches, some images at a time;
    - the gradient of the images is the convolution with the turned kernel, which XLA leaves in a
      slow layout inside loops, such as a `lax.scan` over training steps;
    - under `jax.vmap` over kernels (replicas) it is one convolution after another instead of a
      grouped one;
    - a filter of few weights (the first layer's) is a matrix product of patches, of all images.

    Times are in `python -m experiments.benchmarks.convolution`. Values, gradients and higher
    derivatives are the same up to rounding, in reverse and forward mode.

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
    # Inside `shard_map` both vary over the axes of the mesh that one of them varies over, as the
    # operations of `jax.lax` see to themselves. The compiler drops the zeros.
    lhs, rhs = lhs + _zeros_like(rhs, ()), rhs + _zeros_like(lhs, ())
    return _conv(lhs, rhs, strides, tuple(tuple(pair) for pair in padding), (1, 1))


def conv_general_dilated_cls() -> Callable[..., jax.Array]:
    """`conv_general_dilated`, as `nn.Conv` wants it for its argument of this name."""
    return conv_general_dilated


def _zeros_like(x, shape, dtype=None):
    """Zeros that vary over the axes of a mesh as x does, which `jnp.zeros` do not."""
    return jax.lax.full_like(x, 0, dtype, shape)


def _is_ours(lhs, rhs, options) -> bool:
    # With several devices a loop over images would gather a batch that is spread over them.
    if jax.default_backend() != "cpu" or jax.device_count() > 1 or lhs.ndim != 4:
        return False
    if lhs.shape[0] == 0 or not jnp.issubdtype(lhs.dtype, jnp.floating):
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


# --- the convolution and the gradient of its kernel: each is the transpose of the other -----------
#
# Primitives, which alone have rules of their own for transposes and for batches.

_conv_p = jax.extend.core.Primitive("convolution_on_cpu")
_kernel_p = jax.extend.core.Primitive("convolution_kernel_on_cpu")


def _conv(images, kernel, strides, padding, dilation):
    """Maps y of images that have `dilation - 1` zeros between their pixels."""
    return _conv_p.bind(images, kernel, strides=strides, padding=padding, dilation=dilation)


def _maps(images, kernel, *, strides, padding, dilation):
    if math.prod(kernel.shape[:3]) <= _FEW and dilation == (1, 1):
        patches = _patches(images, kernel.shape[:2], strides, padding, dilation)
        return patches @ kernel.reshape(-1, kernel.shape[-1])
    return jax.lax.conv_general_dilated(
        images, kernel, strides, padding, dilation, dimension_numbers=_LAYOUT
    )


def _kernel(images, maps, *, window, strides, padding, dilation):
    """The sum over images and pixels of patches times maps, some images at a time."""
    count = len(images)
    chunk = next(n for n in range(min(count, _CHUNK), 0, -1) if count % n == 0)

    wide = jnp.promote_types(images.dtype, jnp.float32)
    shape = (*window, images.shape[-1], maps.shape[-1])

    def add(total, chunk):
        images, maps = chunk
        patches = _patches(images, window, strides, padding, dilation)
        # As matrices: a product that sums over three axes would be copied into one first.
        patches, maps = patches.reshape(-1, len(total)), maps.reshape(-1, shape[-1])
        return total + jnp.matmul(patches.T, maps, preferred_element_type=wide), None

    chunks = [x.reshape(count // chunk, chunk, *x.shape[1:]) for x in (images, maps)]
    total = _zeros_like(images, (math.prod(shape[:3]), shape[-1]), wide)
    return jax.lax.scan(add, total, chunks)[0].reshape(shape).astype(images.dtype)


def _patches(images, window, strides, padding, dilation):
    """What each pixel of the maps is made from: (B, H', W', height * width * C)."""
    borders = [(*pair, zeros - 1) for pair, zeros in zip(padding, dilation, strict=True)]
    padded = jax.lax.pad(images, jnp.zeros((), images.dtype), ((0, 0, 0), *borders, (0, 0, 0)))
    rows, columns = (
        pixels - side + 1 for pixels, side in zip(padded.shape[1:3], window, strict=True)
    )
    shifts = itertools.product(range(window[0]), range(window[1]))
    return jnp.concatenate(
        [padded[:, u : u + rows : strides[0], v : v + columns : strides[1]] for u, v in shifts],
        axis=-1,
    )


def _to_images(maps, shape, kernel, strides, padding, dilation):
    """The convolution's transpose in images of this shape: maps, convolved with a turned kernel."""
    margins = []
    for axis in (0, 1):
        side = kernel.shape[axis]
        dilated = dilation[axis] * (shape[1 + axis] - 1) + 1
        reached = strides[axis] * (maps.shape[1 + axis] - 1) + 1
        before = side - 1 - padding[axis][0]
        margins.append((before, dilated + side - 1 - reached - before))
    # Without the barrier XLA folds the turn into the convolution, in a layout that is slow.
    turned = jax.lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
    return _conv(maps, turned, dilation, tuple(margins), strides)


def _conv_to_images(maps, images, kernel, **options):
    return _to_images(maps, images.aval.shape, kernel, **options)


def _conv_to_kernel(maps, images, kernel, **options):
    return _kernel_p.bind(images, maps, window=kernel.aval.shape[:2], **options)


def _kernel_to_images(kernel, images, maps, *, window, **options):
    return _to_images(maps, images.aval.shape, kernel, **options)


def _kernel_to_maps(kernel, images, maps, *, window, **options):
    return _conv(images, kernel, **options)


def _one_by_one(primitive, arguments, axes, **options):
    """Batches of replicas in turn: of all convolutions XLA has only the single one fast."""
    size = next(x.shape[axis] for x, axis in zip(arguments, axes, strict=True) if axis is not None)
    rows = [
        [x] * size if axis is None else list(jnp.moveaxis(x, axis, 0))
        for x, axis in zip(arguments, axes, strict=True)
    ]
    return jnp.stack([primitive.bind(*row, **options) for row in zip(*rows, strict=True)]), 0


def _batched_conv(arguments, axes, **options):
    images, kernel = arguments
    if axes[1] is None:  # more images
        images = jnp.moveaxis(images, axes[0], 0)
        maps = _conv_p.bind(images.reshape(-1, *images.shape[2:]), kernel, **options)
        return maps.reshape(*images.shape[:2], *maps.shape[1:]), 0
    return _one_by_one(_conv_p, arguments, axes, **options)


def _define(primitive, evaluate, transposes, batched):
    def abstract(*arguments, **options):
        return jax.make_jaxpr(functools.partial(evaluate, **options))(*arguments).out_avals[0]

    compiled = functools.cache(lambda **options: jax.jit(functools.partial(evaluate, **options)))
    primitive.def_impl(lambda *arguments, **options: compiled(**options)(*arguments))
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(evaluate, multiple_results=False))
    ad.defbilinear(primitive, *transposes)
    batching.primitive_batchers[primitive] = batched


_define(_conv_p, _maps, (_conv_to_images, _conv_to_kernel), _batched_conv)
_define(
    *(_kernel_p, _kernel, (_kernel_to_images, _kernel_to_maps)),
    functools.partial(_one_by_one, _kernel_p),
)
