"""Means, distances and norms of half-precision weights, which are lost in half precision."""

import chex
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike


def at_least_float32(leaf: ArrayLike) -> jax.Array:
    """The array, or Python number, in float32; in its own dtype where that has more digits."""
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def norm(tree: chex.ArrayTree, *, squared: bool = False) -> jax.Array:
    """The Euclidean norm of a pytree, in at least float32."""
    return optax.tree.norm(jax.tree.map(at_least_float32, tree), squared=squared)


def difference(tree: chex.ArrayTree, other: chex.ArrayTree) -> chex.ArrayTree:
    """`tree - other`, in at least float32."""
    return jax.tree.map(lambda a, b: at_least_float32(a) - at_least_float32(b), tree, other)
