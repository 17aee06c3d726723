"""Finds errors in an `eval_fn` before it is used, and says how to fix them."""

import warnings
from collections.abc import Sequence
from typing import Any

import chex
import jax
import numpy as np

from flatjax import _additivity, _evaluation
from flatjax._batches import Batches, repeatable
from flatjax._evaluation import EvalFn


def check_eval_fn(
    eval_fn: EvalFn, params: chex.ArrayTree, batches: Batches, *state: Any
) -> dict[str, float]:
    """Raises, with a remedy, unless `eval_fn` returns sums over examples and a count.

    It finds a scalar instead of a dict, a missing `"count"`, and values per example that were not
    summed. It also finds a count that is not the number of examples, means instead of sums, and
    values that are NaN or infinite. To distinguish means from sums, it evaluates the first two
    examples of a batch one by one, and repeated in turn as a whole batch. It omits this test if a
    batch has no common leading axis, or if `eval_fn` accepts only one batch size.

    A warning says if examples depend on each other, as with batch norm in training mode.

    Cost: two evaluations of a batch, and two of a single example.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`.
      params: the parameters.
      batches: see `flatjax.evaluate`; the first batch is used.
      *state: further inputs of `eval_fn`.

    Returns:
      {name: mean over the first batch}.

    Raises:
      TypeError: `eval_fn` is no function, has a wrong signature, or returns no dict.
      ValueError: it raises an error, returns no `"count"`, or has another of the errors above.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax import flatness
      >>> def eval_fn(params, batch):
      ...     return {"loss": jnp.mean((batch - params) ** 2), "count": len(batch)}
      >>> flatness.check_eval_fn(eval_fn, jnp.array(0.0), [jnp.array([1.0, 2.0, 3.0])])
      Traceback (most recent call last):
        ...
      ValueError: eval_fn must return sums over the examples of a batch, but 'loss' is their mean...

    See Also:
      `classification` (makes `eval_fn`), `report` (calls this check).
    """
    _evaluation.check_eval_fn(eval_fn)
    batch = next(iter(repeatable(batches)))
    eval_fn = jax.jit(eval_fn)
    sums = _scalars(_call(eval_fn, params, batch, state))
    count = sums.pop("count")
    if not count > 0:
        raise ValueError(
            f"eval_fn must return the number of examples as 'count', above 0, got {count:g}."
        )
    for name, total in sums.items():
        check_finite(name, [total])
    _check_additivity(eval_fn, params, batch, state)
    return {name: total / count for name, total in sums.items()}


def check_finite(name: str, sums: Sequence[float] | np.ndarray) -> None:
    """Raises unless the sums called `name` over the first batches are finite."""
    wrong = np.flatnonzero(~np.isfinite(sums))
    if wrong.size:
        first = int(wrong[0])
        where = f"batch number {first}, counted from 0" if first else "the first batch"
        raise ValueError(
            f"eval_fn must return finite sums, got {name!r} = {sums[first]} for {where}. "
            "Check the parameters, logarithms and divisions in eval_fn, and the batch: NaN among "
            "the inputs, or labels outside of 0 to C - 1 for C classes."
        )


def _call(eval_fn, params, batch, state) -> Any:
    """Calls `eval_fn` for the first time; errors say how it is called."""
    try:
        return eval_fn(params, batch, *state)
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        stack = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(params)}
        is_stack = len(stack) == 1 and stack != {()}
        center = " If params are stacked replicas, pass their flatjax.replica_center."
        raise kind(
            "eval_fn is called as eval_fn(params, batch, *state), here with "
            f"{2 + len(state)} arguments. It raised {type(error).__name__}: "
            f"{error}{center * is_stack}"
        ) from error


def _scalars(found: Any) -> dict[str, float]:
    sums = _evaluation.check_sums(found)
    if len(sums) < 2:
        raise ValueError(
            "eval_fn must return a sum next to 'count', such as {'loss': jnp.sum(losses), 'count': "
            "n}; got 'count' alone."
        )
    for name, total in sums.items():
        if np.shape(total):
            raise ValueError(
                f"eval_fn must return scalars, got {name!r} of shape {np.shape(total)}: sum over "
                f"the examples, {name!r}: jnp.sum(...)."
            )
    return {name: float(total) for name, total in sums.items()}


def _check_additivity(eval_fn, params, batch, state) -> None:
    """Raises unless the sums over a batch equal the sums over its single examples."""
    pair = _additivity.Pair(eval_fn, batch, state)
    found = pair.compare(params)
    if found is None:
        return
    count, of_single = (float(sums["count"]) for sums in (found.together, found.added))
    if not np.isclose(count, of_single):
        raise ValueError(
            "eval_fn must return the number of examples of the batch as 'count'; it counts "
            f"{count:g} for {found.size} examples, and {of_single:g} if they are evaluated one by "
            "one. Return their number, such as len(labels), and sums instead of means."
        )
    pair.check_sums(params, found)
    _additivity.sums(eval_fn)
    mixed = [name for name in found.added if not found.is_near(name)]
    if mixed:
        together, added = (sums[mixed[0]] for sums in (found.together, found.added))
        warnings.warn(
            f"eval_fn: the {mixed[0]!r} of {found.size} examples together is {together:.4g}, "
            f"and {added:.4g} if they are evaluated one by one. Is batch norm in "
            "training mode, or dropout on? Pass train=False or use_running_average=True.",
            stacklevel=4,
        )
