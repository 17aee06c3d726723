"""Checks of arguments of models; `flatjax._checks` has the general ones."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flatjax._checks import check_count, check_number


def widths(name: str, values: Any, *, minimum: int = 0) -> tuple[int, ...]:
    """Returns a tuple of layer widths; raises if one is not an int >= 1.

    A tuple is hashable, as attributes of modules must be.
    """
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{name} must be a sequence of ints, got {values!r}.")
    if len(values) < minimum:
        raise ValueError(f"{name} must have at least {minimum} entries, got {values!r}.")
    for index, value in enumerate(values):
        check_count(f"{name}[{index}]", value)
    return tuple(values)


def floating_dtype(name: str, value: Any) -> jnp.dtype:
    """Returns the dtype `value`; raises if it is not a floating-point dtype."""
    try:
        dtype = jnp.dtype(value)
    except TypeError as error:
        raise TypeError(f"{name} must be a dtype, got {value!r}.") from error
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name} must be a floating-point dtype, got {dtype}.")
    return dtype


def check_images(images: jax.Array, *, minimum_size: int = 1) -> None:
    """Raises if `images` are not floats (B, H, W, C), H and W >= `minimum_size`."""
    if images.ndim != 4:
        raise ValueError(f"images must have shape (B, H, W, C), got {images.shape}.")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images must be floating point (normalised), got {images.dtype}.")
    if min(images.shape[1:3]) < minimum_size:
        raise ValueError(
            f"images must be at least {minimum_size} pixels high and wide for this model, "
            f"got {images.shape}."
        )


def check_tokens(tokens: jax.Array, context: int) -> None:
    """Raises unless `tokens` are integers of shape (B, T) with 1 <= T <= `context`."""
    if tokens.ndim != 2 or not 1 <= tokens.shape[1] <= context:
        raise ValueError(
            f"tokens must have shape (B, T) with T from 1 to {context}, got {tokens.shape}."
        )
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"tokens must be integers, got {tokens.dtype}.")


def interval(name: str, values: Any) -> tuple[float, float]:
    """Returns (low, high); raises if `values` are not two finite numbers in order."""
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != 2:
        raise TypeError(f"{name} must be a pair of numbers, got {values!r}.")
    low, high = (check_number(f"{name}[{index}]", value) for index, value in enumerate(values))
    if low > high:
        raise ValueError(f"{name} must have the lower end first, got {values!r}.")
    return low, high
