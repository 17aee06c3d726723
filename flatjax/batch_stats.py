"""Batch statistics of parameters that training has not visited: center, anchor, average.

The running statistics of batch norm belong to the parameters they were collected with. Averaging
those of the replicas does not give those of the averaged network: for three independent networks
the variance comes out several times too large. `reestimate` measures them instead, on training
data, and is the default wherever flatjax evaluates a center or an anchor.
"""

from collections.abc import Callable, Iterable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from flatjax._center import replica_center

__all__ = ["average", "reestimate"]

UpdateStatsFn = Callable[[chex.ArrayTree, chex.ArrayTree, Any], chex.ArrayTree]


def reestimate(
    update_stats_fn: UpdateStatsFn,
    params: chex.ArrayTree,
    stats: chex.ArrayTree,
    batches: Iterable[Any],
) -> chex.ArrayTree:
    r"""Measures the batch statistics of `params`: the equal mean over batches of each batch's own.

    Running statistics are updated linearly, :math:`s \leftarrow m s + (1 - m) s_{batch}`, in linen
    as elsewhere. So updating :math:`s = 0` once gives :math:`(1 - m) s_{batch}`, and updating
    any other s gives m s more: the momentum need not be known. Costs one forward pass a batch, and
    one more. As everywhere in batch norm, the variance is the mean of the batches' variances.

    Args:
      update_stats_fn: `update_stats_fn(params, stats, batch) -> stats`, a forward pass in training
        mode (`mutable=["batch_stats"]` in linen); jit it.
      params: the parameters.
      stats: statistics of any parameters of this network; only shapes and dtypes are used.
      batches: training batches, of the size that training used (the variance of small batches is
        smaller). A few dozen are enough.

    Returns:
      The statistics of `params`, a pytree like `stats`.

    Raises:
      ValueError: `batches` is empty, or the statistics ignore the data (their momentum is 1).

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
    if not jax.tree.leaves(stats):
        return stats
    zeros = jax.tree.map(jnp.zeros_like, stats)
    total, momentum, count = zeros, None, 0
    for batch in batches:
        from_zero = update_stats_fn(params, zeros, batch)
        if momentum is None:
            # From about the size of the batch's: 1 would be lost beside a large variance.
            probe = jax.tree.map(lambda s: 1 + jnp.abs(s), from_zero)
            from_probe = update_stats_fn(params, probe, batch)
            momentum = jax.tree.map(lambda s, s_0, p: (s - s_0) / p, from_probe, from_zero, probe)
        total = jax.tree.map(jnp.add, total, from_zero)
        count += 1
    if momentum is None:
        raise ValueError("batches must hold at least one batch, got none.")
    if any(bool(jnp.any(m >= 1)) for m in jax.tree.leaves(momentum)):
        raise ValueError(
            "update_stats_fn must move the statistics towards the batch's: they did not change. "
            "Is the network in training mode, and its momentum below 1?"
        )
    return jax.tree.map(
        lambda s, m, old: (s / (count * (1 - m))).astype(old.dtype), total, momentum, stats
    )


def average(
    stats: chex.ArrayTree, *, axis_name: str | None = None, replica_axis: int | None = None
) -> chex.ArrayTree:
    """The mean of the replicas' statistics: cheap, and right only once the replicas have collapsed.

    Args:
      stats: the replicas' statistics.
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread.
      replica_axis: axis of the leaves along which replicas are stacked.

    Returns:
      Statistics of one network.

    Raises:
      ValueError: neither knob is given, or the leaves disagree on the number of replicas.

    Examples:
      >>> import jax.numpy as jnp, flatjax
      >>> flatjax.batch_stats.average({"mean": jnp.array([[1.0], [3.0]])}, replica_axis=0)
      {'mean': Array([2.], dtype=float32)}
    """
    return replica_center(stats, axis_name=axis_name, replica_axis=replica_axis)
