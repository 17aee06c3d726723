"""Studies: which algorithms are compared, with which settings. One file for each data set."""

import dataclasses
import itertools
from typing import Any

from experiments.engine.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Study:
    """Algorithms compared on one task.

    Attributes:
      base: what all runs share.
      runs: label -> what that run changes. "A x y" has y times the budget of "A".
      seeds: number of seeds of each.
      sigma: noise strength at which local energies are tabled; one of `base.sigmas`.
      tuning: what all runs change while settings are chosen, always on validation data.
      grids: label -> field -> the values tried, all combinations of them.
    """

    base: TrainConfig
    runs: dict[str, dict[str, Any]]
    seeds: int
    sigma: float
    tuning: dict[str, Any] = dataclasses.field(default_factory=dict)
    grids: dict[str, dict[str, tuple[Any, ...]]] = dataclasses.field(default_factory=dict)

    def configs(self) -> dict[str, TrainConfig]:
        """Label -> configuration."""
        return {
            label: dataclasses.replace(self.base, **changes) for label, changes in self.runs.items()
        }

    def candidates(self, label: str) -> list[dict[str, Any]]:
        """The settings that tuning tries for one label, as changes of its run."""
        grid = self.grids[label]
        return [
            dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
        ]


def study_of(dataset: str) -> Study:
    """The study of a data set, "communication", or that of a row of the paper's table.

    Data sets without a study of their own get Fashion-MNIST's.
    """
    from experiments.configs import communication, deep, digits, fashion_mnist

    if dataset == "communication":
        return communication.STUDY
    if dataset in deep.ROWS:
        return deep.row_of(dataset).study()
    own = {"digits": digits.STUDY, "fashion_mnist": fashion_mnist.STUDY}
    study = own.get(dataset, fashion_mnist.STUDY)
    return dataclasses.replace(study, base=dataclasses.replace(study.base, dataset=dataset))
