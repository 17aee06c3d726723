"""The center of the replicas, and the distance of the replicas from it."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from flatjax import _checks, _masks
from flatjax._keys import is_typed
from flatjax._masks import Mask
from flatjax._precision import at_least_float32
from flatjax._replicas import stacked_size


def leaf_center(
    leaf: jax.Array, *, axis_name: str | None = None, replica_axis: int | None = None
) -> jax.Array:
    """Averages an array over replicas, in at least float32; stacks keep size 1."""
    center = at_least_float32(leaf)
    if replica_axis is not None:
        center = jnp.mean(center, axis=replica_axis, keepdims=True)
    if axis_name is not None:
        center = jax.lax.pmean(center, axis_name)
    return center


def mean_over_replicas(
    value: chex.Numeric, *, axis_name: str | None = None, replica_axis: int | None = None
) -> jax.Array:
    """Averages a scalar over replicas; stacked replicas pass a stack of scalars."""
    value = at_least_float32(value)  # in float16 a sum over named replicas overflows at 65504
    mean = jnp.mean(value) if replica_axis is not None else value
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)


def replica_center(
    tree: chex.ArrayTree,
    *,
    axis_name: str | None = None,
    replica_axis: int | None = None,
    keepdims: bool = False,
) -> chex.ArrayTree:
    r"""Computes the center of the replicas, :math:`\bar w = \frac{1}{y} \sum_a w_a`.

    Args:
      tree: the replicas' parameters, or any pytree with one array per replica and leaf.
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread.
      replica_axis: axis of the leaves along which replicas are stacked.
      keepdims: keep the stacked axis with size 1, so that the center broadcasts against `tree`.

    Returns:
      A pytree like one replica (or like `tree` with a replica axis of size 1), in the dtypes of
      `tree`. The mean of floats is computed in at least float32. The mean of integers and bools is
      exact and rounded down. Random keys have no mean: the keys of the first replica are returned.

    Raises:
      ValueError: neither `axis_name` nor `replica_axis` is given, or the leaves disagree on the
        number of replicas.

    Examples:
      >>> import jax.numpy as jnp, flatjax
      >>> flatjax.replica_center({"w": jnp.array([[0.0, 1.0], [2.0, 5.0]])}, replica_axis=0)
      {'w': Array([1., 3.], dtype=float32)}

    See Also:
      `eval_params` (also for anchors and averages), `replica_distance` (how far replicas are from
      it), `lora.center` (for low-rank factors).
    """
    _checks.check_replica_placement(axis_name, replica_axis)
    if replica_axis is not None:
        stacked_size(tree, replica_axis, "tree")

    where: dict[str, Any] = {"axis_name": axis_name, "replica_axis": replica_axis}

    def center(leaf):
        leaf = jnp.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            mean = leaf_center(leaf, **where).astype(leaf.dtype)
        elif is_typed(leaf):
            mean = _first(leaf, **where)
        else:
            mean = _whole_mean(leaf, **where)
        drop = replica_axis is not None and not keepdims
        return jnp.squeeze(mean, replica_axis) if drop else mean

    return jax.tree.map(center, tree)


def _whole_mean(leaf, axis_name, replica_axis):
    """Averages integers exactly, rounded down.

    The sum of the integers may overflow. With quotients q_a and remainders r_a of w_a / y, the
    mean is sum_a q_a + floor(sum_a r_a / y). The first sum may wrap around without harm, because
    the mean itself fits.
    """
    size = 1 if replica_axis is None else leaf.shape[replica_axis]
    size *= 1 if axis_name is None else jax.lax.axis_size(axis_name)
    is_wide = leaf.dtype.itemsize >= 4
    is_unsigned = jnp.issubdtype(leaf.dtype, jnp.unsignedinteger)
    # In 8 bits, y and the sum of the remainders may not fit.
    whole = leaf if is_wide else leaf.astype(jnp.uint32 if is_unsigned else jnp.int32)

    def total(numbers):
        if replica_axis is not None:
            numbers = jnp.sum(numbers, replica_axis, keepdims=True)
        return numbers if axis_name is None else jax.lax.psum(numbers, axis_name)

    mean = total(whole // size) + total(whole % size) // size
    return mean.astype(leaf.dtype)


def _first(keys, axis_name, replica_axis):
    """The keys of the first replica."""
    if replica_axis is not None:
        keys = jax.lax.slice_in_dim(keys, 0, 1, axis=replica_axis)
    if axis_name is None:
        return keys
    numbers, impl = jax.random.key_data(keys), jax.random.key_impl(keys)
    is_first = jax.lax.axis_index(axis_name) == 0
    numbers = jax.lax.psum(jnp.where(is_first, numbers, 0), axis_name)
    return jax.random.wrap_key_data(numbers, impl=impl)


def replica_distance(
    params: chex.ArrayTree,
    *,
    axis_name: str | None = None,
    replica_axis: int | None = None,
    mask: Mask = None,
) -> jax.Array:
    r"""Computes the mean squared distance of the replicas to their center.

    .. math:: \langle \lVert w_a - \bar w \rVert^2 \rangle_a

    Args:
      params: the replicas' parameters. Only real and complex floats count.
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread.
      replica_axis: axis of the leaves along which replicas are stacked.
      mask: pytree of bools (or a function of params returning one); leaves marked False do not
        count.

    Returns:
      A scalar in at least float32, the same on every replica.

    Raises:
      ValueError: neither `axis_name` nor `replica_axis` is given, or the leaves disagree on the
        number of replicas.

    Examples:
      >>> import jax.numpy as jnp, flatjax
      >>> float(flatjax.replica_distance(jnp.array([[1.0, 1.0], [3.0, 5.0]]), replica_axis=0))
      5.0

    See Also:
      `coupling_diagnostics` (more numbers to log), `replica_center` (the center).
    """
    _checks.check_replica_placement(axis_name, replica_axis)
    local_replicas = 1
    if replica_axis is not None:
        local_replicas = stacked_size(params, replica_axis)

    def squared(leaf):
        leaf = jnp.asarray(leaf)
        center = leaf_center(leaf, axis_name=axis_name, replica_axis=replica_axis)
        return jnp.sum(jnp.square(jnp.abs(at_least_float32(leaf) - center)))

    total = sum(map(squared, jax.tree.leaves(_masks.moving(params, mask))), start=jnp.zeros(()))
    distance = total / max(local_replicas, 1)
    return distance if axis_name is None else jax.lax.pmean(distance, axis_name)
