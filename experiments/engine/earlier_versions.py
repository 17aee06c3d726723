"""Reads configurations of recorded results from before November 2026.

A configuration then held the settings of all algorithms. The settings that the run did not use had
no effect and are dropped.
"""

from collections.abc import Mapping
from typing import Any

from experiments.engine.algorithm_settings import takers

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
