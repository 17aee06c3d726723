"""Pytrees as flat vectors, and normal noise for a pytree from a single draw."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from flatjax import _cpu


def size(tree: chex.ArrayTree) -> int:
    """Returns the number of weights in a pytree."""
    return sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(tree))


def unravel(vector: jax.Array, tree: chex.ArrayTree) -> chex.ArrayTree:
    """Cuts a vector into leaves with the shapes of a pytree."""
    treedef: Any
    leaves, treedef = jax.tree.flatten(tree)
    ends = np.cumsum([math.prod(np.shape(leaf)) for leaf in leaves])[:-1]
    parts = zip(jnp.split(vector, ends), leaves, strict=True)
    return treedef.unflatten([part.reshape(np.shape(leaf)) for part, leaf in parts])


def normal_like(
    key: chex.PRNGKey,
    tree: chex.ArrayTree,
    *,
    scale: chex.Numeric | None = None,
    dtype: DTypeLike = float,
) -> chex.ArrayTree:
    """Draws normal noise with the shapes of a pytree.

    All leaves share a single draw, because XLA takes half a second to compile each draw on a CPU.
    The numbers therefore differ from separate draws for each leaf.

    Args:
      key: random key.
      tree: a pytree with the shapes of the noise.
      scale: standard deviation, 1 by default.
      dtype: dtype of the numbers; the dtypes of the leaves do not matter.

    Returns:
      A pytree like `tree`.
    """
    if not jax.tree.leaves(tree):
        return tree
    numbers = _cpu.normal(key, size(tree), dtype)
    return unravel(numbers if scale is None else scale * numbers, tree)


def unit(tree: chex.ArrayTree) -> tuple[chex.ArrayTree, jax.Array]:
    """Returns (tree / norm, norm) in at least float32; zeros stay zeros."""
    norm = optax.tree.norm(tree)
    return optax.tree.scale(jnp.where(norm == 0, 0.0, 1 / norm), tree), norm
