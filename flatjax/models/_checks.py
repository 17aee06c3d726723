"""Argument checks shared by the models."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def check_count(name: str, value: Any) -> None:
    """Raises unless `value` is an integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an int, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be >= 1, got {value}.")


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


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raises unless `value` is one of `choices`."""
    if value not in choices:
        expected = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be one of {expected}; got {value!r}.")


def check_probability(name: str, value: Any) -> None:
    """Raises unless `value` is a number in [0, 1]."""
    _check_real(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}.")


def check_positive(name: str, value: Any) -> None:
    """Raises unless `value` is a finite number above 0."""
    _check_real(name, value)
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}.")


def interval(name: str, values: Any) -> tuple[float, float]:
    """The pair (low, high); raises unless `values` are two finite numbers, low <= high."""
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != 2:
        raise TypeError(f"{name} must be a pair of numbers, got {values!r}.")
    for index, value in enumerate(values):
        _check_real(f"{name}[{index}]", value)
    low, high = map(float, values)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"{name} must be finite, the lower end first, got {values!r}.")
    return low, high


def _check_real(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}.")
