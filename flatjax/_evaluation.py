"""The one contract by which training, batch statistics and flatness look at a network.

`batches` is a sequence of pytrees, all of one shape, each a batch of examples. `eval_fn(params,
batch, *state)` returns a dict of *sums* over the batch's examples and their number, `"count"`, so
that padded last batches and unequal devices need no care; `state` holds
non-trained inputs such as batch statistics; they are never perturbed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax

from flatjax import _sums
from flatjax._batches import Batches, Data

EvalFn = Callable[..., dict[str, jax.Array]]


def evaluate(
    eval_fn: EvalFn, params: chex.ArrayTree, batches: Batches, *state: Any
) -> dict[str, jax.Array]:
    """Means over a data set of what `eval_fn` sums.

    Batches are dispatched one after another without waiting for results, so a jitted `eval_fn`
    keeps the device busy. (A scan over batches would be ten times slower for XLA's own
    convolutions on CPU.) Sums are added in pairs of float32 (of float64 where `eval_fn` returns
    it), so that half precision costs nothing beyond the rounding of each batch's sum, and counts
    are exact beyond 2^31.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`; jit it. If it
        computes in half precision, it should sum in float32.
      params: the parameters.
      batches: batches of examples: a list, a loader or another iterable, or a function of nothing
        that returns one.
      *state: passed on, for example batch statistics.

    Returns:
      ``{name: mean}`` without `"count"`; scalars on the device, or of the shape of the sums, in
      float32 at least.

    Raises:
      TypeError: `eval_fn` is no function or returns no dict, or `batches` is a batch.
      ValueError: `batches` is empty, or `eval_fn` returns no `"count"`.

    Examples:
      >>> import jax.numpy as jnp, flatjax
      >>> def eval_fn(params, batch):
      ...     return {"loss": jnp.sum((params - batch) ** 2), "count": len(batch)}
      >>> batches = [jnp.array([0.0, 2.0]), jnp.array([4.0])]
      >>> round(float(flatjax.evaluate(eval_fn, jnp.array(1.0), batches)["loss"]), 3)
      3.667
    """
    check_eval_fn(eval_fn)
    totals = None
    for batch in Data(batches):
        sums = check_sums(eval_fn(params, batch, *state))
        totals = _add(totals, _sums.on_device(dict(sums)))
    return _means(totals)


def check_eval_fn(eval_fn: Any) -> None:
    """Raises unless this is a function."""
    if not callable(eval_fn):
        raise TypeError(
            "eval_fn must be a function (params, batch, *state) -> {'count': n, name: sum, ...}, "
            f"got {eval_fn!r}."
        )


def check_sums(sums: Any, source: str = "eval_fn") -> Mapping[str, Any]:
    """Returns what `eval_fn` returned; raises unless it is a dict of sums with their count."""
    if not isinstance(sums, Mapping):
        raise TypeError(
            f"{source} must return a dict of sums over the batch and their number, "
            "{'count': n, 'loss': sum}; got "
            f"{type(sums).__name__}. A mean of n examples is {{'count': n, 'loss': n * mean}}."
        )
    if "count" not in sums:
        raise ValueError(f"{source} must return a dict with 'count', got {sorted(sums)}.")
    return sums


@jax.jit
def _add(totals, sums):
    return _sums.add(_sums.zeros(sums) if totals is None else totals, sums)


@jax.jit
def _means(totals):
    count = totals["count"]
    return {name: _sums.mean(total, count) for name, total in totals.items() if name != "count"}
