"""Masks: which leaves of a pytree something acts on."""

from collections.abc import Callable
from typing import Any, TypeAlias

import chex
import jax
import optax

Mask: TypeAlias = chex.ArrayTree | Callable[[optax.Params], chex.ArrayTree] | None


def map_masked(
    fn: Callable[..., Any], mask: Mask, params: optax.Params, first: Any, *rest: Any
) -> Any:
    """Applies fn to the leaves that the mask marks True; leaves of `first` pass elsewhere.

    Args:
      fn: a function of one leaf of `first` and of each tree of `rest`.
      mask: pytree of bools, or a function of `params` that returns one; None marks all. A bool may
        stand for a whole subtree, as in `optax.masked`.
      params: what a mask that is a function is called with.
      first: a pytree like `params`.
      *rest: further pytrees like it.

    Returns:
      A pytree like `first`.
    """
    if mask is None:
        return jax.tree.map(fn, first, *rest)
    mask = mask(params) if callable(mask) else mask
    masked_fn = lambda is_marked, x, *xs: jax.tree.map(fn, x, *xs) if is_marked else x
    return jax.tree.map(masked_fn, mask, first, *rest)


def moving(params: chex.ArrayTree, mask: Mask) -> chex.ArrayTree:
    """The leaves that the mask marks True; in place of the others None, a pytree of no leaves."""
    if mask is None:
        return params
    fixed = jax.tree.map(lambda w: False, params)
    moves = map_masked(lambda w: True, mask, params, fixed)
    return jax.tree.map(lambda is_moving, w: w if is_moving else None, moves, params)


def map_moving(
    fn: Callable[[jax.Array, jax.Array], jax.Array], params: chex.ArrayTree, moves: chex.ArrayTree
) -> chex.ArrayTree:
    """`params` with w replaced by fn(w, m), in the dtype of w, where `moves` has a leaf m."""
    new = lambda m, w: w if m is None else fn(w, m).astype(w.dtype)
    return jax.tree.map(new, moves, params, is_leaf=_is_none)


def merge(weights: chex.ArrayTree, params: chex.ArrayTree) -> chex.ArrayTree:
    """`params` with the leaves of `weights` in place of its own, where these are not None."""
    return jax.tree.map(lambda new, w: w if new is None else new, weights, params, is_leaf=_is_none)


def _is_none(leaf: Any) -> bool:
    return leaf is None
