"""Checks of arguments that only models have; the others are in `flatjax._checks`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flatjax._checks import check_count, check_number


def widths(name: str, values: Any, *, minimum: int = 0) -> tuple[int, ...]:
    """A tuple of layer widths (hashable, as modules must be); raises unless all are ints >= 1."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{name} must be a sequence of ints, got {values!r}.")
    if len(values) < minimum:
        raise ValueError(f"{name} must have at least {minimum} entries, got {values!r}.")
    for index, value in enumerate(values):
        check_count(f"{name}[{index}]", value)
    return tuple(values)


def floating_dtype(name: str, value: Any) -> jnp.dtype:
    """The dtype `value` names; raises unless it is one of floating-point numbers."""
    try:
        dtype = jnp.dtype(value)
    except TypeError as error:
        raise TypeError(f"{name} must be a dtype, got {value!r}.") from error
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name} must be a floating-point dtype, got {dtype}.")
    return dtype


def check_images(images: jax.Array, *, minimum_size: int = 1) -> None:
    """Raises unless `images` are floats of shape (B, H, W, C) with H and W >= `minimum_size`."""
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
    """The pair (low, high); raises unless `values` are two finite numbers, low <= high."""
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != 2:
        raise TypeError(f"{name} must be a pair of numbers, got {values!r}.")
    low, high = (check_number(f"{name}[{index}]", value) for index, value in enumerate(values))
    if low > high:
        raise ValueError(f"{name} must have the lower end first, got {values!r}.")
    return low, high
