"""Batch statistics for averaged parameters: a center, an anchor or a mean.

The running statistics of batch norm are valid only for the parameters with which they were
collected. The mean of the replicas' statistics is not valid for the mean of their parameters: for
three independent networks, its variance is several times too large. `reestimate` measures the
statistics on training data instead. flatjax uses it by default to evaluate a center or an anchor.
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
    r"""Measures the batch statistics of `params`: their mean over the given batches.

    A network updates its running statistics s linearly with a momentum m,
    :math:`s \leftarrow m s + (1 - m) s_{batch}`. An update of :math:`s = 0` gives
    :math:`(1 - m) s_{batch}`, and an update of another s gives m s more. The function finds m
    from these updates, so you need not pass it. It also recognises debiased averages, as in Haiku,
    and counters. The cost is one forward pass per batch, plus two or three. As everywhere in
    batch norm, the variance is the mean of the batches' variances.

    Args:
      update_stats_fn: `update_stats_fn(params, stats, batch) -> stats`, a forward pass in training
        mode (`mutable=["batch_stats"]` in linen); jit it. It receives statistics in at least
        float32, and may change them in place.
      params: the parameters.
      stats: statistics of any parameters of this network. Of floating-point leaves, only shapes
        and dtypes are used.
      batches: training batches, of the size that training used (small batches have a smaller
        variance). A few dozen are enough.

    Returns:
      The statistics of `params`, a pytree like `stats`. They are the limit after many updates, and
      counters are high enough that no average depends on its start. Leaves that are neither
      averages nor counters (flags, random keys) are copied from `stats`.

    Raises:
      ValueError: `batches` is empty. The update ignores the data (its momentum is 1), changes the
        shapes, or depends on the old statistics in another way. Or it rounds them so much that the
        momentum cannot be measured (bfloat16 at momentum 0.99).

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

    See Also:
      `average` (for replicas that have met), `flatjax.eval_params` (the weights to measure for),
      `flatjax.nnx.eval_model` (both for NNX).
    """
    old: list[Any]
    structure: Any
    old, structure = jax.tree.flatten(stats)
    if not any(map(is_float, old)):
        return stats

    def update(leaves, batch):
        """Makes new leaves. `update_stats_fn` may change the pytree built here."""
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
    """Averages the replicas' statistics: right once the replicas have collapsed.

    This is cheap. Counters and flags have no mean: the largest value of the replicas is taken.

    Args:
      stats: the replicas' statistics.
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread.
      replica_axis: axis of the leaves along which replicas are stacked.

    Returns:
      Statistics of one network.

    Raises:
      ValueError: neither `axis_name` nor `replica_axis` is given, the leaves disagree on the
        number of replicas, or a leaf holds random keys.

    Examples:
      >>> import jax.numpy as jnp, flatjax
      >>> flatjax.batch_stats.average({"mean": jnp.array([[1.0], [3.0]])}, replica_axis=0)
      {'mean': Array([2.], dtype=float32)}

    See Also:
      `reestimate` (for replicas that have not met).
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
    """The largest of the replicas' integers or flags."""
    leaf = jnp.asarray(leaf)
    if is_typed(leaf):
        raise ValueError("stats must not hold random keys: they have no average.")
    if replica_axis is not None:
        leaf = jnp.max(leaf, axis=replica_axis)
    if axis_name is not None:
        number = leaf.astype(jnp.promote_types(leaf.dtype, jnp.int8))  # pmax takes no bools
        leaf = jax.lax.pmax(number, axis_name).astype(leaf.dtype)
    return leaf
