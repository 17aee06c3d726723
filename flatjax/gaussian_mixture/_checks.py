"""Checks parameters of the mixture and of its solvers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from flatjax import _checks
from flatjax._float64 import is_traced


def check_numbers(
    name: str, value: Any, is_valid: Callable[[np.ndarray], np.ndarray], expected: str
) -> Any:
    """Refuses numbers that are out of range.

    Args:
      name: name of the parameter.
      value: a number or an array of numbers. Traced values are not looked at.
      is_valid: function that says which of the values are in range.
      expected: the range, in words.

    Returns:
      The value; as a NumPy array of float64 if it is not traced.

    Raises:
      ValueError: a value is out of range, or there is none; the message names the parameter.
      TypeError: the value is not a number or an array of numbers.
    """
    if is_traced(value):
        return value
    values = _checks.real_array(name, value)
    if np.asarray(value).dtype == bool:
        raise TypeError(f"{name} must be real numbers, got {value!r}.")
    if not values.size:
        raise ValueError(f"{name} must not be empty, got shape {values.shape}.")
    valid = is_valid(values)
    if not valid.all():
        raise ValueError(f"{name} must be {expected}, got {values[~valid].flat[0]}.")
    return values


def check_mixture(**params: Any) -> dict[str, Any]:
    """Refuses parameters of the mixture, or of a solver, that are out of range.

    Args:
      **params: parameters by name. `rho` must be strictly between 0 and 1, all others positive and
        finite. Traced values are not looked at.

    Returns:
      The parameters; as NumPy arrays if they are not traced.

    Raises:
      ValueError: a value is out of range; the message names the parameter.
      TypeError: a parameter is not a number or an array of numbers.
    """
    is_positive = lambda values: np.isfinite(values) & (values > 0)
    is_share = lambda values: (values > 0) & (values < 1)
    checked = {}
    for name, value in params.items():
        if name == "rho":
            checked[name] = check_numbers(name, value, is_share, "strictly between 0 and 1")
        else:
            checked[name] = check_numbers(name, value, is_positive, "positive and finite")
    return checked


def check_sizes(num_replicas: int, num_chains: int, num_samples: int, burn_in: int) -> None:
    """Refuses numbers of replicas, chains and samples that are too small."""
    _checks.check_count("num_replicas", num_replicas)
    _checks.check_count("num_chains", num_chains)
    _checks.check_count("num_samples", num_samples, minimum=4)
    _checks.check_count("burn_in", burn_in, minimum=0)
