"""What a ladder of lengths is."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.engine.config import TrainConfig
from experiments.studies.spaces import log_uniform
from experiments.studies.study import Study


@dataclasses.dataclass(frozen=True)
class Ladder(Study):
    """Settings of which each is tuned at several lengths of training.

    Attributes:
      base: what all runs share.
      settings: label -> what the setting changes; `epochs` is its shortest length.
      space: field -> least and largest value tried.
      trials: candidates of each setting and length.
      lengths: multiples of the epochs, the shortest first.
      rounds: of successive halving: how many of the best candidates are kept, on how many seeds.
      least_gain: points of the error by which a longer length must be better for the next one.
    """

    settings: Mapping[str, Mapping[str, Any]]
    space: Mapping[str, tuple[float, float]]
    trials: int
    lengths: Sequence[int]
    rounds: Sequence[tuple[int, int]]
    least_gain: float

    def candidates(self) -> list[dict[str, float]]:
        """Settings to try, log-uniform in the space, the same at every length."""
        return log_uniform(self.space, self.trials)

    def config(self, setting: str, length: int) -> TrainConfig:
        """What all runs of a setting share at a length."""
        own = self.settings[setting]
        return self.changed(own, {"epochs": float(length * own["epochs"])})
