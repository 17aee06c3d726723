"""Finds errors in an `eval_fn` before it is used, and says how to fix them."""

import warnings
from typing import Any

import chex
import jax
import numpy as np

from flatjax import _evaluation
from flatjax._batches import Batches, repeatable
from flatjax._evaluation import EvalFn

# Half precision rounds: largest difference between sums over two examples and single examples.
TOLERANCE = 0.02


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
      TypeError: `eval_fn` is no function, or returns no dict.
      ValueError: it returns no `"count"`, or has another of the errors above.

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
    sums = _scalars(eval_fn(params, batch, *state))
    count = sums.pop("count")
    if not count > 0:
        raise ValueError(
            f"eval_fn must return the number of examples as 'count', above 0, got {count:g}."
        )
    for name, total in sums.items():
        if not np.isfinite(total):
            raise ValueError(
                f"eval_fn must return finite sums, got {name!r} = {total} for the first batch. "
                "Check the parameters, the labels (classes count from 0), and logarithms and "
                "divisions in eval_fn."
            )
    size = _num_examples(batch)
    if size is not None and size > 1:
        _check_additivity(eval_fn, params, batch, size, state)
    return {name: total / count for name, total in sums.items()}


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


def _num_examples(batch: Any) -> int | None:
    """Returns the size of a batch's common leading axis; None if there is none."""
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    return None if len(sizes) != 1 or sizes == {()} else int(sizes.pop()[0])


def _check_additivity(eval_fn, params, batch, size, state) -> None:
    """Raises unless the sums over a batch equal the sums over its single examples.

    The batch repeats the first two examples in turn. It has the size of the original batch, so
    that only one more program is compiled, for a single example.
    """
    rows = np.arange(size) % 2
    sums_of = lambda rows: {
        name: float(total)
        for name, total in eval_fn(
            params, jax.tree.map(lambda leaf: leaf[rows], batch), *state
        ).items()
    }
    try:
        together, first, second = (sums_of(one) for one in (rows, np.array([0]), np.array([1])))
    except Exception:  # the eval_fn accepts only one batch size: nothing can be tested
        return
    total = lambda a, b: np.sum(rows == 0) * a + np.sum(rows == 1) * b
    added = {name: float(total(first[name], second[name])) for name in together}
    count = together["count"]
    if not np.isclose(count, added["count"]):
        raise ValueError(
            "eval_fn must return the number of examples of the batch as 'count'; it counts "
            f"{count:g} for {size} examples, and {added['count']:g} if they are evaluated one by "
            "one. Return their number, such as len(labels), and sums instead of means."
        )
    scale = {name: float(total(abs(first[name]), abs(second[name]))) for name in together}
    near = lambda value, wanted, scale: abs(value - wanted) <= TOLERANCE * scale
    means = [
        name
        for name, value in together.items()
        if name != "count" and scale[name] and near(value, added[name] / size, scale[name] / size)
    ]
    if means:
        named = ", ".join(map(repr, means))
        raise ValueError(
            "eval_fn must return sums over the examples of a batch, but "
            f"{named} {'is their mean' if len(means) == 1 else 'are their means'}: return "
            "jnp.sum(losses), or count * mean."
        )
    mixed = [name for name in added if not near(together[name], added[name], scale[name])]
    if mixed:
        warnings.warn(
            f"eval_fn: the {mixed[0]!r} of {size} examples together is {together[mixed[0]]:.4g}, "
            f"and {added[mixed[0]]:.4g} if they are evaluated one by one. Is batch norm in "
            "training mode, or dropout on? Pass train=False or use_running_average=True.",
            stacklevel=4,
        )
