"""Runs for the tests of the engine."""

from collections.abc import Mapping
from typing import Any

from experiments.engine.algorithm_settings import takers
from experiments.engine.config import TrainConfig
from experiments.engine.loop import Run
from experiments.engine.placement import Placement
from experiments.engine.plan import make_plan
from experiments.engine.task import make_task


def started(config: TrainConfig, placement: Placement | None = None) -> Run:
    """A run before its first step, without files."""
    task = make_task(config)
    return Run(make_plan(config, task, placement), config, task)


def changed(config: TrainConfig, own: Mapping[str, Any], **changes: Any) -> TrainConfig:
    """`config.changed`; a new algorithm takes from `own` the settings that it has."""
    algorithm = changes.get("algorithm")
    taken = {name: value for name, value in own.items() if algorithm in takers(name)}
    return config.changed(**(taken | changes))
