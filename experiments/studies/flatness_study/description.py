"""What the study of flatness trains and measures."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.engine.config import TrainConfig
from experiments.studies.flatness.description import Effort
from experiments.studies.study import Study


@dataclasses.dataclass(frozen=True)
class FlatnessStudy(Study):
    """What is trained and measured; see `experiments.configs.flatness_study`.

    Attributes:
      base: what all runs share.
      tasks: label -> network and data.
      algorithms: label -> what it changes; `epochs` there multiplies the task's.
      factors: field -> its levels.
      batch_sizes: another factor, which shapes the program.
      seeds: of every combination; all train on the same data.
      effort: how accurately solutions are measured.
      efforts: task -> what it changes of that; all have the same `sigma`.
    """

    tasks: Mapping[str, Mapping[str, Any]]
    algorithms: Mapping[str, Mapping[str, Any]]
    factors: Mapping[str, Sequence[float]]
    batch_sizes: Sequence[int]
    seeds: Sequence[int]
    effort: Effort = dataclasses.field(default_factory=Effort)
    efforts: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def config(self, task: str, algorithm: str, batch_size: int) -> TrainConfig:
        """What the runs of one block share."""
        config = self.changed(self.tasks[task], {"batch_size": batch_size})
        own = dict(self.algorithms[algorithm])
        own["epochs"] = config.epochs * own.get("epochs", 1)
        return config.changed(**own)
