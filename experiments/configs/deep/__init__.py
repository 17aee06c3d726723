"""The deep networks of the paper: a file for each row of its table, with all its algorithms.

    python -m experiments reproduce --table
    python -m experiments reproduce cifar10-resnet18 --only rSGD

Every file gives, for each algorithm, the command, what the paper reports and how it is run. What is
reported is quoted as "reported by the paper". Hours follow from operations alone: `--table` prints
them for any speed.

Replicas start independently, and are pulled to their center after the optimizer's step, decoupled
from the gradient: the same force as the paper's, stable for any strength. gamma_0 is measured
(coupling energy = loss), and grows by 1e4. `--no-decoupled` in `train` has the force in the
gradient.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from experiments.configs import Study
from experiments.engine.config import TrainConfig

ROWS = (
    "cifar10-smallconvnet",
    "cifar10-resnet18",
    "cifar10-resnet110",
    "cifar10-pyramidnet",
    "cifar100-pyramidnet",
    "cifar100-efficientnet",
    "tiny-imagenet-resnet50",
    "tiny-imagenet-densenet121",
    "cifar10-vit",
    "fashion-mnist-resnet8",
)

# What a small machine has time for: some hundred gradients of a small network, on real images.
REDUCED = {
    "rgb32": True,
    "train_size": 500,
    "held_out_size": 250,
    "batch_size": 25,
    "epochs": 6.0,
    "validation": 0.0,
    "augment": ("flip",),
    "sigmas": (0.1, 0.3),
    "local_energy_samples": 2,
    "local_energy_examples": 250,
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One network on one data set.

    Attributes:
      title: data and network, as people call them.
      base: what all algorithms share.
      algorithms: label -> what it changes.
      reported: label -> test error (%) that the paper reports, mean ± s.e.
      seeds: of each algorithm.
      sigma: noise strength at which local energies are tabled.
      num_examples: training images, for the estimate of the time.
      image_side: their height and width.
      channels: their channels.
      num_classes: how many.
      reduced_options: attributes that make the network small.
      tuning: what runs change while settings are chosen, see `Study`.
      grids: what is tried, see `Study`; most rows take their settings from the paper.
    """

    title: str
    base: TrainConfig
    algorithms: Mapping[str, Mapping[str, Any]]
    reported: Mapping[str, str]
    seeds: int
    sigma: float = 0.3
    num_examples: int = 50_000
    image_side: int = 32
    channels: int = 3
    num_classes: int = 10
    reduced_options: tuple[str, ...] = ()
    tuning: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    grids: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def study(self, *, reduced_on: str | None = None) -> Study:
        """What `compare` runs.

        Args:
          reduced_on: data set of the reduced form; None for the real thing.
        """
        if reduced_on is None:
            return Study(
                *(self.base, dict(self.algorithms), self.seeds),
                sigma=self.sigma,
                tuning=dict(self.tuning),
                grids=dict(self.grids),
            )
        changes = REDUCED | {"dataset": reduced_on}
        options = (*self.base.model_options, *self.reduced_options)
        base = dataclasses.replace(self.base, model_options=options, **changes)
        factor = base.epochs / self.base.epochs
        runs = {
            label: dict(own) | ({"epochs": own["epochs"] * factor} if "epochs" in own else {})
            for label, own in self.algorithms.items()
        }
        return Study(base, runs, 1, sigma=self.sigma)


def algorithms(epochs: float, *, sgd: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """The algorithms of a row: equal gradients, and Replicated-SGD with y times as many.

    Args:
      epochs: of the base.
      sgd: what SGD alone changes.
    """
    return {
        "SGD": {"algorithm": "sgd"} | dict(sgd or {}),
        "rSGD": {"algorithm": "rsgd"},
        "eSGD": {"algorithm": "esgd"},
        "rSGD x 3": {"algorithm": "rsgd", "epochs": 3 * epochs},
    }


def row_of(name: str) -> Row:
    """The row of this name.

    Raises:
      ValueError: there is none.
    """
    if name not in ROWS:
        raise ValueError(f"row must be one of {', '.join(ROWS)}; got {name!r}.")
    module = name.replace("-", "_")
    return importlib.import_module(f"experiments.configs.deep.{module}").ROW
