r"""Convolution that is fast on one CPU device, with gradients, loops and vmap.

Images x, a kernel k and maps y enter one form T that is linear in each of the three,

.. math::
  T(x, k, y) = \sum_{bijo} \sum_{uvc} y_{bijo} \, k_{uvco} \, x_{b,\, s i + u,\, s j + v,\, c}
  \tag{1}

Its gradient in one of them is a function of the other two. The gradient in y is the convolution,
and the gradients in x and in k are its transposes. Each gradient is a primitive, and its transposes
are the other two. The three primitives are therefore closed under differentiation of any order.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from flatjax._cpu import _gradients
from flatjax._cpu._lowering import register_lowerings

Padding = Sequence[tuple[int, int]]


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Padding,
    **options: Any,
) -> jax.Array:
    r"""Computes `jax.lax.conv_general_dilated`, in another way on a single device.

    .. math::
      y_{bijo} = \sum_{uvc} k_{uvco} \, x_{b,\, s i + u,\, s j + v,\, c}, \quad
      \partial k_{uvco} = \sum_{bij} x_{b,\, s i + u,\, s j + v,\, c} \, \partial y_{bijo} \tag{2}

    XLA's CPU backend has one fast convolution, and uses it for the first sum. This function
    rewrites the slow operations by fast ones:

    - the gradient of the kernel is a matrix product of patches, some images at a time (to XLA it is
      a convolution whose window is as large as the maps);
    - the gradient of the images is the convolution with the turned kernel (XLA leaves it in a slow
      layout inside loops, such as a `lax.scan` over training steps);
    - under `jax.vmap` over kernels (replicas) there is a sequence of convolutions (to XLA it is a
      grouped convolution);
    - a filter of few weights, as in the first layer, is a matrix product of patches of all images.

    `python -m experiments.benchmarks.convolution` measures the times, and shows when this function
    can be removed. Values, gradients and higher derivatives are the same up to rounding, in reverse
    and forward mode.

    On a single NVIDIA GPU a convolution of at most 64 channels, whose patches fit the cache, is one
    matrix product of patches. Under `jax.vmap` over kernels it is one batched product. XLA would
    use a grouped convolution, which is slower and takes longer to compile.

    Programs for another platform or for several devices use XLA's convolution and its gradients. So
    do all convolutions except two-dimensional ones in linen's layout (NHWC, HWIO) without groups or
    dilation, and empty arrays.

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

    See Also:
      `conv_general_dilated_cls` (for linen modules), `max_pool` (pools faster on CPUs).
    """
    by_xla = functools.partial(jax.lax.conv_general_dilated, lhs, rhs, window_strides, padding)
    # Empty images, kernels and maps have no patches: XLA treats them.
    if not _is_ours(lhs, rhs, options) or not jax.eval_shape(lambda: by_xla(**options)).size:
        return by_xla(**options)
    strides = tuple(window_strides)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    lhs, rhs = _varying_alike(lhs, rhs)
    # The precision is read here, because a primitive is lowered outside of the user's context.
    precision = options.get("precision") or jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    geometry = _gradients.Geometry(
        pixels=lhs.shape[1:3],
        window=rhs.shape[:2],
        strides=strides,
        padding=tuple(tuple(pair) for pair in padding),
        precision=tuple(precision) if isinstance(precision, list) else precision,
    )
    return PRIMITIVES["maps"].bind(lhs, rhs, geometry=geometry, levels=())  # y of eq. (2)


def conv_general_dilated_cls() -> Callable[..., jax.Array]:
    """Returns `conv_general_dilated`, for `nn.Conv`'s argument of this name.

    Examples:
      >>> from flax import linen as nn
      >>> layer = nn.Conv(8, (3, 3), conv_general_dilated_cls=conv_general_dilated_cls)
      >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 16, 16, 3)))
      >>> layer.apply(variables, jnp.ones((2, 16, 16, 3))).shape
      (2, 16, 16, 8)

    See Also:
      `conv_general_dilated` (the function).
    """
    return conv_general_dilated


def _is_ours(lhs, rhs, options) -> bool:
    if lhs.ndim != 4 or 0 in lhs.shape + rhs.shape:
        return False
    if not jnp.issubdtype(lhs.dtype, jnp.floating):
        return False
    layout = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, options.get("dimension_numbers"))
    if layout != jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, _gradients.LAYOUT):
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
    """Inside `shard_map`, makes both vary over the mesh axes of either one."""
    zeros = [_gradients.zeros_like(x, ()) for x in (lhs, rhs)]
    if jax.typeof(zeros[0]) == jax.typeof(zeros[1]):
        return lhs, rhs
    # The compiler drops the zeros.
    return lhs + zeros[1], rhs + zeros[0]


# --- primitives: only they can have rules for transposes, batches and platforms -------------------

# The operands of each gradient: the two others, in this order.
_FACTORS = ("images", "kernel", "maps")  # x, k and y of eq. (1)
_OPERANDS = {of: tuple(name for name in _FACTORS if name != of) for of in _FACTORS}

# `levels` holds, for each `jax.vmap` around a gradient, the outermost first, which of the two
# operands carry its axis. They lead in this order; results carry all of them.


def _over_levels(gradient, batch):
    """Makes a function of stacked operands: calls `batch` for each level."""

    def stacked(x, y, *, geometry, levels):
        function = lambda x, y: gradient(x, y, geometry)
        for level in reversed(levels):
            function = batch(function, level)
        return function(x, y)

    return stacked


def _vmapped(function, level):
    return jax.vmap(function, in_axes=tuple(0 if is_stacked else None for is_stacked in level))


def _one_by_one(function, level):
    """Runs replicas in turn: XLA's CPU backend is fast only for single convolutions."""

    def stacked(*operands):
        size = next(len(x) for x, is_stacked in zip(operands, level, strict=True) if is_stacked)
        rows = [
            list(x) if is_stacked else [x] * size
            for x, is_stacked in zip(operands, level, strict=True)
        ]
        return jnp.stack([function(*row) for row in zip(*rows, strict=True)])

    return stacked


