r"""Convolution that is fast on a single CPU device too: its gradients, in loops, under `jax.vmap`.

Images x, a kernel k and maps y enter one form that is linear in each of the three,

.. math::
  T(x, k, y) = \sum_{bijo} \sum_{uvc} y_{bijo} \, k_{uvco} \, x_{b,\, s i + u,\, s j + v,\, c}

whose gradient in one of them is a function of the other two. The gradient in y is the convolution;
those in x and in k are its transposes. Each is a primitive, and the transposes of each are the
other two, so that these three are closed under differentiation of any order.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from flatjax._cpu._lowering import register_lowerings

_CHUNK = 4  # images whose patches are held at once: small enough for a cache, of 2 to 16 fastest
_FEW = 36  # weights of a filter up to which a product of patches is faster than a convolution
# On a GPU: of so few channels, and patches that its cache holds, the product is faster.
_GPU_CHANNELS, _GPU_BYTES = 64, 40 * 2**20
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

    Times are in `python -m experiments.benchmarks.convolution`, which also shows when it can go.
    Values, gradients and higher derivatives are the same up to rounding, in reverse and forward
    mode.

    A program for another platform or for several devices has XLA's convolution and its gradients,
    as has anything but two-dimensional convolutions in linen's layout (NHWC, HWIO), without groups
    or dilation, and whatever is empty.

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
    by_xla = functools.partial(jax.lax.conv_general_dilated, lhs, rhs, window_strides, padding)
    # Whatever is empty, images, kernel or maps, is XLA's: it has no patches.
    if not _is_ours(lhs, rhs, options) or not jax.eval_shape(lambda: by_xla(**options)).size:
        return by_xla(**options)
    strides = tuple(window_strides)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    lhs, rhs = _varying_alike(lhs, rhs)
    # The context's precision is asked for now: a primitive is lowered outside of the context.
    precision = options.get("precision") or jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    geometry = _Geometry(
        pixels=lhs.shape[1:3],
        window=rhs.shape[:2],
        strides=strides,
        padding=tuple(tuple(pair) for pair in padding),
        precision=tuple(precision) if isinstance(precision, list) else precision,
    )
    return PRIMITIVES["maps"].bind(lhs, rhs, geometry=geometry, levels=())


def conv_general_dilated_cls() -> Callable[..., jax.Array]:
    """`conv_general_dilated`, as `nn.Conv` wants it for its argument of this name."""
    return conv_general_dilated


def _is_ours(lhs, rhs, options) -> bool:
    if lhs.ndim != 4 or 0 in lhs.shape + rhs.shape:
        return False
    if not jnp.issubdtype(lhs.dtype, jnp.floating):
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


def _varying_alike(lhs, rhs):
    """Inside `shard_map` both vary over the mesh axes over which one of them varies."""
    zeros = [_zeros_like(x, ()) for x in (lhs, rhs)]
    if jax.typeof(zeros[0]) == jax.typeof(zeros[1]):
        return lhs, rhs
    # The compiler drops the zeros.
    return lhs + zeros[1], rhs + zeros[0]


def _zeros_like(x, shape, dtype=None):
    """Zeros that vary over the axes of a mesh as x does, which `jnp.zeros` do not."""
    return jax.lax.full_like(x, 0, dtype, shape)


# --- the three gradients of T ---------------------------------------------------------------------


class _Geometry(NamedTuple):
    """What does not change from one of the three gradients to another."""

    pixels: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, ...], ...]
    precision: Any


# The operands of each gradient: the two others, in this order.
_FACTORS = ("images", "kernel", "maps")
_OPERANDS = {of: tuple(name for name in _FACTORS if name != of) for of in _FACTORS}


def _by_xla(of: str, x: jax.Array, y: jax.Array, geometry: _Geometry) -> jax.Array:
    """XLA's convolution or one of its transposes, as JAX differentiates it."""

    def convolve(images, kernel):
        return jax.lax.conv_general_dilated(
            *(images, kernel, geometry.strides, geometry.padding),
            dimension_numbers=_LAYOUT,
            precision=geometry.precision,
        )

    if of == "maps":
        return convolve(x, y)
    if of == "images":
        images = _zeros_like(y, (len(y), *geometry.pixels, x.shape[2]))
        return jax.linear_transpose(lambda images: convolve(images, x), images)(y)[0]
    kernel = _zeros_like(x, (*geometry.window, x.shape[-1], y.shape[-1]))
    return jax.linear_transpose(lambda kernel: convolve(x, kernel), kernel)(y)[0]


