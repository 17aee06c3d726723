r"""Changes the number of replicas during training without moving their center.

Place the replicas in order on a line of length 1. Each of y old replicas occupies a piece of length
1 / y. Each of y' new replicas takes the mean of the old ones on its own piece:

.. math:: w'_a = \sum_b M_{ab} \, w_b \tag{1}

.. math:: M_{ab} = y' \, \Big| \Big[ \tfrac{a}{y'}, \tfrac{a + 1}{y'} \Big)
          \cap \Big[ \tfrac{b}{y}, \tfrac{b + 1}{y} \Big) \Big| \tag{2}

Rows of M sum to 1 and columns to y' / y. Hence the mean over replicas of every array is kept, and
no number leaves the range of the old ones: second moments stay positive. From 2 to 4 replicas the
new ones are copies, from 4 to 2 they are means of pairs, and a single new one is the center.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from flatjax import _checks, _replicas
from flatjax._keys import is_typed
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
    r"""Changes the number of replicas: after a lost host, or with more devices.

    Each new replica is a weighted mean of its neighbours among the old ones,

    .. math:: w'_a = \sum_b M_{ab} w_b

    with the weights of eq. (2) of the module: 4 to 2 are means of pairs, 2 to 4 are copies. The
    same mean is taken of momenta, anchors, averages and all other arrays of the state that have a
    replica axis. The center of the replicas does not move and keeps its velocity, so its loss does
    not jump. The center of `diloco` (see `OuterPullState`), which the replicas share, does not
    change. Counts and schedules continue.

    Integers and bools are copied from the nearest old replica. Stacked random keys
    (`jax.random.key`) have no mean either. The new replica a gets
    `jax.random.fold_in(nearest_key, a)`, so that no two replicas draw the same numbers. Old-style
    keys (`jax.random.PRNGKey`) are integers here, and are copied.

    Merged replicas are closer together than the old ones. Copies stay equal until they see
    different batches or noise.

    Args:
      init: initialises the state of the *new* number of replicas: `tx.init`. It is only traced, to
        find the replica axis in each array of the state, and never run. If replicas have a named
        axis and their arrays are stacked outside, pass `jax.vmap(tx.init)`.
      state: the optimizer state.
      params: the parameters of all replicas, stacked. They may be part of a larger pytree with
        other stacked arrays (batch statistics), if `init` selects the parameters.
      num_replicas: y', the new number.
      replica_axis: the axis of `params` along which replicas are stacked.

    Returns:
      Parameters and state, in this order. To place them on a mesh, use `jax.device_put`, or
      `jax.jit(..., out_shardings=...)` of the call.

    Raises:
      ValueError: leaves of params disagree on the number of replicas, the state does not come from
        `init`, or one of its arrays mixes replicas (a preconditioner across them).

    Examples:
      >>> import jax.numpy as jnp, optax, flatjax
      >>> tx = flatjax.replicated_sgd(0.1, gamma=0.1, replica_axis=0)
      >>> params = jnp.array([[0.0], [1.0], [2.0], [5.0]])
      >>> params, state = flatjax.resize_replicas(tx.init, tx.init(params), params, 3)
      >>> params  # of mean 2, as before
      Array([[0.25],
             [1.5 ],
             [4.25]], dtype=float32)

    See Also:
      `stack_replicas` (the first stack), `unstack_replicas` (a list of networks).
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
        if jnp.ndim(leaf) == 0:  # a count, or a random key that a user put there
            return leaf
        axis = _replica_axis(name, jnp.shape(leaf), shapes.get(name), size, num_replicas)
        return leaf if axis is None else _mean_of_neighbours(leaf, weights, axis)

    return new_params, jax.tree_util.tree_map_with_path(resize, state)


def _weights_of(size: int, num_replicas: int) -> np.ndarray:
    """Computes M of eq. (2), of shape (y', y), from integers."""
    ends = lambda n, step: (step * np.arange(n), step * np.arange(1, n + 1))
    (start, end), (own_start, own_end) = ends(num_replicas, size), ends(size, num_replicas)
    overlap = np.minimum(end[:, None], own_end) - np.maximum(start[:, None], own_start)
    return np.maximum(overlap, 0) / size


def _mean_of_neighbours(leaf, weights, axis):
    """Computes eq. (1); integers are copied from the nearest, random keys are new."""
    leaf = jnp.asarray(leaf)  # without x64, NumPy's float64 becomes float32
    take = lambda b: jax.lax.index_in_dim(leaf, b, axis, keepdims=False)
    if is_typed(leaf):
        return jnp.stack([_fold_in(take(int(b)), a) for a, b in enumerate(weights.argmax(1))], axis)
    rows = []
    for row in weights:
        nearest = int(row.argmax())
        others = [b for b in np.flatnonzero(row) if b != nearest] if is_weight(leaf) else []
        # A sum of differences keeps equal replicas equal to the last bit.
        base = at_least_float32(take(nearest)) if others else take(nearest)
        for b in others:
            base = base + float(row[b]) * (take(b) - at_least_float32(take(nearest)))
        rows.append(base.astype(leaf.dtype))
    return jnp.stack(rows, axis)


def _fold_in(keys, number):
    """Folds a number into each key of an array."""
    fold_in = lambda key: jax.random.fold_in(key, number)
    return jax.vmap(fold_in)(keys.ravel()).reshape(keys.shape)


def _named(tree: chex.ArrayTree):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path), leaf.shape


def _replica_axis(name, shape, expected, size, num_replicas) -> int | None:
    """Returns the replica axis of an array in the state; None if it is shared."""
    if expected is None or len(expected) != len(shape):
        raise ValueError(
            f"state must come from init: state{name} has shape {shape}, and init gives {expected}."
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
