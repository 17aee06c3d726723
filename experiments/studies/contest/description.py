"""What a contest is."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.engine.config import TrainConfig
from experiments.studies.spaces import Range, log_uniform
from experiments.studies.study import Study


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One algorithm, or a variant of one.

    Attributes:
      fixed: what it fixes, its algorithm included.
      space: field -> least and largest value tried, or a choice.
      choice_of: another contestant. If given, there is no search: the settings are those that it
        chose, and `fixed` takes precedence over them.
      last_ends: ends of ranges, as (field, "low" or "high"), that are never extended: values beyond
        them change nothing, or are refused.
    """

    fixed: Mapping[str, Any]
    space: Mapping[str, Range] = dataclasses.field(default_factory=dict)
    choice_of: str | None = None
    last_ends: Sequence[tuple[str, str]] = ()

    @property
    def algorithm(self) -> str:
        """What it runs."""
        return self.fixed["algorithm"]


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """Outcomes of a tested model, and how they are measured.

    Attributes:
      sigmas: strengths of the noise on the weights.
      noise_samples: draws of the noise at each strength.
      noise_rises: rises of the training error, in points, whose noise is found.
      bits: of the rounded weights.
      sparsity: fractions of weights that are pruned.
      examples: how many test examples rises under rounding and pruning are measured on, and how
        many training examples those under noise.
      watched: how often the baseline is looked at while it trains, to stop it early.
      ema_decay: network -> decay of the average of the baseline's weights.
    """

    sigmas: Sequence[float]
    noise_samples: int
    noise_rises: Sequence[float]
    bits: Sequence[int]
    sparsity: Sequence[float]
    examples: int
    watched: int
    ema_decay: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Tuned:
    """How contestants are tuned on validation data, and which are compared.

    Attributes:
      contestants: label -> contestant.
      trials: candidates of each contestant in each setting, before extensions.
      rounds: of successive halving: how many of the best candidates are kept, on how many seeds.
      edge: fraction of a range, on a log scale, at each of its ends, in which a choice extends it.
      extension: length of an extension, as a fraction of the range's, on a log scale.
      extension_trials: candidates that an extension adds for each range that it extends.
      extensions: how often a contestant's ranges may be extended in a setting.
      ends_at_zero: fields whose lower end is not extended: candidates at 0 are added instead.
      baseline: the contestant with which all are compared.
      references: other contestants with which the primary ones are compared.
      primary: contestants whose comparisons with the baseline are corrected together.
    """

    contestants: Mapping[str, Contestant]
    trials: int
    rounds: Sequence[tuple[int, int]]
    edge: float
    extension: float
    extension_trials: int
    extensions: int
    ends_at_zero: Sequence[str]
    baseline: str
    references: Sequence[str]
    primary: Sequence[str]

    def __post_init__(self) -> None:
        for name, one in self.contestants.items():
            if one.choice_of is not None and one.choice_of not in self.contestants:
                raise ValueError(
                    f"algorithms must include {one.choice_of!r}, whose settings {name!r} takes, "
                    f"got {list(self.contestants)}."
                )

    def candidates(self, contestant: str) -> list[dict[str, float]]:
        """The settings that are tried first, log-uniform in the contestant's space."""
        one = self.contestants[contestant]
        searched = one if one.choice_of is None else self.contestants[one.choice_of]
        return log_uniform(searched.space, self.trials)


@dataclasses.dataclass(frozen=True)
class Contest(Study, Tuned):
    """A contest of algorithms; `experiments.configs.contest` has the protocol.

    Attributes:
      base: what all runs share.
      settings: label -> what the setting changes; `epochs` is its shortest length.
      lengths: label of a setting -> multiple of its epochs, where it is known.
      first_test_seed: of the test; smaller seeds are those of pilots and tuning.
      test_seeds: network -> number of seeds of the test.
      outcomes: the outcomes of a tested model.
      name: of the files of the report.
      margin: points by which a contestant may be worse than the first reference, and still reach
        it; None if the report does not ask for it.
    """

    settings: Mapping[str, Mapping[str, Any]]
    lengths: Mapping[str, int]
    first_test_seed: int
    test_seeds: Mapping[str, int]
    outcomes: Outcomes
    name: str = "contest"
    margin: float | None = None

    def config(self, setting: str, contestant: str, evaluate_on: str) -> TrainConfig:
        """What all candidates of a contestant share.

        Raises:
          ValueError: the length of the setting is not known; the message names the setting.
        """
        self.require_lengths([setting])
        own, one = self.settings[setting], self.contestants[contestant]
        # Couplings that no candidate lacks: without them they would be measured.
        some = self.candidates(contestant)[0]
        length = {"epochs": float(self.lengths[setting] * own["epochs"])}
        return self.changed(some, own, length, one.fixed, {"evaluate_on": evaluate_on})

    def require_lengths(self, settings: Sequence[str]) -> None:
        """Refuses settings whose length is not known."""
        if unknown := [setting for setting in settings if setting not in self.lengths]:
            raise ValueError(
                f"settings must be some whose length the ladder has fixed, got {unknown}. Choose "
                f"of {[one for one in self.settings if one in self.lengths]}, or run `python -m "
                "experiments ladder` and add its lengths to experiments/configs/contest.py."
            )

    def seeds_of_test(self, setting: str) -> list[int]:
        """The seeds, and data, of the test."""
        number = self.test_seeds[self.settings[setting]["model"]]
        return list(range(self.first_test_seed, self.first_test_seed + number))
