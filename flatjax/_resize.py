r"""Another number of replicas in the middle of training: merged or forked, the center kept.

Replicas lie side by side on a line of length 1, each of y on a piece of length 1 / y. A new one, of
y', takes the mean of what lies on its piece:

.. math::
  w'_a &= \sum_b M_{ab} \, w_b && (1) \\
  M_{ab} &= y' \, \Big| \Big[ \tfrac{a}{y'}, \tfrac{a + 1}{y'} \Big)
            \cap \Big[ \tfrac{b}{y}, \tfrac{b + 1}{y} \Big) \Big| && (2)

Rows of M sum to 1 and columns to y' / y. Hence the mean over replicas of every array is kept, and
no number leaves the range of the old ones: second moments stay positive. 2 to 4 replicas are
copies, 4 to 2 means of pairs, and anything to 1 the center.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from flatjax import _checks, _replicas
from flatjax._masks import is_weight
from flatjax._precision import at_least_float32


def resize_replicas(
    init: Callable[[optax.Params], optax.OptState],
    state: optax.OptState,
    params: optax.Params,
    num_replicas: int,
    *,
    replica_axis: int = 0,
) -> tuple[optax.Params, optax.OptState]:
    r"""Goes on with another number of replicas: after a lost host, or with more devices.

    Each new replica is a weighted mean of its neighbours among the old ones,

    .. math:: w'_a = \sum_b M_{ab} w_b

    with the weights of eq. (2) of the module: 4 to 2 are means of pairs, 2 to 4 are copies. The
    same mean is taken of momenta, anchors, averages and all other arrays of the state that have an
    axis of replicas. The center of the replicas does not move, so that its loss does not jump, and
    neither does its velocity. The center of `diloco` (see `OuterPullState`) is shared by the
    replicas, and stays as it is. Counts and schedules continue.

    Merged replicas are closer together than before. Copies stay equal until they see other
    batches or noise.

    Args:
      init: initialises the state of the *new* number of replicas: `tx.init`. It is never run, only
        traced, to find the axis of replicas in each array of the state. Where replicas have a named
        axis, and the arrays of all of them are stacked outside, `jax.vmap(tx.init)`.
      state: the optimizer state.
      params: the parameters of all replicas, stacked. Other stacked arrays may be with them, if
        `init` takes the parameters out: batch statistics.
      num_replicas: y', the new number.
      replica_axis: the axis of `params` along which replicas are stacked.

    Returns:
      Parameters and state, in this order. On a mesh, put them where they belong:
      `jax.device_put`, or `jax.jit(..., out_shardings=...)` of the call.

    Raises:
      ValueError: leaves of params disagree on the number of replicas, or the state is not one of
        `init`, or an array of it mixes replicas (a preconditioner across them).

    Examples:
      >>> import jax.numpy as jnp, optax, flatjax
      >>> tx = flatjax.replicated_sgd(0.1, gamma=0.1, replica_axis=0)
      >>> params = jnp.array([[0.0], [1.0], [2.0], [5.0]])
      >>> params, state = flatjax.resize_replicas(tx.init, tx.init(params), params, 3)
      >>> params  # of mean 2, as before
      Array([[0.25],
             [1.5 ],
             [4.25]], dtype=float32)
    """
    _checks.check_count("num_replicas", num_replicas)
    size = _replicas.stacked_size(params, replica_axis)
    if size in (0, num_replicas):
        return params, state
    weights = _weights_of(size, num_replicas)
    new_params = jax.tree.map(lambda w: _mean_of_neighbours(w, weights, replica_axis), params)
    expected = jax.eval_shape(init, jax.eval_shape(lambda: new_params))
    shapes = dict(_named(expected))

    def resize(path, leaf):
        name = jax.tree_util.keystr(path)
        if jnp.ndim(leaf) == 0:  # a count or a key, which may have been put there
            return leaf
        axis = _replica_axis(name, jnp.shape(leaf), shapes.get(name), size, num_replicas)
        return leaf if axis is None else _mean_of_neighbours(leaf, weights, axis)

    return new_params, jax.tree_util.tree_map_with_path(resize, state)


def _weights_of(size: int, num_replicas: int) -> np.ndarray:
    """M of eq. (2), (y', y), from integers."""
    ends = lambda n, step: (step * np.arange(n), step * np.arange(1, n + 1))
    (start, end), (own_start, own_end) = ends(num_replicas, size), ends(size, num_replicas)
    overlap = np.minimum(end[:, None], own_end) - np.maximum(start[:, None], own_start)
    return np.maximum(overlap, 0) / size


def _mean_of_neighbours(leaf, weights, axis):
    """Eq. (1) for one array; arrays that are not floats are copied from the nearest replica."""
    take = lambda b: jax.lax.index_in_dim(leaf, b, axis, keepdims=False)
    rows = []
    for row in weights:
        nearest = int(row.argmax())
        others = [b for b in np.flatnonzero(row) if b != nearest] if is_weight(leaf) else []
        # As differences, so that replicas that are equal stay so to the last bit.
        base = at_least_float32(take(nearest)) if others else take(nearest)
        for b in others:
            base = base + float(row[b]) * (take(b) - at_least_float32(take(nearest)))
        rows.append(base.astype(leaf.dtype))
    return jnp.stack(rows, axis)


def _named(tree: chex.ArrayTree):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path), leaf.shape


def _replica_axis(name, shape, expected, size, num_replicas) -> int | None:
    """The axis of replicas in an array of the state; None if they share it."""
    if expected is None or len(expected) != len(shape):
        raise ValueError(
            f"state must be one of init: state{name} has shape {shape}, and init gives {expected}."
        )
    axes = [i for i, sizes in enumerate(zip(shape, expected, strict=True)) if len(set(sizes)) > 1]
    if not axes:
        return None
    if len(axes) > 1 or (shape[axes[0]], expected[axes[0]]) != (size, num_replicas):
        raise ValueError(
            f"state must keep replicas apart: state{name} has shape {shape} with {size} replicas, "
            f"and {expected} with {num_replicas}."
        )
    return axes[0]
