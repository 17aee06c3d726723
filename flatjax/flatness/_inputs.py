"""Checks of the arguments of measures: parameters, keys, batches and grids.

Every measure reads its parameters by `measured` and `weights`: the leaves that it moves are real
numbers in at least float32. In half precision a perturbation below 2^-8 of a weight would be
rounded away, and the network would look flat. It would also look flat if a mask marked no weight,
which `measured` refuses. Errors name the argument and the remedy.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax import _checks, _masks, _vectors
from flatjax._batches import Batches, Data, repeatable
from flatjax._keys import as_key, is_typed
from flatjax._masks import Mask
from flatjax._precision import at_least_float32

__all__ = [
    "Batches",
    "Data",
    "check_grid",
    "check_unused_key",
    "is_real",
    "measured",
    "random_key",
    "repeatable",
    "weights",
    "zeros_like",
]


def measured(
    params: chex.ArrayTree, mask: Mask, name: str = "params", remedy: str = ""
) -> chex.ArrayTree:
    """Converts the weights that move to at least float32; other leaves are unchanged.

    Args:
      params: the parameters.
      mask: leaves marked False do not move.
      name: name of the argument, for error messages.
      remedy: a sentence that says what to do if no weight moves.

    Returns:
      A pytree like `params`.

    Raises:
      TypeError: no leaf has real numbers, or a leaf that moves is complex.
      ValueError: no weight moves.
    """
    moving = weights(params, mask, name)
    if not any(is_real(leaf) for leaf in jax.tree.leaves(params)):
        kinds = sorted({_checks.described(leaf) for leaf in jax.tree.leaves(params)})
        raise TypeError(
            f"{name} must be a pytree with weights, real floating-point arrays; got leaves "
            f"{', '.join(kinds) or 'none'}."
        )
    if not _vectors.size(moving):
        remedy = remedy or "Mark some of them in mask."
        raise ValueError(
            f"{name} must hold weights that move, got none: all are masked or empty. {remedy}"
        )
    return _masks.merge(jax.tree.map(at_least_float32, moving), params)


def weights(params: chex.ArrayTree, mask: Mask, name: str = "params") -> chex.ArrayTree:
    """Returns the leaves that a measure moves, and None for all other leaves.

    These are the leaves of real numbers that the mask marks True. Integers, bools and random keys
    never move.
    """
    moving = _masks.moving(params, mask)
    for path, leaf in jax.tree.leaves_with_path(moving):
        if jnp.iscomplexobj(leaf):
            raise TypeError(
                f"{name}{jax.tree_util.keystr(path)} must be real, got "
                f"{_checks.described(leaf)}: give real and imaginary part as separate leaves "
                "and join them in eval_fn, or mask the leaf."
            )
    return jax.tree.map(lambda leaf: leaf if is_real(leaf) else None, moving)


def is_real(leaf: Any) -> bool:
    """Whether a leaf has real floating-point numbers; this includes a Python float."""
    return jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.floating)


def zeros_like(params: chex.ArrayTree) -> chex.ArrayTree:
    """Returns a direction of zeros; random keys, which have no zero, are unchanged."""
    return jax.tree.map(lambda leaf: leaf if is_typed(leaf) else jnp.zeros_like(leaf), params)


def random_key(key: Any) -> chex.PRNGKey:
    """Returns a key unchanged, or makes a key of a seed, as in `flatjax.esgd`."""
    return as_key("key", key)


def check_unused_key(key: Any) -> None:
    """Raises unless this is a key, a seed or None, for measures that draw nothing."""
    if key is None:
        return
    try:
        as_key("key", key)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "key must be a random key, a seed or None: every measure is called with (params, "
            "batches, key, *state), also if it draws nothing. State, such as batch statistics, "
            f"comes after the key. {error}"
        ) from error


def check_grid(name: str, values: Any) -> np.ndarray:
    """Returns the values as an array; raises unless they are positive finite numbers."""
    array = np.atleast_1d(_checks.real_array(name, values))
    if array.ndim != 1 or not array.size or not (np.isfinite(array) & (array > 0)).all():
        raise ValueError(f"{name} must be a list of positive finite numbers, got {array}.")
    return array
