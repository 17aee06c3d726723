"""The description of the study of a language model."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.engine.config import TrainConfig
from experiments.studies.study import Study


@dataclasses.dataclass(frozen=True)
class Coefficient:
    """Settings of the estimate of the learning coefficient.

    Attributes:
      seeds: seeds whose solutions are measured.
      sequences: number of training sequences, n / T.
      batch_size: sequences in a step of a chain.
      num_chains: number of chains.
      num_steps: recorded steps of each chain.
      num_warmup: warm-up steps of each chain.
    """

    seeds: Sequence[int] = (0,)
    sequences: int = 64
    batch_size: int = 4
    num_chains: int = 2
    num_steps: int = 40
    num_warmup: int = 40


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The search for settings of the primary arms, and the runs with these.

    Attributes:
      axes: arm -> setting -> the values that are tried first, which are the powers of one ratio.
        Settings are searched in this order, again until none changes; one that has not had its
        turn has its middle value.
      seeds: seeds of each candidate.
      final_seeds: seeds of the runs with the chosen settings.
      validation: part of the training sequences on which candidates are compared.
    """

    axes: Mapping[str, Mapping[str, Sequence[float]]] = dataclasses.field(default_factory=dict)
    seeds: Sequence[int] = (1000,)
    final_seeds: Sequence[int] = (20, 21, 22)
    validation: float = 0.02


@dataclasses.dataclass(frozen=True)
class Language(Study):
    """The study; see `experiments.configs.language`.

    Attributes:
      base: settings that all runs share.
      arms: label -> changes; `steps` there multiplies the steps, `batch` the batch size, and `pull`
        is the learning rate times gamma.
      steps: S, sequential steps of an arm without `steps`.
      seeds: seeds of every arm.
      primary: arms that are run first, see `units`.
      points: number of evenly spaced measurements of held-out bits along training.
      flat_points: number of these at which flatness is measured, at the ends of equal parts.
      coefficient: settings of the estimate of the learning coefficient.
      tuning: the search for settings of the primary arms.
    """

    arms: Mapping[str, Mapping[str, Any]]
    steps: int
    seeds: Sequence[int]
    primary: Sequence[str] = ()
    points: int = 8
    flat_points: int = 2
    coefficient: Coefficient = dataclasses.field(default_factory=Coefficient)
    tuning: Tuning = dataclasses.field(default_factory=Tuning)

    def units(self) -> list[tuple[str, int]]:
        """Returns arms and seeds in the order in which they are run.

        The primary arms come first, seed by seed, and then the other arms, seed by seed.
        """
        primary = [arm for arm in self.arms if arm in self.primary]
        others = [arm for arm in self.arms if arm not in self.primary]
        return [(arm, seed) for part in (primary, others) for seed in self.seeds for arm in part]

    def steps_of(self, arm: str) -> int:
        """Returns the sequential steps of an arm."""
        return self.steps * self.arms[arm].get("steps", 1)

    def config(self, arm: str, num_train: int) -> TrainConfig:
        """Returns the configuration of an arm; its budget is in passes over the data."""
        arm_changes = self.arms[arm]
        own = {n: v for n, v in arm_changes.items() if n not in ("steps", "batch", "pull")}
        config = self.changed(own)
        if "pull" in arm_changes:
            rate = config.flat()["learning_rate"]
            config = config.changed(gamma=arm_changes["pull"] / rate)
        config = config.changed(batch_size=config.batch_size * self.arms[arm].get("batch", 1))
        gradients = self.steps_of(arm) * config.num_replicas
        return config.changed(epochs=gradients / (num_train // config.batch_size))

    def workers(self, arm: str) -> int:
        """Returns the number of parallel workers: replicas, or parts of a batch."""
        return self.config(arm, 10**9).num_replicas * self.arms[arm].get("batch", 1)

    def period(self, arm: str) -> int | None:
        """Returns K, the steps between messages; None for one worker."""
        algorithm = self.config(arm, 10**9).algorithm
        if self.workers(arm) == 1:
            return None
        return getattr(algorithm, "period", getattr(algorithm, "inner_steps", 1))

    def couplings(self, arm: str) -> int:
        """Returns how often each worker sends a message; 0 for one worker."""
        period = self.period(arm)
        return 0 if period is None else self.steps_of(arm) // period
