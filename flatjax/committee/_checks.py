"""Checks of patterns, units, references and iterations. Errors name the argument."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from flatjax import _checks
from flatjax._float64 import is_traced


def check_units(num_units: int, name: str = "num_units") -> None:
    """Raises if the number of units is even or not positive."""
    _checks.check_count(name, num_units)
    if num_units % 2 == 0:
        raise ValueError(f"{name} must be odd, got {num_units}.")


def check_iteration(damping: float, max_iterations: int, tolerance: float) -> None:
    """Raises if a parameter of an iteration is out of its range."""
    check_damping(damping)
    _checks.check_count("max_iterations", max_iterations)
    _checks.check_scalar("tolerance", tolerance, exclusive_minimum=True)


def check_damping(damping: float) -> None:
    """Raises if the damping is out of [0, 1)."""
    _checks.check_scalar("damping", damping, maximum=1.0, exclusive_maximum=True)


def check_patterns(x: Any, y: Any) -> None:
    """Raises if x does not hold finite patterns (P, N) or y not a label for each.

    Either array may be traced; then only its shape is checked.
    """
    if np.ndim(x) != 2 or not np.size(x):
        raise ValueError(f"x must have shape (P, N), got {np.shape(x)}.")
    if np.shape(y) != np.shape(x)[:1]:
        expected = np.shape(x)[:1]
        raise ValueError(f"y must have shape {expected}, as x has patterns, got {np.shape(y)}.")
    if not is_traced(y) and not np.all(np.abs(y) == 1):
        raise ValueError(f"y must hold labels -1 and 1, got {np.unique(y)[:5]}.")
    if not is_traced(x) and not np.all(np.isfinite(x)):
        raise ValueError("x must be finite, got NaN or infinity.")


def check_inputs(x: Any, least: int = 2) -> None:
    """Raises if there are fewer than `least` inputs.

    Weights on a sphere need 3 inputs to turn around a reference.
    """
    if np.shape(x)[1] < least:
        where = "on the sphere" if least == 2 else "at an overlap with a reference"
        raise ValueError(
            f"x must have at least {least} inputs, got {np.shape(x)[1]}: a unit has only two "
            f"weights {where}."
        )


def check_directions(reference: Any) -> None:
    """Raises if a unit of a reference (..., K, N) is 0 or not finite."""
    if not np.all(np.isfinite(reference)) or not np.all(np.any(reference != 0, axis=-1)):
        raise ValueError("reference must hold units that are finite and not 0.")


def as_overlap(overlap: Any) -> np.ndarray:
    """Returns the overlaps in float64; raises if one is not in (-1, 1)."""
    values = np.asarray(overlap, np.float64)
    if not (values.size and np.all(np.abs(values) < 1)):
        raise ValueError(f"overlap must be strictly between -1 and 1, got {values}.")
    return values


class Problem(NamedTuple):
    """Checked input of message passing, in float64 NumPy.

    Attributes:
      patterns: patterns times their labels -1 and 1, divided by sqrt(N), shape (P, N).
      references: reference weights of norm sqrt(N), shape (points, K, N), or None.
      overlaps: shape (points,), or None.
      shape: S, the leading axes of the results.
      num_units: K.
      contradictory: whether two patterns exclude each other.
    """

    patterns: np.ndarray
    references: np.ndarray | None
    overlaps: np.ndarray | None
    shape: tuple[int, ...]
    num_units: int
    contradictory: bool


def check_problem(
    x: ArrayLike,
    y: ArrayLike,
    num_units: int | None = None,
    reference: ArrayLike | None = None,
    overlap: ArrayLike | None = None,
) -> Problem:
    """Checks the arguments of `amp` and prepares them."""
    patterns = signed_patterns(x, y)
    if (reference is None) != (overlap is None):
        raise ValueError("reference and overlap must be given together, or neither.")
    if reference is None:
        num_units = 1 if num_units is None else num_units
        check_units(num_units)
        return Problem(patterns, None, None, (), num_units, contradictory(patterns))
    check_inputs(x, least=3)
    reference = np.asarray(reference, np.float64)
    if reference.ndim < 2 or reference.shape[-1] != patterns.shape[1]:
        raise ValueError(
            f"reference must have shape (..., K, {patterns.shape[1]}), got {reference.shape}."
        )
    check_directions(reference)
    if num_units not in (None, reference.shape[-2]):
        raise ValueError(f"num_units is {num_units}, but reference has shape {reference.shape}.")
    check_units(reference.shape[-2], "the number of units of reference")
    overlap = as_overlap(overlap)
    try:
        shape = np.broadcast_shapes(overlap.shape, reference.shape[:-2])
    except ValueError:
        raise ValueError(
            f"overlap must broadcast with the leading axes of reference, got shapes "
            f"{overlap.shape} and {reference.shape}."
        ) from None
    units = reference.shape[-2:]
    reference = reference / np.sqrt(np.mean(reference**2, axis=-1, keepdims=True))
    references = np.broadcast_to(reference, (*shape, *units)).reshape(-1, *units)
    overlaps = np.broadcast_to(overlap, shape).reshape(-1)
    return Problem(patterns, references, overlaps, shape, units[0], contradictory(patterns))


def signed_patterns(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Returns checked labels times patterns / sqrt(N); all belong to the class 1."""
    check_patterns(x, y)
    check_inputs(x)
    return signed(x, y) / np.sqrt(np.shape(x)[1]) + 0.0  # turns -0 into 0


def signed(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Returns labels times patterns; raises if a pattern is 0."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if not np.all(np.any(x != 0, axis=1)):
        raise ValueError("x must hold no pattern that is 0 everywhere: it has no class.")
    return y[:, None] * x


def contradictory(patterns: np.ndarray) -> bool:
    """Returns whether two signed patterns point in opposite directions.

    No weights classify both of them. Directions are compared in single precision, in which
    multiples of a pattern have the same direction.
    """
    patterns = patterns / np.max(np.abs(patterns), axis=1, keepdims=True)
    norms = np.linalg.norm(patterns, axis=1, keepdims=True)
    directions = (patterns / norms).astype(np.float32) + np.float32(0.0)  # turns -0 into 0
    seen = {row.tobytes() for row in directions}
    return any((np.float32(0.0) - row).tobytes() in seen for row in directions)
