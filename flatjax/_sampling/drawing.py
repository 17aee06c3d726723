"""Random numbers for moves of chains, and weights at a given overlap with others."""

import math
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr


def draw(key: chex.PRNGKey, shape: tuple[int, ...], num: int) -> tuple[jax.Array, jax.Array]:
    """Draws normal and uniform numbers together: each draw compiles slowly.

    Args:
      key: random key.
      shape: shape of the normal numbers.
      num: number of uniform numbers.

    Returns:
      The normal numbers, and the uniform ones, shape (num,).
    """
    size = math.prod(shape)
    numbers = jax.random.normal(key, (size + num,))
    return numbers[:size].reshape(shape), ndtr(numbers[size:])


def at_overlap(
    weights: jax.Array, noise: jax.Array, overlap: jax.Array, axis: int | Sequence[int] | None
) -> jax.Array:
    r"""Turns noise into random units of equal norm, at an overlap with given ones.

    .. math:: w' = p \, w + \sqrt{1 - p^2} \, \lVert w \rVert \, u,

    Here u is the direction of the part of the noise that is orthogonal to w.

    Args:
      weights: w.
      noise: normal noise, of the shape of w.
      overlap: p.
      axis: axes along which the weights of a unit run; None for all axes.

    Returns:
      w'; NaN for units with a single weight, or with zero weights.
    """

    def unit(x):
        return x / jnp.sqrt(jnp.sum(x * x, axis=axis, keepdims=True))

    along = unit(weights)
    across = unit(noise - along * jnp.sum(along * noise, axis=axis, keepdims=True))
    norm = jnp.sqrt(jnp.sum(weights * weights, axis=axis, keepdims=True))
    return overlap * weights + jnp.sqrt(1 - overlap**2) * norm * across
