"""The description of a contest."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.engine.config import TrainConfig
from experiments.studies.spaces import log_uniform
from experiments.studies.study import Study


@dataclasses.dataclass(frozen=True)
class Contest(Study):
    """The contest; see `experiments.configs.first_contest` for the protocol.

    Attributes:
      base: settings that all runs share.
      settings: label -> changes of the setting.
      spaces: contestant -> field -> smallest and largest value to try.
      variants: contestant -> its fixed settings, including its algorithm; others are algorithms.
      trials: number of candidates of each contestant in each setting.
      trials_of: contestant -> number of candidates, if it has more.
      against: contestants with which others are also compared, without a test.
      tuning_seeds: seeds (and data) of every candidate.
      test_seeds: seeds (and data) of the test.
      sigma: noise strength of the tabulated local energies.
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
        """Returns the settings to try, log-uniform in the algorithm's space."""
        trials = self.trials_of.get(algorithm, self.trials)
        return log_uniform(self.spaces[algorithm], trials)

    def config(self, setting: str, algorithm: str, evaluate_on: str) -> TrainConfig:
        """Returns the settings that all candidates share, couplings included."""
        lowest = {name: bounds[0] for name, bounds in self.spaces[algorithm].items()}
        own = {"algorithm": algorithm, "evaluate_on": evaluate_on}
        return self.changed(own, lowest, self.settings[setting], self.variants.get(algorithm, {}))

    def algorithm_of(self, contestant: str) -> str:
        """Returns the algorithm of a contestant."""
        return self.variants.get(contestant, {}).get("algorithm", contestant)
