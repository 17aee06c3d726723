"""Checkpoints of earlier versions: the same numbers in other containers."""

from typing import Any

import jax
import numpy as np

import flatjax


def as_saved(state: Any) -> Any:
    """Specs of the same numbers in the containers of runs without digests.

    Both couplings had one state, and the numbers of a key inside SAM were an array.
    """

    def rename(node):
        if isinstance(node, flatjax.PullToCenterState):
            return flatjax.CoupleReplicasState(*node, ())
        if isinstance(node, flatjax.EntropySGDState) and isinstance(node.key, tuple):
            return node._replace(key=node.key[0].update(shape=(len(node.key),)))
        return node

    return jax.tree.map(rename, state, is_leaf=_is_renamed)


def as_now(state: Any) -> Any:
    """Such arrays of the numbers of a key as the scalars that they are now."""

    def split(node):
        is_array = isinstance(node, flatjax.EntropySGDState) and np.ndim(node.key) == 1
        return node._replace(key=tuple(node.key)) if is_array else node

    return jax.tree.map(split, state, is_leaf=_is_renamed)


def _is_renamed(node):
    return isinstance(node, flatjax.PullToCenterState | flatjax.EntropySGDState)
