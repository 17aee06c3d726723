"""Random keys: from seeds, and to numbers that any file format can store."""

import numbers
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax import _checks


def as_key(name: str, key: Any) -> chex.PRNGKey:
    """Returns a key of either style unchanged; makes a new-style key of a seed.

    All 64 bits of a seed count, even if JAX's integers have 32 (`jax.random.key(2**40)` would then
    equal `jax.random.key(0)`).

    Args:
      name: name of the argument, for errors.
      key: one key, or an integer from -2**63 to 2**63 - 1.

    Raises:
      TypeError: `key` is neither.
      ValueError: more than one key, or a seed of more than 64 bits.

    Examples:
      >>> import jax
      >>> jax.random.key_data(as_key("key", 2**40 + 7))
      Array([256,   7], dtype=uint32)
    """
    _checks.check_key(name, key)
    seed = _seed(key)
    if seed is None:
        key = jnp.asarray(key)
        is_traced_seed = key.ndim == 0 and not is_typed(key)
        return jax.random.key(key) if is_traced_seed else key
    if -(2**31) <= seed < 2**32:
        return jax.random.key(seed)
    with jax.enable_x64(True):
        return jax.random.key(seed)


def _seed(key):
    """Returns a seed as a Python integer; None for a key or a traced seed."""
    is_number = isinstance(key, numbers.Integral | np.ndarray) and np.ndim(key) == 0
    return int(key) if is_number else None


def is_typed(key: Any) -> bool:
    """Whether a leaf holds one or more new-style keys."""
    return jax.dtypes.issubdtype(getattr(key, "dtype", type(key)), jax.dtypes.prng_key)


def implementation(key: Any) -> Any:
    """Returns the generator of a new-style key; else None, JAX's default."""
    return jax.random.key_impl(key) if is_typed(key) else None


def numbers_of(key: chex.PRNGKey) -> tuple[jax.Array, ...]:
    """Returns the numbers of a key as scalars, which any file format can store.

    They are scalars because an array with axes in the state of stacked replicas would be taken to
    have a replica axis, and would be sharded along it.
    """
    return tuple(jax.random.key_data(key) if is_typed(key) else key)


def from_numbers(name: str, numbers: Any, impl: Any) -> chex.PRNGKey:
    """Makes a key from its numbers.

    Args:
      name: name of the numbers, for errors.
      numbers: scalars, or an array of them; a new-style key is returned unchanged.
      impl: the generator, see `implementation`.

    Raises:
      ValueError: the numbers belong to another generator.
    """
    if is_typed(numbers):
        return numbers
    data = jnp.asarray(numbers)
    expected = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=impl)))
    if (data.shape, data.dtype) != (expected.shape, expected.dtype):
        raise ValueError(
            f"{name} must hold the numbers of a key of this generator, "
            f"{_checks.described(expected)}, got {_checks.described(data)}. Make the optimizer "
            "with a key of the generator with which the state was made."
        )
    return jax.random.wrap_key_data(data, impl=impl)