def _batch(of, operands, axes, *, geometry, levels):
    """Adds a level, or examples if only the examples are batched."""
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
    """Returns the gradient in the factor `to`, at the cotangent of the factor `of`."""
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
    by_xla = _over_levels(functools.partial(_gradients.by_xla, of), _vmapped)
    by_hand = _over_levels(functools.partial(_gradients.by_hand, of), _one_by_one)

    @functools.lru_cache(maxsize=1024)
    def abstract(x, y, **params):
        return jax.make_jaxpr(functools.partial(by_xla, **params))(x, y).out_avals[0]

    compiled = functools.cache(
        lambda **params: jax.jit(functools.partial(primitive.bind, **params))
    )
    primitive.def_impl(lambda x, y, **params: compiled(**params)(x, y))
    primitive.def_abstract_eval(abstract)
    by_patches = _over_levels(functools.partial(_gradients.by_patches, of), _vmapped)

    def on_gpu(x, y, *, geometry, levels):
        one = [
            jax.ShapeDtypeStruct(operand.shape[sum(level[i] for level in levels) :], operand.dtype)
            for i, operand in enumerate((x, y))
        ]
        fn = by_patches if _gradients.has_few_patches(of, *one, geometry) else by_xla
        return fn(x, y, geometry=geometry, levels=levels)

    register_lowerings(primitive, single_cpu=by_hand, single_gpu=on_gpu, elsewhere=by_xla)
    ad.defbilinear(primitive, *(functools.partial(_transpose, of, to) for to in _OPERANDS[of]))
    batching.primitive_batchers[primitive] = functools.partial(_batch, of)
    return primitive


PRIMITIVES = {of: _define(of) for of in _FACTORS}
