"""What a contest is."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.engine.config import TrainConfig
from experiments.studies.spaces import log_uniform
from experiments.studies.study import Study


@dataclasses.dataclass(frozen=True)
class Contest(Study):
    """What is compared, and how; see `experiments.configs.first_contest` for the protocol.

    Attributes:
      base: what all runs share.
      settings: label -> what the setting changes.
      spaces: contestant -> field -> least and largest value tried.
      variants: contestant -> what it fixes, its algorithm included; the others are algorithms.
      trials: candidates of each contestant in each setting.
      trials_of: contestant -> candidates, where they are more than those.
      against: contestants with which others are compared besides SGD, without a test.
      tuning_seeds: seeds (and data) of every candidate.
      test_seeds: seeds (and data) of the test.
      sigma: noise strength at which local energies are tabled.
    """

    settings: Mapping[str, Mapping[str, Any]]
    spaces: Mapping[str, Mapping[str, tuple[float, float]]]
    trials: int
    tuning_seeds: Sequence[int]
    test_seeds: Sequence[int]
    sigma: float
    variants: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    trials_of: Mapping[str, int] = dataclasses.field(default_factory=dict)
    against: Sequence[str] = ()

    def candidates(self, algorithm: str) -> list[dict[str, float]]:
        """The settings that are tried, log-uniform in the algorithm's space."""
        trials = self.trials_of.get(algorithm, self.trials)
        return log_uniform(self.spaces[algorithm], trials)

    def config(self, setting: str, algorithm: str, evaluate_on: str) -> TrainConfig:
        """What all candidates of a contestant share; couplings stand where none may be missing."""
        lowest = {name: bounds[0] for name, bounds in self.spaces[algorithm].items()}
        own = {"algorithm": algorithm, "evaluate_on": evaluate_on}
        return self.changed(own, lowest, self.settings[setting], self.variants.get(algorithm, {}))

    def algorithm_of(self, contestant: str) -> str:
        """What it runs."""
        return self.variants.get(contestant, {}).get("algorithm", contestant)
