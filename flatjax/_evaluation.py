"""The contract of `eval_fn`: sums over the examples of a batch, and a count.

`batches` is a sequence of pytrees with equal shapes; each is a batch of examples. `eval_fn(params,
batch, *state)` returns a dict of *sums* over the batch's examples and their number, `"count"`.
Sums make padded last batches and unequal devices easy. `state` holds non-trained inputs such as
batch statistics; they are never perturbed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax

from flatjax import _additivity, _sums
from flatjax._batches import Batches, Data

EvalFn = Callable[..., dict[str, jax.Array]]
"""A function `eval_fn(params, batch, *state)` that returns sums over a batch, and `"count"`."""


def evaluate(
    eval_fn: EvalFn, params: chex.ArrayTree, batches: Batches, *state: Any
) -> dict[str, jax.Array]:
    """Averages over a data set the quantities that `eval_fn` sums over batches.

    Batches are dispatched one after another without waiting for results, so a jitted `eval_fn`
    keeps the device busy. (A scan over batches would make XLA's own convolutions on CPU ten times
    slower.) The sum is a pair of float32 numbers (float64 if `eval_fn` returns float64). Therefore
    half precision loses nothing but the rounding of each batch's sum, and counts are exact beyond
    2^31.

    Nothing is left out: if a sum is NaN or infinite for one batch, so is its mean. Print the loss
    next to the error, which `flatness.classification` counts as 1 for an image with NaN pixels.

    The first call of each `eval_fn` checks that it returns sums, and warns of means. It costs one
    more evaluation of a batch, and two of a single example.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`; jit it. If it
        computes in half precision, it should sum in float32.
      params: the parameters.
      batches: batches of examples: a list, a loader or another iterable, or a function without
        arguments that returns one.
      *state: further inputs of `eval_fn`, for example batch statistics.

    Returns:
      ``{name: mean}`` without `"count"`: arrays on the device, of the shape of the sums and in at
      least float32.

    Raises:
      TypeError: `eval_fn` is no function or returns no dict, or `batches` is a single batch.
      ValueError: `batches` is empty, or `eval_fn` returns no `"count"`.

    Examples:
      >>> import jax.numpy as jnp, flatjax
      >>> def eval_fn(params, batch):
      ...     return {"loss": jnp.sum((params - batch) ** 2), "count": len(batch)}
      >>> batches = [jnp.array([0.0, 2.0]), jnp.array([4.0])]
      >>> round(float(flatjax.evaluate(eval_fn, jnp.array(1.0), batches)["loss"]), 3)
      3.667

    See Also:
      `flatness.report` (measures of flatness with the same `eval_fn`), `flatness.classification`
      (makes `eval_fn`).
    """
    check_eval_fn(eval_fn)
    totals = None
    for batch in Data(batches):
        sums = check_sums(eval_fn(params, batch, *state))
        if totals is None and not _additivity.is_traced(sums):
            _additivity.check_once(eval_fn, params, batch, state)
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
    """Returns `eval_fn`'s result; raises unless it is a dict of sums and a count."""
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
