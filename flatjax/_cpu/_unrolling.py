"""Copies of a program in sequence, where XLA's CPU backend is slow with one.

XLA's CPU backend runs a convolution about ten times slower inside a loop than outside, and as much
slower with batched kernels (by `jax.vmap`) than one by one. Measured on the two-layer network,
three vmapped replicas took 8-10 times as long as one, and unrolled copies 2.7-3.0 times. A scan
over training steps took 10 times as long. `flatjax.models.conv_general_dilated` avoids most of
this, but the feature maps of several networks together do not fit into the cache. The copies can be
removed when `python -m experiments.benchmarks.convolution` shows neither slowdown.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.extend.core import jaxprs_in_params

from flatjax._cpu import _convolution

T = TypeVar("T")


def unrolled_or(unrolled: Callable[[], T], otherwise: Callable[[], T]) -> T:
    """Calls the first function in programs for CPU, else the second one.

    Both are traced, and only one of them is lowered and compiled.

    Args:
      unrolled: a function without arguments that returns a pytree of arrays.
      otherwise: another such function, which returns the same values.

    Returns:
      The values of the called function.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax import _cpu
      >>> int(_cpu.unrolled_or(lambda: jnp.add(1, 2), lambda: jnp.add(2, 1)))
      3
    """
    return jax.lax.platform_dependent(cpu=unrolled, default=otherwise)


def prefers_unrolled(fn: Callable[..., Any], *args: Any, platform: str | None = None) -> bool:
    """Whether host code should call a program per network instead of vmapping it.

    Args:
      fn: the program of one network, a traceable function.
      *args: its arguments, arrays or `jax.ShapeDtypeStruct`.
      platform: platform on which it runs, `"cpu"` or another; JAX's default backend if None.

    Returns:
      True on a CPU if the program contains a convolution.
    """
    platform = jax.default_backend() if platform is None else platform
    return platform == "cpu" and contains_convolution(fn, *args)


def contains_convolution(fn: Callable[..., Any], *args: Any) -> bool:
    """Whether the program of `fn(*args)` contains a convolution, at any depth.

    Args:
      fn: a traceable function.
      *args: its arguments, arrays or `jax.ShapeDtypeStruct`.

    Returns:
      True if any `conv_general_dilated` is found. The function is traced, not run.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax import models
      >>> models.contains_convolution(jnp.dot, jnp.ones(3), jnp.ones(3))
      False

    See Also:
      `flatjax.map_replicas` (unrolls such functions on CPUs).
    """
    closed = jax.make_jaxpr(fn)(*args)
    return _has_convolution(closed.jaxpr)


# The primitives of XLA, and of `flatjax.models.conv_general_dilated`.
_CONVOLUTIONS = {"conv_general_dilated"} | {p.name for p in _convolution.PRIMITIVES.values()}


def _has_convolution(jaxpr) -> bool:
    for equation in jaxpr.eqns:
        if equation.primitive.name in _CONVOLUTIONS:
            return True
        if any(_has_convolution(inner) for inner in jaxprs_in_params(equation.params)):
            return True
    return False
