"""Whether an optimizer descends, tried on a few numbers before training starts."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

_MOST_TRIES = 8  # of an optimizer that does not move at first: a warmup, an accumulation


def check_direction(
    optimizer: optax.GradientTransformation, params: optax.Params, sign: int, message: str
) -> None:
    """Raises if an optimizer moves any leaf the wrong way.

    It is tried on a weight 0 with gradient 1 in place of each leaf, outside of the program that is
    being traced, which it leaves as it is. An optimizer that cannot be tried so (it asks for a
    named axis, for a loss, or is itself traced) passes.

    Args:
      optimizer: the optimizer.
      params: what it will be used for; shapes and dtypes are enough.
      sign: of an update, where the gradient is positive.
      message: of the error; the path of the leaf is put in place of `{path}`.

    Raises:
      ValueError: an update has the other sign.
    """
    try:
        with jax.ensure_compile_time_eval():
            moves = _first_moves(optimizer, params)
    except Exception:  # whatever it asks for: training itself will tell
        return
    for path, move in jax.tree_util.tree_leaves_with_path(moves):
        if sign * move < 0:
            raise ValueError(message.format(path=jax.tree_util.keystr(path)))


def _first_moves(optimizer, params) -> Any:
    """The first update that is not 0 everywhere, as Python numbers."""
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
