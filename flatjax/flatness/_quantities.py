"""Checks of the sums that `eval_fn` returns."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from flatjax._evaluation import check_sums


def check_quantity(
    quantity: str, names: Iterable[str], source: str = "eval_fn", argument: str = "quantity"
) -> None:
    """Raises unless the quantity is one of those that `eval_fn` sums.

    Args:
      quantity: its name.
      names: the names of the sums.
      source: the function that returns them, for the error message.
      argument: the argument that names the quantity, for the error message.
    """
    if quantity not in names:
        returned = ", ".join(map(repr, sorted(names))) or "no sum"
        raise ValueError(
            f"{argument} must be one of the sums that {source} returns, {returned}, got "
            f"{quantity!r}. Return the sum {quantity!r} too, or pass another name as {argument}."
        )


def scalar(sums: Any, quantity: str, source: str = "eval_fn") -> jax.Array:
    """Returns the sum called `quantity`; raises if it is missing or no real scalar."""
    check_quantity(quantity, set(check_sums(sums, source)) - {"count"}, source)
    total = jnp.asarray(sums[quantity])
    if total.shape or jnp.iscomplexobj(total):
        raise ValueError(
            f"{source} must return a real scalar as {quantity!r}, summed over the batch; got "
            f"{total.dtype}{total.shape}."
        )
    return total


def differentiable(sums: Any, quantity: str, source: str = "eval_fn") -> jax.Array:
    """Returns the sum called `quantity`; raises unless it is a differentiable scalar."""
    total = scalar(sums, quantity, source)
    if not jnp.issubdtype(total.dtype, jnp.floating):
        raise ValueError(
            f"quantity must be a differentiable one, got {quantity!r} of {total.dtype}."
        )
    return total
