"""Runs for the tests of the engine."""

from experiments.engine.config import TrainConfig
from experiments.engine.loop import Run
from experiments.engine.placement import Placement
from experiments.engine.plan import make_plan
from experiments.engine.task import make_task


def started(config: TrainConfig, placement: Placement | None = None) -> Run:
    """A run before its first step, without files."""
    task = make_task(config)
    return Run(make_plan(config, task, placement), config, task)
