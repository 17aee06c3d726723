"""The description of a comparison."""

import dataclasses
from typing import Any

from experiments.engine.config import TrainConfig
from experiments.studies.spaces import grid
from experiments.studies.study import Study


@dataclasses.dataclass(frozen=True)
class Comparison(Study):
    """Algorithms compared on one task.

    Attributes:
      base: settings that all runs share.
      runs: label -> changes of that run. "A x y" has y times the budget of "A".
      seeds: number of seeds of each run.
      sigma: noise strength of the tabulated local energies; one of `base.sigmas`.
      tuning: changes of all runs while settings are chosen, always on validation data.
      grids: label -> field -> values to try, in all combinations.
      conclusion: what the table can show and what it cannot; printed below it.
    """

    runs: dict[str, dict[str, Any]]
    seeds: int
    sigma: float
    tuning: dict[str, Any] = dataclasses.field(default_factory=dict)
    grids: dict[str, dict[str, tuple[Any, ...]]] = dataclasses.field(default_factory=dict)
    conclusion: str = ""

    def configs(self) -> dict[str, TrainConfig]:
        """Returns label -> configuration."""
        return {label: self.changed(changes) for label, changes in self.runs.items()}

    def candidates(self, label: str) -> list[dict[str, Any]]:
        """Returns the settings that tuning tries for one label, as changes of its run."""
        return grid(self.grids[label])
