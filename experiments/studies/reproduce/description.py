"""What a row of the paper's table is."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.studies.compare.description import Comparison

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Comparison):
    """One network on one data set, with all its algorithms.

    Attributes:
      title: data and network, as people call them.
      reported: label -> test error (%) that the paper reports, mean ± s.e.
      sigma: noise strength at which local energies are tabled.
      num_examples: training images, for the estimate of the time.
      image_side: their height and width.
      channels: their channels.
      num_classes: how many.
      reduced_options: attributes that make the network small.
    """

    title: str
    reported: Mapping[str, str]
    sigma: float = 0.3
    num_examples: int = 50_000
    image_side: int = 32
    channels: int = 3
    num_classes: int = 10
    reduced_options: tuple[str, ...] = ()

    def reduced(self, dataset: str) -> Comparison:
        """A small network for a few epochs on another data set, one seed of each algorithm."""
        options = (*self.base.network.model_options, *self.reduced_options)
        base = self.changed(REDUCED, {"dataset": dataset, "model_options": options})
        factor = base.epochs / self.base.epochs
        runs = {
            label: own | ({"epochs": own["epochs"] * factor} if "epochs" in own else {})
            for label, own in self.runs.items()
        }
        return Comparison(base=base, runs=runs, seeds=1, sigma=self.sigma)


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
