"""Networks of any library as functions (params, inputs, *state) for evaluation."""

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

# Arguments that say whether a network trains, and their values in evaluation mode.
EVALUATION = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}


def evaluation_mode(apply_fn: Any, options: Mapping[str, Any]) -> Callable[..., Any]:
    """Returns `apply(params, inputs, *state)` of a network, without dropout.

    Args:
      apply_fn: see `flatjax.flatness.classification`.
      options: arguments of `apply_fn`; they override the values of the evaluation mode.

    Raises:
      TypeError: `apply_fn` is no function.
    """
    module = _linen_module(apply_fn)
    if module is not None:
        mode = {**_mode(type(module).__call__), **options}
        return lambda params, inputs, *state: module.apply(
            {"params": params, **_collections(state)}, inputs, **mode
        )
    if not callable(apply_fn):
        raise TypeError(
            "apply_fn must be a flax.linen module or a function (params, inputs, *state) -> "
            f"outputs, got {apply_fn!r}."
        )
    mode = {**_mode(apply_fn), **options}
    order = _leading(apply_fn)
    if "state" not in order and "rng" not in order:
        return lambda params, inputs, *state: apply_fn(params, inputs, *state, **mode)

    def apply(params, inputs, *state):
        given = {"state": state[0] if state else {}, "rng": None}
        return apply_fn(params, *(given[name] for name in order), inputs, **mode)

    return apply


def _linen_module(apply_fn):
    """Returns the flax.linen module of `apply_fn` (itself, or its `apply`), or None."""
    linen = sys.modules.get("flax.linen")  # a user with a linen module has imported linen
    if linen is None:
        return None
    owner = apply_fn
    if getattr(apply_fn, "__name__", None) == "apply":
        owner = getattr(apply_fn, "__self__", apply_fn)
    return owner if isinstance(owner, linen.Module) else None


def _collections(state) -> Mapping[str, Any]:
    """Returns linen's collections of non-trained inputs, from any form of state."""
    first = state[0] if state else {}
    if isinstance(first, Mapping) and not first:
        return {}
    is_named = isinstance(first, Mapping) and "batch_stats" in first
    return first if is_named else {"batch_stats": first}


def _parameters(function) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some functions in C have no signature
        return []


def _mode(function) -> dict[str, Any]:
    """Returns those arguments of the evaluation mode that a function accepts."""
    return {p.name: EVALUATION[p.name] for p in _parameters(function) if p.name in EVALUATION}


def _leading(function) -> list[str]:
    """Lists `state` and `rng`, in order, if they come before the inputs."""
    found = []
    for parameter in _parameters(function)[1:]:
        if parameter.name not in ("state", "rng"):
            break
        found.append(parameter.name)
    # At the end, or before *args: `fn(params, rng, *args)` of Haiku takes inputs afterwards.
    return found if len(_parameters(function)) > 1 + len(found) else []
