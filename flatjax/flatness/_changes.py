"""Rises of the evaluated quantities when weights are replaced."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from flatjax import _masks
from flatjax._evaluation import EvalFn, check_eval_fn, evaluate
from flatjax._masks import Mask
from flatjax.flatness import _inputs

# A function (weights that may change, one setting) -> new weights.
Change = Callable[[chex.ArrayTree, Any], chex.ArrayTree]
REMEDY = "By default leaves with fewer than two axes are not changed; mask=True changes all."


class Changes(NamedTuple):
    """The effect of G changes of the weights.

    Attributes:
      rise: {name: value with the new weights minus value with the old ones, shape (G,)}.
      reference: {name: value with the old weights, scalar}.
      distance: norm of the change divided by the norm of the weights that may change, shape (G,).
    """

    rise: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    distance: np.ndarray


def matrices(params: chex.ArrayTree) -> chex.ArrayTree:
    """Marks matrices and kernels: leaves with two or more axes.

    Examples:
      >>> matrices({"kernel": np.ones((2, 3)), "bias": np.ones(3)})
      {'bias': False, 'kernel': True}
    """
    return jax.tree.map(lambda leaf: np.ndim(leaf) >= 2, params)


def make_changes(eval_fn: EvalFn, change: Change, mask: Mask) -> Callable[..., Changes]:
    """Makes a function that measures changes, for all settings and solutions.

    Args:
      eval_fn: see `flatjax.evaluate`.
      change: function that makes the new weights; the setting is traced.
      mask: leaves marked False are not changed; None for `matrices`.

    Returns:
      `changes(params, batches, state, settings) -> Changes`, with G settings. `settings` may also
      be a function of the weights that may change.

    Raises:
      TypeError: `eval_fn` is no function.
      ValueError: (when called) there are no batches, `batches` is an iterator, or no weights may
        change.
    """
    check_eval_fn(eval_fn)
    mask = matrices if mask is None else mask
    eval_fn = jax.jit(eval_fn)

    @jax.jit
    def changed(params, setting):
        weights = _inputs.weights(params, mask)
        new = change(weights, setting)
        distance = optax.tree.norm(optax.tree.sub(new, weights)) / optax.tree.norm(weights)
        return _masks.merge(new, params), distance

    def values(params, data, state):
        means = evaluate(eval_fn, params, data, *state)
        return {name: np.asarray(mean, dtype=float) for name, mean in means.items()}

    def changes(params, batches, state, settings: Sequence[Any] | Callable[..., Sequence[Any]]):
        params, data = _inputs.measured(params, mask, remedy=REMEDY), _inputs.repeatable(batches)
        weights = _inputs.weights(params, mask)
        reference = values(params, data, state)
        found, distances = [], []
        for setting in settings(weights) if callable(settings) else settings:
            new, distance = changed(params, setting)
            found.append(values(new, data, state))
            distances.append(float(distance))
        rise = {
            name: np.stack([one[name] for one in found]) - reference[name] for name in reference
        }
        return Changes(rise, reference, np.array(distances))

    return changes


def magnitudes(weights: chex.ArrayTree) -> jax.Array:
    """Returns the absolute values of all weights as a vector."""
    return jnp.concatenate([jnp.abs(leaf).ravel() for leaf in jax.tree.leaves(weights)])
