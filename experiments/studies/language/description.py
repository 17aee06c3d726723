"""What the study of a model of language trains and measures."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.engine.config import TrainConfig
from experiments.studies.study import Study


@dataclasses.dataclass(frozen=True)
class Coefficient:
    """How the learning coefficient is estimated.

    Attributes:
      seeds: the seeds of which it is.
      sequences: training sequences, n / T.
      batch_size: of them in a step of a chain.
      num_chains: chains.
      num_steps: of each.
      num_warmup: before them.
    """

    seeds: Sequence[int] = (0,)
    sequences: int = 64
    batch_size: int = 4
    num_chains: int = 2
    num_steps: int = 40
    num_warmup: int = 40


@dataclasses.dataclass(frozen=True)
class Language(Study):
    """What is trained and measured; see `experiments.configs.language`.

    Attributes:
      base: what all runs share.
      arms: label -> what it changes; `steps` there multiplies the steps, `batch` the batch size.
      steps: S, sequential steps of an arm without `steps`.
      seeds: of every arm.
      points: how often held-out bits are measured along training, evenly spaced.
      flat_points: at how many of them, the last ones of equal parts, flatness is measured.
      coefficient: how the learning coefficient is estimated.
    """

    arms: Mapping[str, Mapping[str, Any]]
    steps: int
    seeds: Sequence[int]
    points: int = 8
    flat_points: int = 2
    coefficient: Coefficient = dataclasses.field(default_factory=Coefficient)

    def steps_of(self, arm: str) -> int:
        """Sequential steps of an arm."""
        return self.steps * self.arms[arm].get("steps", 1)

    def config(self, arm: str, num_train: int) -> TrainConfig:
        """The configuration of an arm, its budget in passes over so many training sequences."""
        own = {name: v for name, v in self.arms[arm].items() if name not in ("steps", "batch")}
        config = self.changed(own)
        config = config.changed(batch_size=config.batch_size * self.arms[arm].get("batch", 1))
        gradients = self.steps_of(arm) * config.num_replicas
        return config.changed(epochs=gradients / (num_train // config.batch_size))

    def workers(self, arm: str) -> int:
        """Workers that run side by side: replicas, or parts of a batch."""
        return self.config(arm, 10**9).num_replicas * self.arms[arm].get("batch", 1)

    def period(self, arm: str) -> int | None:
        """K: steps between messages; None for one worker."""
        algorithm = self.config(arm, 10**9).algorithm
        if self.workers(arm) == 1:
            return None
        return getattr(algorithm, "period", getattr(algorithm, "inner_steps", 1))
