"""The description of the study of flatness."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.engine.config import TrainConfig
from experiments.studies.flatness.description import Effort
from experiments.studies.study import Study


@dataclasses.dataclass(frozen=True)
class FlatnessStudy(Study):
    """The study; see `experiments.configs.flatness_study`.

    Attributes:
      base: settings that all runs share.
      tasks: label -> network and data.
      algorithms: label -> changes; `epochs` there multiplies the task's epochs.
      factors: field -> its levels.
      batch_sizes: levels of another factor, which shapes the program.
      seeds: seeds of every combination; all train on the same data.
      effort: accuracy of the measures.
      efforts: task -> changes of the effort; all have the same `sigma`.
    """

    tasks: Mapping[str, Mapping[str, Any]]
    algorithms: Mapping[str, Mapping[str, Any]]
    factors: Mapping[str, Sequence[float]]
    batch_sizes: Sequence[int]
    seeds: Sequence[int]
    effort: Effort = dataclasses.field(default_factory=Effort)
    efforts: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def config(self, task: str, algorithm: str, batch_size: int) -> TrainConfig:
        """Returns the settings that the runs of one block share."""
        config = self.changed(self.tasks[task], {"batch_size": batch_size})
        own = dict(self.algorithms[algorithm])
        own["epochs"] = config.epochs * own.get("epochs", 1)
        return config.changed(**own)
