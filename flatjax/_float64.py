"""Computation in float64, without changing the user's `jax_enable_x64`."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np


def in_float64(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function compute in float64.

    Numbers and floating-point arrays among the arguments become float64; all other arguments are
    unchanged. Results are NumPy arrays (arithmetic on them stays in float64). Under `jax.jit`,
    `jax.vmap` or `jax.grad` they are tracers.

    Args:
      fn: a function of pytrees.

    Returns:
      The function, in float64.
    """

    @functools.wraps(fn)
    def wrapped(*args, **kwargs):
        with jax.enable_x64(True):
            args, kwargs = jax.tree.map(_to_float64, (args, kwargs))
            result = fn(*args, **kwargs)
        return jax.tree.map(_to_numpy, result)

    return wrapped


def is_traced(*values: Any) -> bool:
    """Whether any of the values is a tracer."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def vectorized(fn: Callable[..., chex.ArrayTree], chunk: int = 128) -> Callable[..., Any]:
    """Makes a function of scalars accept arrays, broadcast against each other.

    Points are solved in chunks: the loop of a chunk runs until its slowest point has converged,
    and its arrays stay in the cache.

    Args:
      fn: a function of keyword arguments that are scalars.
      chunk: the largest number of points that are solved together.

    Returns:
      A function of keyword arguments that are arrays; its results have their broadcast shape.
    """

    def wrapped(**params):
        names = list(params)
        arrays = jnp.broadcast_arrays(*params.values())
        shape = arrays[0].shape
        flat = [array.reshape(-1) for array in arrays]
        at_point = lambda point: fn(**dict(zip(names, point, strict=True)))
        if shape == ():
            return at_point([array[0] for array in flat])
        # All chunks have one size: a smaller last one would be compiled separately.
        num = flat[0].size
        num_chunks = -(-num // chunk)
        size = -(-num // num_chunks)
        flat = [jnp.pad(array, (0, num_chunks * size - num), mode="edge") for array in flat]
        found = jax.lax.map(at_point, flat, batch_size=size)
        return jax.tree.map(lambda leaf: leaf[:num].reshape(shape + leaf.shape[1:]), found)

    return wrapped


def _to_float64(leaf):
    is_number = isinstance(leaf, int | float | np.ndarray | np.generic | jax.Array)
    if isinstance(leaf, bool) or not is_number:
        return leaf
    dtype = jnp.result_type(leaf)
    is_real = jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    return jnp.asarray(leaf, jnp.float64) if is_real else leaf


def _to_numpy(leaf):
    return leaf if isinstance(leaf, jax.core.Tracer) else np.asarray(leaf)[()]
