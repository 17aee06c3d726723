"""Masks: the leaves of a pytree on which a transformation acts.

Transformations act only on *weights*: leaves of real or complex floats. Integers, bools and random
keys (counters, the state of a dropout layer) are never changed, whatever the mask.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from flatjax import _checks

Mask: TypeAlias = chex.ArrayTree | Callable[[optax.Params], chex.ArrayTree] | None


def is_weight(leaf: Any) -> bool:
    """Whether a leaf is a real or complex float, or an array of them."""
    if not hasattr(leaf, "dtype"):
        return isinstance(leaf, float | complex)
    return jax.dtypes.issubdtype(leaf.dtype, np.inexact)


def map_masked(
    fn: Callable[..., Any], mask: Mask, params: optax.Params, first: Any, *rest: Any
) -> Any:
    """Applies fn to the leaves that the mask marks True; keeps other leaves.

    Args:
      fn: a function of one leaf of `first` and of one leaf of each tree in `rest`.
      mask: pytree of bools, or a function of `params` that returns one; None marks all. One bool
        may mark a whole subtree, as in `optax.masked`.
      params: argument of the mask, if the mask is a function.
      first: a pytree like `params`.
      *rest: further pytrees like `params`.

    Returns:
      A pytree like `first`.
    """
    if mask is None:
        return jax.tree.map(fn, first, *rest)
    mask = mask(params) if _is_function(mask) else mask
    masked_fn = lambda is_marked, x, *xs: jax.tree.map(fn, x, *xs) if is_marked else x
    return jax.tree.map(masked_fn, mask, first, *rest)


def _is_function(mask) -> bool:
    """Whether to call a mask; not a callable pytree such as an Equinox module."""
    leaves = jax.tree.leaves(mask)
    return bool(leaves) and all(callable(leaf) for leaf in leaves)


def moving(params: chex.ArrayTree, mask: Mask) -> chex.ArrayTree:
    """Returns the weights that the mask marks True, and None for all other leaves."""
    fixed = jax.tree.map(lambda w: False, params)
    moves = map_masked(lambda _, w: is_weight(w), mask, params, fixed, params)
    return jax.tree.map(lambda is_moving, w: w if is_moving else None, moves, params)


def of_weights(
    init_fn: optax.TransformInitFn, update_fn: optax.TransformUpdateExtraArgsFn
) -> optax.GradientTransformationExtraArgs:
    """Wraps a transformation so that it sees only weights; other updates pass.

    In its state, an `optax.MaskedNode` replaces each other leaf, as in `optax.masked`.

    Args:
      init_fn: `init` of the transformation.
      update_fn: `update` of the transformation. It may take the extra argument `grad_fn`, a
        function of the parameters. It is called with params that are not None and with updates of
        the same structure.
    """

    def init(params):
        return init_fn(_weights(params, params))

    def update(updates, state, params=None, **extra_args):
        _checks.check_updates(updates, params)
        if extra_args.get("grad_fn") is not None:
            grad_fn = extra_args["grad_fn"]
            gradient = lambda weights, i: _weights(grad_fn(_complete(weights, params), i), params)
            extra_args["grad_fn"] = gradient
        weights = _weights(params, params)
        new, state = update_fn(_weights(updates, params), state, weights, **extra_args)
        return _complete(new, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _weights(tree, params):
    """Replaces the leaves of a tree that are no weights in `params` by masked nodes."""
    as_array = lambda x: x if hasattr(x, "dtype") else jnp.asarray(x, jnp.result_type(x))
    keep = lambda w, x: as_array(x) if is_weight(w) else optax.MaskedNode()
    return jax.tree.map(keep, params, tree)


def _complete(weights, tree):
    """Inverts `_weights`: replaces the masked nodes by the leaves of `tree`."""
    is_masked = lambda node: isinstance(node, optax.MaskedNode)
    return jax.tree.map(lambda w, x: x if is_masked(w) else w, weights, tree, is_leaf=is_masked)


def map_moving(
    fn: Callable[[jax.Array, jax.Array], jax.Array], params: chex.ArrayTree, moves: chex.ArrayTree
) -> chex.ArrayTree:
    """Replaces w by fn(w, m), in the dtype of w, where `moves` has a leaf m."""
    new = lambda m, w: w if m is None else fn(w, m).astype(w.dtype)
    return jax.tree.map(new, moves, params, is_leaf=_is_none)


def merge(weights: chex.ArrayTree, params: chex.ArrayTree) -> chex.ArrayTree:
    """Replaces leaves of `params` by the leaves of `weights` that are not None."""
    return jax.tree.map(lambda new, w: w if new is None else new, weights, params, is_leaf=_is_none)


def _is_none(leaf: Any) -> bool:
    return leaf is None
