"""Reads configurations and checkpoints of earlier versions.

Until November 2026, a configuration held the settings of all algorithms. The settings that the run
did not use had no effect and are dropped.

Checkpoints of runs without digests hold the same numbers in other containers.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

import flatjax
from experiments.engine.algorithm_settings import takers

# --- configurations -----------------------------------------------------------------------------

_OF_MILESTONES = {"milestones", "milestone_factor"}
_OF_WARMUP = {"warmup_start"}
_OF_SCHEDULE = {"schedule", "warmup"} | _OF_MILESTONES | _OF_WARMUP


def converted(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Converts a recorded configuration for `TrainConfig.from_json`.

    Examples:
      >>> converted({"algorithm": "sgd", "learning_rate": 0.1, "replicas": 3, "period": 1})
      {'algorithm': 'sgd', 'learning_rate': 0.1}
    """
    algorithm = fields.get("algorithm")
    unused = {name for name in fields if takers(name) and algorithm not in takers(name)}
    if algorithm == "swa":
        unused |= _OF_SCHEDULE
    if fields.get("schedule") != "milestones":
        unused |= _OF_MILESTONES
    if fields.get("warmup", 0) == 0:
        unused |= _OF_WARMUP
    return {name: value for name, value in fields.items() if name not in unused}


# --- checkpoints --------------------------------------------------------------------------------


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
