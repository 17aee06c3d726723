"""Distances and norms of half-precision weights, in at least float32."""

import chex
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike


def at_least_float32(leaf: ArrayLike) -> jax.Array:
    """Converts an array or number to float32, unless it has more digits."""
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def norm(tree: chex.ArrayTree, *, squared: bool = False) -> jax.Array:
    """Computes the Euclidean norm of a pytree, in at least float32."""
    return optax.tree.norm(jax.tree.map(at_least_float32, tree), squared=squared)


def difference(tree: chex.ArrayTree, other: chex.ArrayTree) -> chex.ArrayTree:
    """Computes `tree - other`, in at least float32."""
    return jax.tree.map(lambda a, b: at_least_float32(a) - at_least_float32(b), tree, other)
