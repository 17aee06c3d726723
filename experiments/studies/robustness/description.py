"""The description of the study of robustness."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.engine.config import TrainConfig
from experiments.studies.contest.description import Outcomes
from experiments.studies.study import Study

# Predictors of every solution, and their names in tables. The protocol plans the first five.
PREDICTORS = {
    "local_energy": "local energy, σ=0.3",
    "sam": "SAM sharpness, ρ=0.05",
    "learning_coefficient": "learning coefficient λ",
    "norm": "norm of the weights",
    "outliers": "outliers",
    "asam": "adaptive sharpness, ρ=0.5",
    "train_loss": "training loss",
    "narrowness": "small margins",
}
NUM_PLANNED = 5
CONTROLS = ("norm", "outliers")

# Outcomes that are ranked: rises of the test error, by their names in the records.
OUTCOMES = {
    "4 bits, tensor": "4 bits\ntensor",
    "3 bits, tensor": "3 bits\ntensor",
    "3 bits, channel": "3 bits\nchannel",
    "3 bits, clipped": "3 bits\nclipped",
    "70% pruned": "70%\npruned",
    "90% pruned": "90%\npruned",
    "relative noise": "relative\nnoise",
    "absolute noise": "absolute\nnoise",
    "100 steps": "fine-\ntuned",
}


class Solution(NamedTuple):
    """One run of the study.

    Attributes:
      factors: field -> multiplier of the center's value; all 1 at the center.
      settings: the fields in which runs of an algorithm differ.
      seed: seed of the run, its subset and its wrong labels.
    """

    factors: dict[str, float]
    settings: dict[str, float]
    seed: int


@dataclasses.dataclass(frozen=True)
class Group:
    """Network, data and algorithms that are analysed together.

    Attributes:
      fields: network and data, as changes of the study's base.
      centers: algorithm -> its settings at the center.
      factors: field -> multipliers of the center's value.
      seeds: seeds of every configuration.
      center_seeds: further seeds of the centers.
    """

    fields: Mapping[str, Any]
    centers: Mapping[str, Mapping[str, Any]]
    factors: Mapping[str, Sequence[float]]
    seeds: Sequence[int]
    center_seeds: Sequence[int] = ()

    def solutions(self, algorithm: str) -> list[Solution]:
        """Lists the runs of an algorithm; those of its center come first."""
        center = self.centers[algorithm]
        multipliers = [dict(zip(self.factors, m, strict=True)) for m in self._combinations()]
        multipliers.sort(key=lambda factors: set(factors.values()) != {1.0})
        found = []
        for factors in multipliers:
            settings = {name: float(f"{center[name] * f:.3g}") for name, f in factors.items()}
            is_center = set(factors.values()) == {1.0}
            seeds = (*self.seeds, *(self.center_seeds if is_center else ()))
            found += [Solution(factors, settings, seed) for seed in seeds]
        return found

    def _combinations(self):
        return itertools.product(*([float(f) for f in factor] for factor in self.factors.values()))


@dataclasses.dataclass(frozen=True)
class Robustness(Study):
    """The study; see `experiments.configs.robustness`.

    Attributes:
      base: settings that all runs share.
      groups: label -> its network, data and algorithms.
      outcomes: how noise, rounding and pruning are measured.
      second_seed: seed of the second task's images.
      steps: numbers of steps on the second task.
      rate: learning rate of these steps.
      momentum: momentum of these steps.
      chains: options of the learning coefficient.
      chain_examples: number of training examples on which it is measured.
      chain_batch: number of examples in a batch of its chains.
      collapsed: test error, in %, above which a solution is left out.
    """

    groups: Mapping[str, Group]
    outcomes: Outcomes
    second_seed: int
    steps: Sequence[int]
    rate: float
    momentum: float
    chains: Mapping[str, Any]
    chain_examples: int
    chain_batch: int
    collapsed: float

    def config(self, group: str, algorithm: str) -> TrainConfig:
        """Returns the settings of the center, which all runs of an algorithm share."""
        own = self.groups[group]
        return self.changed(own.fields, {"algorithm": algorithm}, own.centers[algorithm])
