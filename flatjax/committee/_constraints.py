"""Weights on a sphere, at an overlap with a reference: Lagrange multipliers, checks of input."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from flatjax import _checks

LARGEST_LOG = 100.0  # of a multiplier, less its lower bound
MAX_STEPS = 200


class Gaussian(NamedTuple):
    """Independent Gaussian weights that satisfy the constraints on average.

    Attributes:
      mean: m, shape (K, N).
      variance: v, shape (K, N).
      log_excess: logarithm of the excess of lambda above its lower bound, shape (K,).
      norm_multiplier: lambda, shape (K,).
      overlap_multiplier: gamma, shape (K,); 0 without a reference.
    """

    mean: jax.Array
    variance: jax.Array
    log_excess: jax.Array
    norm_multiplier: jax.Array
    overlap_multiplier: jax.Array


def constrained(
    precision: jax.Array,
    field: jax.Array,
    reference: jax.Array | None,
    overlap: jax.Array | None,
    log_excess: jax.Array,
) -> Gaussian:
    r"""The Gaussian :math:`e^{-(A + \lambda) w^2/2 + (B + \gamma \tilde w) w}` of the constraints.

    .. math::
      v = \frac{1}{\lambda + A}, \quad m = v (B + \gamma \tilde w), \quad
      \sum_i (v_i + m_i^2) = N, \quad \sum_i m_i \tilde w_i = p N

    in each unit. Gamma is linear in the overlap; lambda is found by Newton's method.

    Args:
      precision: A, of any sign, shape (K, N).
      field: B, shape (K, N).
      reference: of norm sqrt(N), shape (K, N), or None.
      overlap: p.
      log_excess: where to start, shape (K,).

    Returns:
      The Gaussian.
    """
    lowest = jnp.min(precision, axis=1, keepdims=True)

    def weights(log_excess):
        # Not 1 / (lambda + A), which loses digits where lambda is close to its bound.
        v = 1 / (precision - lowest + jnp.exp(log_excess)[:, None])
        if reference is None:
            return v * field, v, jnp.zeros_like(log_excess)
        missing = overlap * precision.shape[1] - jnp.sum(reference * field * v, axis=1)
        gamma = missing / jnp.sum(reference**2 * v, axis=1)
        return v * (field + gamma[:, None] * reference), v, gamma

    def square(log_excess):
        m, v, _ = weights(log_excess)
        return jnp.mean(v + m**2, axis=1)

    log_excess = solve_norm(square, log_excess)
    m, v, gamma = weights(log_excess)
    return Gaussian(m, v, log_excess, jnp.exp(log_excess) - lowest[:, 0], gamma)


def solve_norm(square: Callable[[jax.Array], jax.Array], start: jax.Array) -> jax.Array:
    """Solves square(t) = 1 in each unit, for a decreasing function of t.

    Newton's method for its logarithm, which is nearly linear in t; bisection where that leaves the
    interval in which the solution is known to be.

    Args:
      square: mean squares of weights, of the logarithm of a multiplier, both of shape (K,).
      start: first guess, shape (K,).

    Returns:
      t, shape (K,).
    """

    def go_on(state):
        steps, _, _, _, change = state
        return (steps < MAX_STEPS) & jnp.any(jnp.abs(change) > 1e-8)  # the next would be 1e-16

    def advance(state):
        steps, t, low, high, _ = state
        value, slope = jax.jvp(lambda t: jnp.log(square(t)), (t,), (jnp.ones_like(t),))
        low, high = jnp.where(value > 0, t, low), jnp.where(value > 0, high, t)
        newton = t - value / slope
        inside = (newton >= low) & (newton <= high)
        new = jnp.where(inside, newton, (low + high) / 2)
        return steps + 1, new, low, high, new - t

    bound = jnp.full_like(start, LARGEST_LOG)
    first = (0, jnp.clip(start, -bound + 1, bound - 1), -bound, bound, jnp.ones_like(start))
    return jax.lax.while_loop(go_on, advance, first)[1]


class Problem(NamedTuple):
    """Checked input of message passing, in float64 NumPy.

    Attributes:
      patterns: y x / sqrt(N), shape (P, N): those of the class -1 are turned round.
      references: of norm sqrt(N), shape (R, K, N), R being all points; or None.
      overlaps: shape (R,), or None.
      shape: S, that of the results' leading axes.
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
    """Raises unless there are patterns, labels, and both or neither of reference and overlap."""
    patterns = signed_patterns(x, y)
    if (reference is None) != (overlap is None):
        raise ValueError("reference and overlap must be given together, or neither.")
    if reference is None:
        num_units = 1 if num_units is None else num_units
        check_units(num_units)
        return Problem(patterns, None, None, (), num_units, _contradictory(patterns))
    reference = np.asarray(reference, np.float64)
    if reference.ndim < 2 or reference.shape[-1] != patterns.shape[1]:
        raise ValueError(
            f"reference must have shape (..., K, {patterns.shape[1]}), got {reference.shape}."
        )
    if not np.all(np.isfinite(reference)) or not np.all(np.any(reference != 0, axis=-1)):
        raise ValueError("reference must hold finite units other than 0, got others.")
    if num_units not in (None, reference.shape[-2]):
        raise ValueError(f"num_units is {num_units}, but reference has shape {reference.shape}.")
    check_units(reference.shape[-2], "the number of units of reference")
    overlap = np.asarray(overlap, np.float64)
    if not (overlap.size and np.all(np.abs(overlap) < 1)):
        raise ValueError(f"overlap must be strictly between -1 and 1, got {overlap}.")
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
    return Problem(patterns, references, overlaps, shape, units[0], _contradictory(patterns))


def check_units(num_units: int, name: str = "num_units") -> None:
    """Raises unless there can be a majority."""
    _checks.check_count(name, num_units)
    if num_units % 2 == 0:
        raise ValueError(f"{name} must be odd, got {num_units}.")


def signed_patterns(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Patterns y x / sqrt(N), which a committee should all put into the class 1; or an error."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"x must have shape (P, N), got {x.shape}.")
    if not np.all(np.isfinite(x)):
        raise ValueError("x must be finite, got NaN or infinity.")
    if not np.all(np.any(x != 0, axis=1)):
        raise ValueError("x must hold no pattern that is 0 everywhere: it has no class.")
    if y.shape != x.shape[:1]:
        raise ValueError(f"y must have shape {x.shape[:1]}, as x has patterns, got {y.shape}.")
    if not np.all(np.abs(y) == 1):
        raise ValueError("y must hold labels -1 and 1, got others.")
    return y[:, None] * x / np.sqrt(x.shape[1]) + 0.0  # turns -0 into 0


def _contradictory(patterns):
    """Whether a pattern comes with both labels, or its negative with the same."""
    seen = {row.tobytes() for row in patterns}
    return any((0.0 - row).tobytes() in seen for row in patterns)
