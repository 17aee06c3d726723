"""What measures ask of the sums of `flatjax.evaluate`."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp


def check_quantity(quantity: str, names: Iterable[str]) -> None:
    """Raises unless the quantity is one of those that `eval_fn` sums."""
    if quantity not in names:
        raise ValueError(f"quantity must be one of {sorted(names)}, got {quantity!r}.")


def differentiable(sums: dict[str, jax.Array], quantity: str) -> jax.Array:
    """The sum called `quantity`; raises if it or the count is missing, or has no derivative."""
    missing = {quantity, "count"} - set(sums)
    if missing:
        raise ValueError(f"the sums must include {sorted(missing)}, got {sorted(sums)}.")
    dtype = jnp.result_type(sums[quantity])
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"quantity must be a differentiable one, got {quantity!r} of {dtype}.")
    return sums[quantity]
