"""Finding the states of flatjax's transformations within an optimizer state, at any depth."""

from typing import Any

import jax
import optax


def find_states(state: optax.OptState, *types: type) -> list[Any]:
    """Returns all nodes of these types, from the first to the last of a chain."""
    is_wanted = lambda node: isinstance(node, types)
    return [node for node in jax.tree.leaves(state, is_leaf=is_wanted) if is_wanted(node)]


def find_state(state: optax.OptState, *types: type) -> Any:
    """Returns the one node of these types; raises a ValueError if there is not just one."""
    found = find_states(state, *types)
    if len(found) != 1:
        names = " or ".join(kind.__name__ for kind in types)
        raise ValueError(f"state must hold one {names}, found {len(found)}.")
    return found[0]
