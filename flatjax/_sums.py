r"""Sums and means over a data set, without rounding errors or overflow.

A running sum is a pair of numbers of the same precision, :math:`s = high + low` with
:math:`|low| \le \mathrm{ulp}(high) / 2`. Knuth's two-sum gives the exact rounding error of an
addition,

.. math::
  t = a + b, \qquad e = (a - (t - (t - a))) + (b - (t - a)), \qquad t + e = a + b, \tag{1}

which is added to `low`. A pair of float32 holds 48 bits: counts are exact up to :math:`2^{48}`. The
pair has the precision of the summand, but at least float32. Sums of half-precision numbers
therefore do not overflow.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np


class Sum(NamedTuple):
    """A running sum.

    Attributes:
      high: the sum, rounded to its dtype.
      low: the remainder, of the same shape and dtype.
    """

    high: jax.Array
    low: jax.Array


def is_sum(x: Any) -> bool:
    """Whether this is a `Sum`; it makes sums the leaves of a pytree."""
    return isinstance(x, Sum)


def zeros(like: chex.ArrayTree, add_axes: tuple[int, ...] = ()) -> Any:
    """Makes empty sums of numbers like these (arrays, or their shapes and dtypes).

    Args:
      like: a pytree of the numbers that will be summed.
      add_axes: sizes of axes after the numbers' own axes; each index has its own sum.

    Returns:
      A pytree like `like` with a `Sum` for each leaf.
    """

    def zero(x):
        x = x.high if isinstance(x, Sum) else x
        nothing = jnp.zeros((*x.shape, *add_axes), _dtype_of_sum(x))
        return Sum(nothing, nothing)

    return jax.tree.map(zero, like, is_leaf=is_sum)


def add(totals: Any, summands: Any) -> Any:
    """Adds a pytree of numbers to the sums; the numbers may be sums from `on_device`."""
    return jax.tree.map(_add, totals, summands, is_leaf=is_sum)


def add_at(totals: Any, index: Any, summands: Any) -> Any:
    """Adds a pytree of numbers to the sums at an index of their last axis."""

    def add_one(total, x):
        # The summands are padded with zeros: XLA fuses this into the additions, but not two
        # scatters.
        shape = total.high.shape
        is_there = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1) == index
        spread = lambda part: jnp.where(is_there, part[..., None], jnp.zeros([], part.dtype))
        return _add_parts(total, map(spread, _parts(x)))

    return jax.tree.map(add_one, totals, summands, is_leaf=is_sum)


def on_device(summands: Any) -> Any:
    """Makes sums of Python and NumPy numbers, which may exceed 2^31.

    Arrays on a device are returned unchanged.
    """

    def convert(x):
        if isinstance(x, jax.Array) or np.iscomplexobj(x):
            return x
        exact = np.asarray(x, np.float64)
        high = exact.astype(jax.dtypes.canonicalize_dtype(np.float64))
        with np.errstate(invalid="ignore"):
            low = np.where(np.isfinite(high), exact - high, 0.0)
        return Sum(high, low.astype(high.dtype))

    return jax.tree.map(convert, summands)


def mean(total: Sum, count: Sum) -> jax.Array:
    """Divides a sum by a count, whose axes are the first axes of the sum."""
    shape = count.high.shape + (1,) * (total.high.ndim - count.high.ndim)
    return total.high / count.high.reshape(shape).astype(total.high.dtype)


def host_means(sums: Mapping[str, Sum]) -> dict[str, np.ndarray]:
    """Returns {name: sum / sum of `"count"`} in float64; NaN if nothing was counted."""
    exact = {name: np.asarray(s.high, float) + np.asarray(s.low, float) for name, s in sums.items()}
    count = exact.pop("count")
    with np.errstate(invalid="ignore"):
        return {name: total / count for name, total in exact.items()}


def _add(total: Sum, x: Any) -> Sum:
    return _add_parts(total, _parts(x))


def _add_parts(total: Sum, parts: Iterable[jax.Array]) -> Sum:
    high, low = total
    for part in parts:
        high, error = _two_sum(high, part.astype(high.dtype))
        high, low = _two_sum(high, low + error)
    return Sum(high, low)


def _two_sum(a, b):
    """Returns the rounded sum and its rounding error, eq. (1)."""
    total = a + b
    of_b = total - a
    error = (a - (total - of_b)) + (b - of_b)
    return total, jnp.where(jnp.isfinite(total), error, jnp.zeros_like(error))


def _parts(x: Any) -> tuple[jax.Array, ...]:
    """Splits x exactly into floating-point numbers of the sum's precision."""
    if isinstance(x, Sum):
        return tuple(x)
    x = jnp.asarray(x)
    dtype = _dtype_of_sum(x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        return (x.astype(dtype),)
    half = 4 * x.dtype.itemsize  # bits; a float32 holds 24 of the 32 bits of an integer
    lowest = x & ((1 << half) - 1)
    return (x - lowest).astype(dtype), lowest.astype(dtype)


def _dtype_of_sum(x: Any) -> np.dtype:
    dtype = jnp.dtype(x.dtype)
    if jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits >= 32:
        return dtype
    is_wide = jnp.issubdtype(dtype, jnp.integer) and dtype.itemsize == 8
    return jnp.dtype(jnp.float64 if is_wide else jnp.float32)
