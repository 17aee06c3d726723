"""The description of the study: networks, algorithms and random settings."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.engine.config import TrainConfig
from experiments.studies.spaces import Range, log_uniform
from experiments.studies.study import Study

# Predictors of every solution, and their names in tables. The first one is planned.
PREDICTORS = {
    "local_energy": "local energy",
    "sam": "SAM sharpness",
    "asam": "adaptive sharpness",
    "train_loss": "training loss",
    "norm": "norm of the weights",
    "narrowness": "small margins",
}
CONTROLS = ("train_loss", "norm", "narrowness")
OUTCOMES = {"test_error": "test error", "test_loss": "test loss"}


class Run(NamedTuple):
    """One run of the study.

    Attributes:
      settings: the fields in which runs of an algorithm differ.
      seed: seed of the run, its subset and its wrong labels.
    """

    settings: dict[str, float]
    seed: int


@dataclasses.dataclass(frozen=True)
class MatchedFlatness(Study):
    """The study; see `experiments.configs.matched_flatness`.

    Attributes:
      base: settings that all runs share.
      networks: label -> network and data, as changes of the base.
      algorithms: label -> its fields; `epochs` there multiplies the network's epochs.
      spaces: label of an algorithm -> field -> smallest and largest value.
      trials: label of a network -> number of settings of each algorithm.
      seeds: data samples; all settings share them.
      sigma: strength of the noise of the local energy.
      matched: largest training error, in %, of solutions that are ranked.
    """

    networks: Mapping[str, Mapping[str, Any]]
    algorithms: Mapping[str, Mapping[str, Any]]
    spaces: Mapping[str, Mapping[str, Range]]
    trials: Mapping[str, int]
    seeds: Sequence[int]
    sigma: float
    matched: float

    def config(self, network: str, algorithm: str) -> TrainConfig:
        """Returns what all runs of a network and algorithm share."""
        settings = log_uniform(self.spaces[algorithm], 1)[0]
        own = dict(self.algorithms[algorithm])
        epochs = float(self.networks[network]["epochs"] * own.pop("epochs", 1))
        measured = {"sigmas": (self.sigma,)}
        return self.changed(settings, self.networks[network], own, {"epochs": epochs}, measured)

    def runs(self, network: str, algorithm: str) -> list[Run]:
        """Lists the runs of a network and algorithm, seed by seed."""
        settings = log_uniform(self.spaces[algorithm], self.trials[network])
        return [Run(own, seed) for seed in self.seeds for own in settings]
