"""Batch statistics of parameters that training has not visited: center, anchor, average.

The running statistics of batch norm belong to the parameters they were collected with. Averaging
those of the replicas does not give those of the averaged network: for three independent networks
the variance comes out several times too large. `reestimate` measures them instead, on training
data, and is the default wherever flatjax evaluates a center or an anchor.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax._center import replica_center
from flatjax._keys import is_typed
from flatjax._running_statistics import is_float, measure, settled

__all__ = ["average", "reestimate"]

UpdateStatsFn = Callable[[chex.ArrayTree, chex.ArrayTree, Any], chex.ArrayTree]


def reestimate(
    update_stats_fn: UpdateStatsFn,
    params: chex.ArrayTree,
    stats: chex.ArrayTree,
    batches: Iterable[Any],
) -> chex.ArrayTree:
    r"""Measures the batch statistics of `params`: the equal mean over batches of each batch's own.

    Running statistics are updated linearly, :math:`s \leftarrow m s + (1 - m) s_{batch}`. So
    updating :math:`s = 0` once gives :math:`(1 - m) s_{batch}`, and updating any other s gives
    m s more: the momentum need not be known. Averages that are debiased, as in Haiku, and counters
    are recognised. Costs one forward pass a batch, and two or three more. As everywhere in batch
    norm, the variance is the mean of the batches' variances.

    Args:
      update_stats_fn: `update_stats_fn(params, stats, batch) -> stats`, a forward pass in training
        mode (`mutable=["batch_stats"]` in linen); jit it. Statistics come in at least float32, and
        may be changed in place.
      params: the parameters.
      stats: statistics of any parameters of this network; of floating-point leaves only shapes and
        dtypes are used.
      batches: training batches, of the size that training used (the variance of small batches is
        smaller). A few dozen are enough.

    Returns:
      The statistics of `params`, a pytree like `stats`, as after many updates: counters are at
      least as high as it takes to forget where an average started. What is neither an average nor
      a counter (flags, random keys) is that of `stats`.

    Raises:
      ValueError: `batches` is empty; the statistics ignore the data (their momentum is 1), change
        their shapes, or depend on the old ones in another way; or the update rounds them so that
        their momentum is lost (bfloat16 at 0.99).

    Examples:
      >>> import jax.numpy as jnp, flatjax
      >>> def update_stats_fn(params, stats, batch):
      ...     return {"mean": 0.9 * stats["mean"] + 0.1 * jnp.mean(params * batch)}
      >>> batches = [jnp.array([1.0, 3.0]), jnp.array([5.0, 7.0])]
      >>> stats = flatjax.batch_stats.reestimate(
      ...     update_stats_fn, jnp.array(2.0), {"mean": jnp.array(123.0)}, batches
      ... )
      >>> round(float(stats["mean"]), 3)
      8.0
    """
    old: list[Any]
    structure: Any
    old, structure = jax.tree.flatten(stats)
    if not any(map(is_float, old)):
        return stats

    def update(leaves, batch):
        """New leaves, by way of a pytree that nobody else holds: it may be changed in place."""
        found = jax.tree.leaves(update_stats_fn(params, structure.unflatten(leaves), batch))
        if list(map(np.shape, found)) != list(map(np.shape, old)):
            raise ValueError(
                "update_stats_fn must return statistics of the shapes that it was given, "
                f"{list(map(np.shape, old))}, got {list(map(np.shape, found))}."
            )
        return [jnp.array(leaf) for leaf in found]

    total: list[Any] = []
    count = 0
    for batch in batches:
        if count == 0:
            start, total, behaviours = measure(functools.partial(update, batch=batch), old)
        else:
            found = update(start, batch)
            total = [
                known + new if is_float(new) else known
                for known, new in zip(total, found, strict=True)
            ]
        count += 1
    if count == 0:
        raise ValueError("batches must hold at least one batch, got none.")
    return structure.unflatten(settled(old, total, count, behaviours))


def average(
    stats: chex.ArrayTree, *, axis_name: str | None = None, replica_axis: int | None = None
) -> chex.ArrayTree:
    """The mean of the replicas' statistics: cheap, and right only once the replicas have collapsed.

    Of counters and flags, which have no mean, the largest of the replicas is taken.

    Args:
      stats: the replicas' statistics.
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread.
      replica_axis: axis of the leaves along which replicas are stacked.

    Returns:
      Statistics of one network.

    Raises:
      ValueError: neither knob is given, the leaves disagree on the number of replicas, or one
        holds random keys.

    Examples:
      >>> import jax.numpy as jnp, flatjax
      >>> flatjax.batch_stats.average({"mean": jnp.array([[1.0], [3.0]])}, replica_axis=0)
      {'mean': Array([2.], dtype=float32)}
    """
    leaves: list[Any]
    structure: Any
    leaves, structure = jax.tree.flatten(stats)
    floats = [leaf for leaf in leaves if is_float(leaf)]
    center = replica_center(floats, axis_name=axis_name, replica_axis=replica_axis)
    means = iter(jax.tree.leaves(center))
    return structure.unflatten(
        [
            next(means) if is_float(leaf) else _largest(leaf, axis_name, replica_axis)
            for leaf in leaves
        ]
    )


def _largest(leaf, axis_name, replica_axis):
    """The largest of the replicas' integers, or flags."""
    leaf = jnp.asarray(leaf)
    if is_typed(leaf):
        raise ValueError("stats must not hold random keys: they have no average.")
    if replica_axis is not None:
        leaf = jnp.max(leaf, axis=replica_axis)
    if axis_name is not None:
        number = leaf.astype(jnp.promote_types(leaf.dtype, jnp.int8))  # flags have no largest
        leaf = jax.lax.pmax(number, axis_name).astype(leaf.dtype)
    return leaf
