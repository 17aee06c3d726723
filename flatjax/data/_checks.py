"""Checks of arguments shared by the modules of this package."""

from __future__ import annotations

import numbers
import operator

import numpy as np


def check_int(name: str, value: int, *, least: int) -> int:
    """Returns `value` as an int, or raises an error that names the argument.

    Raises:
      TypeError: if `value` is not an integer.
      ValueError: if it is smaller than `least`.
    """
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r}") from None
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def check_real(name: str, value: float) -> float:
    """Returns `value` as a float, or raises an error that names the argument.

    Raises:
      TypeError: if `value` is not a real number.
      ValueError: if it is not finite.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not np.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def generator(seed: int) -> np.random.Generator:
    """The random generator of an integer seed that is not negative."""
    return np.random.default_rng(check_int("seed", seed, least=0))


def described(array: object) -> str:
    """Dtype and shape of an array, or the type of what is none, for error messages."""
    if hasattr(array, "dtype") and hasattr(array, "shape"):
        return f"{array.dtype}{tuple(array.shape)}"
    return type(array).__name__
