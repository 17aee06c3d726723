"""The normal numbers of JAX, drawn faster on a CPU."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flatjax._cpu._order import once

# Threefry-2x32 with 20 rounds: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
PARITY = 0x1BD11BDA
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def normal(key: chex.PRNGKey, size: int, dtype: DTypeLike = float) -> jax.Array:
    """Draws the numbers of `jax.random.normal(key, (size,), dtype)`.

    On a CPU, JAX runs the rounds of its generator as a loop over arrays and stores each round in
    memory. Here the rounds are written out, and make uniform numbers in one pass over memory. A
    second pass makes them normal (`once`), because a fused pass takes 1.4 times as long as both. A
    core takes 0.7 of JAX's time for a million numbers, and half of it for ten million. This holds
    if a single array is made: operations with which the compiler fuses the second pass repeat it.
    If several operations use a small draw inside a loop, as in the chains of committees and
    mixtures, JAX's own function is 1.3 times as fast. For other platforms, generators and dtypes
    this calls JAX's own function. It can be removed when `jax.random.normal` draws a million
    numbers as fast.

    Args:
      key: random key, of the new or the old style.
      size: the number of numbers.
      dtype: dtype of the numbers, JAX's default float type by default.

    Returns:
      An array (size,) with the same bits as JAX's. They may differ if the compiler contracts
      products and sums differently (as in the tests, where it optimizes less).

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> key = jax.random.key(0)
      >>> bool(jnp.all(normal(key, 5) == jax.random.normal(key, (5,))))
      True
    """
    by_jax = lambda: jax.random.normal(key, (size,), dtype)
    if not _can_be_written_out(key, size, dtype):
        return by_jax()
    return jax.lax.platform_dependent(cpu=lambda: _written_out(key, size), default=by_jax)


def _can_be_written_out(key, size, dtype) -> bool:
    return (
        str(jax.random.key_impl(key)) == "threefry2x32"
        and jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
        and jax.dtypes.canonicalize_dtype(dtype) == jnp.float32
        and 0 < size < 2**32
    )


def _written_out(key, size):
    words = jax.random.key_data(key)
    counts = jax.lax.iota(jnp.uint32, size)
    high, low = _threefry(words[0], words[1], jnp.zeros_like(counts), counts)
    # 23 random bits are the fraction of a number in [1, 2), which is shifted to (-1, 1).
    one = np.float32(1).view(np.uint32)
    fraction = jax.lax.bitcast_convert_type(((high ^ low) >> 9) | one, jnp.float32) - 1
    least = np.nextafter(np.float32(-1), np.float32(0))
    uniform = jnp.maximum(least, fraction * (1 - least) + least)
    uniform = once(uniform, (words[0] >> 1).astype(jnp.int32))  # 31 bits are no negative number
    return np.float32(math.sqrt(2)) * jax.lax.erf_inv(uniform)


def _threefry(k0, k1, x0, x1):
    keys = (k0, k1, k0 ^ k1 ^ np.uint32(PARITY))
    x0, x1 = x0 + k0, x1 + k1
    for group in range(5):
        for turn in ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = x0 ^ (x1 << turn | x1 >> 32 - turn)
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1
