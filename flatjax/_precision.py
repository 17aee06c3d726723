"""Means, distances and norms of half-precision weights, which are lost in half precision."""

import chex
import jax
import jax.numpy as jnp
import optax


def at_least_float32(leaf: jax.Array) -> jax.Array:
    """The array in float32, or as it is where it has more digits."""
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def norm(tree: chex.ArrayTree, *, squared: bool = False) -> jax.Array:
    """The Euclidean norm of a pytree, in at least float32."""
    return optax.tree.norm(jax.tree.map(at_least_float32, tree), squared=squared)


def difference(tree: chex.ArrayTree, other: chex.ArrayTree) -> chex.ArrayTree:
    """`tree - other`, in at least float32."""
    return jax.tree.map(lambda a, b: at_least_float32(a) - at_least_float32(b), tree, other)
