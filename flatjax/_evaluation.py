"""The one contract by which training, batch statistics and flatness look at a network.

`batches` is a sequence of pytrees, all of one shape, each a batch of examples. `eval_fn(params,
batch, *state)` returns a dict of *sums* over the batch's examples and their number, `"count"`, so
that padded last batches and unequal devices need no care; `state` is what the network needs beside
the parameters and nobody perturbs or trains (batch statistics).
"""

from collections.abc import Callable, Iterable
from typing import Any

import chex
import jax
import jax.numpy as jnp

EvalFn = Callable[..., dict[str, jax.Array]]


def evaluate(
    eval_fn: EvalFn, params: chex.ArrayTree, batches: Iterable[Any], *state: Any
) -> dict[str, jax.Array]:
    """Means over a data set of what `eval_fn` sums.

    Batches are dispatched one after another without waiting for results, so a jitted `eval_fn`
    keeps the device busy. (A scan over batches would be ten times slower for XLA's own
    convolutions on CPU.)

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`; jit it.
      params: the parameters.
      batches: batches of examples.
      *state: passed on, for example batch statistics.

    Returns:
      ``{name: mean}`` without `"count"`; scalars on the device, or of the shape of the sums.

    Raises:
      ValueError: `batches` is empty, or `eval_fn` returns no `"count"`.

    Examples:
      >>> import jax.numpy as jnp, flatjax
      >>> def eval_fn(params, batch):
      ...     return {"loss": jnp.sum((params - batch) ** 2), "count": len(batch)}
      >>> batches = [jnp.array([0.0, 2.0]), jnp.array([4.0])]
      >>> round(float(flatjax.evaluate(eval_fn, jnp.array(1.0), batches)["loss"]), 3)
      3.667
    """
    totals = None
    for batch in batches:
        sums = eval_fn(params, batch, *state)
        if "count" not in sums:
            raise ValueError(f"eval_fn must return a dict with 'count', got {sorted(sums)}.")
        totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
    if totals is None:
        raise ValueError("batches must hold at least one batch, got none.")
    count = jnp.asarray(totals["count"])

    def mean(total):
        # Axes of the count, those of stacked replicas, are the first of the sums.
        return total / count.reshape(count.shape + (1,) * (jnp.ndim(total) - count.ndim))

    return {name: mean(total) for name, total in totals.items() if name != "count"}
