"""Lagrange multipliers of weights on a sphere, at an overlap with a reference."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

LARGEST_LOG = 100.0  # range of log(multiplier - its lower bound)
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
    r"""Returns the Gaussian that satisfies the constraints on average.

    It is :math:`e^{-(A + \lambda) w^2/2 + (B + \gamma \tilde w) w}` with

    .. math::
      v = \frac{1}{\lambda + A}, \quad m = v (B + \gamma \tilde w), \quad
      \sum_i (v_i + m_i^2) = N, \quad \sum_i m_i \tilde w_i = p N

    in each unit. Gamma is linear in the overlap, and lambda is found by Newton's method.

    Args:
      precision: A, of any sign, shape (K, N).
      field: B, shape (K, N).
      reference: reference weights of norm sqrt(N), shape (K, N), or None.
      overlap: p.
      log_excess: start of the iteration, shape (K,).

    Returns:
      The Gaussian.
    """
    lowest = jnp.min(precision, axis=1, keepdims=True)

    def weights(log_excess):
        # Not 1 / (lambda + A): this loses digits if lambda is close to its bound.
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

    Newton's method runs on log(square), which is nearly linear in t. If a step leaves the interval
    that contains the solution, bisection replaces it.

    Args:
      square: maps logarithms t of multipliers to mean squares of weights, both (K,).
      start: first guess, shape (K,).

    Returns:
      t, shape (K,).
    """

    def go_on(state):
        steps, _, _, _, change = state
        return (steps < MAX_STEPS) & jnp.any(jnp.abs(change) > 1e-8)  # the next: 1e-16

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
