"""A check, before training starts, that an optimizer descends."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

_MOST_TRIES = 8  # an optimizer may not move at first (warmup, gradient accumulation)


def check_direction(
    optimizer: optax.GradientTransformation, params: optax.Params, sign: int, message: str
) -> None:
    """Raises if an optimizer moves any leaf the wrong way.

    The optimizer is tried on a weight 0 with gradient 1 in place of each leaf. This happens outside
    of the program that is being traced, and does not change it. An optimizer that cannot be tried
    this way (it needs a named axis or a loss, or is itself traced) passes.

    Args:
      optimizer: the optimizer.
      params: the parameters for which it will be used; shapes and dtypes are enough.
      sign: expected sign of an update where the gradient is positive.
      message: error message; the path of the leaf replaces `{path}`.

    Raises:
      ValueError: an update has the other sign.
    """
    try:
        with jax.ensure_compile_time_eval():
            moves = _first_moves(optimizer, params)
    except Exception:  # the optimizer needs more than this check passes; training will show errors
        return
    for path, move in jax.tree_util.tree_leaves_with_path(moves):
        if sign * move < 0:
            raise ValueError(message.format(path=jax.tree_util.keystr(path)))


def _first_moves(optimizer, params) -> Any:
    """Returns the first update that is not 0 everywhere, as Python numbers."""
    grads = jax.tree.map(lambda leaf: jnp.ones((1,) * len(leaf.shape), leaf.dtype), params)
    weights = jax.tree.map(jnp.zeros_like, grads)
    state = optimizer.init(weights)
    moves = weights
    for _ in range(_MOST_TRIES):
        updates, state = optimizer.update(grads, state, weights)
        moves = jax.tree.map(lambda update: float(jnp.sum(update.real)), updates)
        if any(jax.tree.leaves(moves)):
            break
    return moves
