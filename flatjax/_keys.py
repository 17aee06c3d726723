"""Random keys: seeds become keys, and keys become numbers that any file format can hold."""

import numbers
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax import _checks


def as_key(name: str, key: Any) -> chex.PRNGKey:
    """A key as it is, of the new or the old style; of a seed, a key of the new style.

    A seed counts with 64 bits, also where JAX's integers have 32 (`jax.random.key(2**40)` is then
    `jax.random.key(0)`).

    Args:
      name: the argument's, for errors.
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
    """The seed, as a Python integer; None if it is a key, or a seed that is traced."""
    is_number = isinstance(key, numbers.Integral | np.ndarray) and np.ndim(key) == 0
    return int(key) if is_number else None


def is_typed(key: Any) -> bool:
    """Whether a leaf of any kind is a key, or keys, of the new style."""
    return jax.dtypes.issubdtype(getattr(key, "dtype", type(key)), jax.dtypes.prng_key)


def implementation(key: Any) -> Any:
    """The generator of a key of the new style; None, JAX's default, of all else."""
    return jax.random.key_impl(key) if is_typed(key) else None


def numbers_of(key: chex.PRNGKey) -> tuple[jax.Array, ...]:
    """The numbers of a key, which any file format holds, as scalars.

    Scalars, because what has axes in the state of stacked replicas has a replica axis, and is
    sharded along it.
    """
    return tuple(jax.random.key_data(key) if is_typed(key) else key)


def from_numbers(name: str, numbers: Any, impl: Any) -> chex.PRNGKey:
    """The key of these numbers.

    Args:
      name: of the numbers, for errors.
      numbers: scalars, or an array of them; a key of the new style is taken as it is.
      impl: the generator, see `implementation`.

    Raises:
      ValueError: the numbers are those of another generator.
    """
    if is_typed(numbers):
        return numbers
    data = jnp.asarray(numbers)
    expected = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=impl)))
    if (data.shape, data.dtype) != (expected.shape, expected.dtype):
        raise ValueError(
            f"{name} must hold the numbers of a key of this generator, "
            f"{_checks.described(expected)}, got {_checks.described(data)}. Make the optimizer "
            "with a key of the generator that the state was made with."
        )
    return jax.random.wrap_key_data(data, impl=impl)
