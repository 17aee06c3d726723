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
