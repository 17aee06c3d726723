"""The order in which XLA's CPU backend runs things that do not depend on each other."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp


def after(done: chex.ArrayTree, args: Any) -> Any:
    """The arguments as they are, but on a single CPU device only once `done` is computed.

    XLA's CPU backend runs independent operations at the same time. Convolutions of several replicas
    (or a convolution and the drawing of noise) then share cores and caches, and take a third longer
    than one after the other. It drops `lax.optimization_barrier` before it schedules, so the
    dependence has to be one of data: on a number that is always False, NaN included, which the
    compiler does not know. With several devices nothing waits: replicas are then run beside each
    other on purpose, and the number would have to be sent from one device to the others.

    Args:
      done: a pytree, every array of which is waited for.
      args: a pytree; its numeric arrays wait.

    Returns:
      `args`, unchanged in value.
    """
    if not _applies():
        return args
    # Leaves may be Python scalars too.
    has_dtype = lambda leaf, kind: hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, kind)
    is_float = lambda leaf: has_dtype(leaf, jnp.floating) and leaf.size
    done = [leaf.ravel()[0] for leaf in jax.tree.leaves(done) if is_float(leaf)]
    if not done:
        return args
    # Sorted, because no fusion goes through a sort: a sum of them would be computed again in every
    # array that waits, which made compilation grow with the square of the number of replicas.
    last = jnp.sort(jnp.stack([leaf.astype(jnp.float32) for leaf in done]))[0]
    never = last < -jnp.abs(last)

    def wait(leaf):
        is_number = has_dtype(leaf, jnp.number)
        return jnp.where(never, jnp.zeros_like(leaf), leaf) if is_number else leaf

    return jax.tree.map(wait, args)


def once(compute: Callable[..., Any], count: jax.Array, *args: Any) -> Any:
    """The value of a function that is dear, computed once on a single CPU device.

    XLA's CPU backend fuses what is elementwise into everything that uses it, and computes it again
    there. No fusion goes into a conditional, whose predicate the compiler must not know.

    Args:
      compute: from arrays to a pytree of arrays.
      count: an integer array that is never negative, which the compiler does not know.
      *args: of `compute`.

    Returns:
      `compute(*args)`.
    """
    if not _applies():
        return compute(*args)
    shapes = jax.eval_shape(compute, *args)
    zeros = lambda *_: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.cond(count >= 0, compute, zeros, *args)


def _applies() -> bool:
    return jax.default_backend() == "cpu" and jax.device_count() == 1
