"""Finds states of flatjax's transformations at any depth of a state."""

from typing import Any

import jax
import optax


def find_states(state: optax.OptState, *types: type) -> list[Any]:
    """Returns all nodes of these types, in the order of the chain."""
    is_wanted = lambda node: isinstance(node, types)
    return [node for node in jax.tree.leaves(state, is_leaf=is_wanted) if is_wanted(node)]


def find_state(state: optax.OptState, *types: type) -> Any:
    """Returns the only node of these types; raises unless there is exactly one."""
    found = find_states(state, *types)
    if len(found) != 1:
        names = " or ".join(kind.__name__ for kind in types)
        raise ValueError(f"state must hold one {names}, found {len(found)}.")
    return found[0]