def _by_hand(of: str, x: jax.Array, y: jax.Array, geometry: _Geometry) -> jax.Array:
    """The same, of what XLA's CPU backend does fast."""
    if of == "maps":
        return _maps(x, y, geometry.strides, geometry.padding, (1, 1))
    if of == "images":
        return _images(x, y, geometry)
    return _kernel(x, y, geometry)


def _has_few_patches(of: str, x: jax.Array, y: jax.Array, geometry: _Geometry) -> bool:
    """Whether a GPU is faster with one matrix product of patches than with a convolution."""
    channels = x.shape[-1] if of == "kernel" else (y if of == "maps" else x).shape[-2]
    maps = (len(x), *_map_pixels(geometry)) if of == "maps" else y.shape[:-1]
    size = math.prod((*maps, *geometry.window)) * channels * x.dtype.itemsize
    return channels <= _GPU_CHANNELS and size <= _GPU_BYTES


def _map_pixels(geometry) -> tuple[int, ...]:
    sides = zip(geometry.pixels, geometry.window, geometry.strides, geometry.padding, strict=True)
    return tuple((n + sum(pad) - side) // stride + 1 for n, side, stride, pad in sides)


def _by_patches(of: str, x: jax.Array, y: jax.Array, geometry: _Geometry) -> jax.Array:
    """The same as one matrix product of all patches."""
    cut = lambda images: _patches(images, geometry.window, geometry.strides, geometry.padding)
    product = functools.partial(jnp.matmul, precision=geometry.precision)
    if of == "maps":
        return product(cut(x), y.reshape(-1, y.shape[-1]))
    if of == "images":
        images = _zeros_like(y, (len(y), *geometry.pixels, x.shape[2]))
        patches = product(y, x.reshape(-1, x.shape[-1]).T)
        return jax.linear_transpose(cut, images)(patches)[0]
    patches = cut(x)
    patches, maps = patches.reshape(-1, patches.shape[-1]), y.reshape(-1, y.shape[-1])
    shape = (*geometry.window, x.shape[-1], y.shape[-1])
    return product(patches.T, maps).reshape(shape)


def _maps(images, kernel, strides, padding, dilation):
    """Maps y of images that have `dilation - 1` zeros between their pixels."""
    if math.prod(kernel.shape[:3]) <= _FEW and dilation == (1, 1):
        patches = _patches(images, kernel.shape[:2], strides, padding)
        return patches @ kernel.reshape(-1, kernel.shape[-1])
    return jax.lax.conv_general_dilated(
        images, kernel, strides, padding, dilation, dimension_numbers=_LAYOUT
    )


def _images(kernel, maps, geometry):
    """Maps, convolved with a turned kernel."""
    margins = []
    for axis in (0, 1):
        side, before = geometry.window[axis], geometry.window[axis] - 1 - geometry.padding[axis][0]
        reached = geometry.strides[axis] * (maps.shape[1 + axis] - 1) + 1
        margins.append((before, geometry.pixels[axis] + side - 1 - reached - before))
    # Without the barrier XLA folds the turn into the convolution, in a layout that is slow.
    turned = jax.lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
    return _maps(maps, turned, (1, 1), tuple(margins), geometry.strides)


def _kernel(images, maps, geometry):
    """The sum over images and pixels of patches times maps, some images at a time."""
    count = len(images)
    chunk = next(n for n in range(min(count, _CHUNK), 0, -1) if count % n == 0)
    wide = jnp.promote_types(images.dtype, jnp.float32)
    shape = (*geometry.window, images.shape[-1], maps.shape[-1])

    def add(total, chunk):
        images, maps = chunk
        patches = _patches(images, geometry.window, geometry.strides, geometry.padding)
        # As matrices: a product that sums over three axes would be copied into one first.
        patches, maps = patches.reshape(-1, len(total)), maps.reshape(-1, shape[-1])
        return total + jnp.matmul(patches.T, maps, preferred_element_type=wide), None

    chunks = [x.reshape(count // chunk, chunk, *x.shape[1:]) for x in (images, maps)]
    total = _zeros_like(images, (math.prod(shape[:3]), shape[-1]), wide)
    return jax.lax.scan(add, total, chunks)[0].reshape(shape).astype(images.dtype)


def _patches(images, window, strides, padding):
    """What each pixel of the maps is made from: (B, H', W', height * width * C)."""
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


# --- primitives, which alone have rules of their own for transposes, batches and platforms --------
#
# `levels` holds, for each `jax.vmap` around a gradient, the outermost first, which of the two
# operands carry its axis. They lead in this order; results carry all of them.


def _over_levels(gradient, batch):
    """A function of stacked operands, by `batch(function, level)` for each level."""

    def stacked(x, y, *, geometry, levels):
        function = lambda x, y: gradient(x, y, geometry)
        for level in reversed(levels):
            function = batch(function, level)
        return function(x, y)

    return stacked


def _vmapped(function, level):
    return jax.vmap(function, in_axes=tuple(0 if is_stacked else None for is_stacked in level))


def _one_by_one(function, level):
    """Replicas in turn: of all convolutions XLA's CPU backend has only the single one fast."""

    def stacked(*operands):
        size = next(len(x) for x, is_stacked in zip(operands, level, strict=True) if is_stacked)
        rows = [
            list(x) if is_stacked else [x] * size
            for x, is_stacked in zip(operands, level, strict=True)
        ]
        return jnp.stack([function(*row) for row in zip(*rows, strict=True)])

    return stacked


def _batch(of, operands, axes, *, geometry, levels):
    """Adds a level, or examples where only they are batched."""
    bind = functools.partial(PRIMITIVES[of].bind, geometry=geometry)
    operands = [
        x if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(operands, axes, strict=True)
    ]
    batched = [name for name, axis in zip(_OPERANDS[of], axes, strict=True) if axis is not None]
    if of == "kernel" or "kernel" in batched:
        level = tuple(axis is not None for axis in axes)
        return bind(*operands, levels=(level, *levels)), 0
    index = _OPERANDS[of].index(batched[0])
    depth = sum(level[index] for level in levels)
    examples = jnp.moveaxis(operands[index], 0, depth)
    operands[index] = examples.reshape(*examples.shape[:depth], -1, *examples.shape[depth + 2 :])
    result = bind(*operands, levels=levels)
    split = examples.shape[depth : depth + 2]
    at = len(levels)
    return result.reshape(*result.shape[:at], *split, *result.shape[at + 1 :]), at


def _transpose(of, to, cotangent, x, y, *, geometry, levels):
    """The gradient in the factor `to`, at the cotangent of the factor `of`."""
    values = dict(zip(_OPERANDS[of], (x, y), strict=True)) | {of: cotangent}
    is_stacked = {name: [level[i] for level in levels] for i, name in enumerate(_OPERANDS[of])}
    is_stacked[of] = [True] * len(levels)
    result = PRIMITIVES[to].bind(
        *(values[name] for name in _OPERANDS[to]),
        geometry=geometry,
        levels=tuple(zip(*(is_stacked[name] for name in _OPERANDS[to]), strict=True)),
    )
    shared = tuple(i for i, stacked in enumerate(is_stacked[to]) if not stacked)
    return jnp.sum(result, shared) if shared else result


def _define(of: str) -> Primitive:
    primitive = Primitive(f"convolution_{of}")
    by_xla = _over_levels(functools.partial(_by_xla, of), _vmapped)
    by_hand = _over_levels(functools.partial(_by_hand, of), _one_by_one)

    @functools.lru_cache(maxsize=1024)
    def abstract(x, y, **params):
        return jax.make_jaxpr(functools.partial(by_xla, **params))(x, y).out_avals[0]

    compiled = functools.cache(
        lambda **params: jax.jit(functools.partial(primitive.bind, **params))
    )
    primitive.def_impl(lambda x, y, **params: compiled(**params)(x, y))
    primitive.def_abstract_eval(abstract)
    by_patches = _over_levels(functools.partial(_by_patches, of), _vmapped)

    def on_gpu(x, y, *, geometry, levels):
        one = [
            jax.ShapeDtypeStruct(operand.shape[sum(level[i] for level in levels) :], operand.dtype)
            for i, operand in enumerate((x, y))
        ]
        fn = by_patches if _has_few_patches(of, *one, geometry) else by_xla
        return fn(x, y, geometry=geometry, levels=levels)

    register_lowerings(primitive, single_cpu=by_hand, single_gpu=on_gpu, elsewhere=by_xla)
    ad.defbilinear(primitive, *(functools.partial(_transpose, of, to) for to in _OPERANDS[of]))
    batching.primitive_batchers[primitive] = functools.partial(_batch, of)
    return primitive


PRIMITIVES = {of: _define(of) for of in _FACTORS}
