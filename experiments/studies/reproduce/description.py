"""The description of a row of the paper's table."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.engine.config import TrainConfig
from experiments.studies.compare.description import Comparison
from experiments.studies.study import chosen

REPLICAS = 3  # y, in the paper

# A small machine has time for some hundred gradients of a small network, on real images.
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
      title: usual names of data and network.
      variants: label -> changes of a run that is made only if the user names it. Labels that end in
        ", as published" have the paper's force, decay and length (`as_published`).
      reported: label -> test error (%) that the paper reports, mean ± s.e.
      sigma: noise strength of the tabulated local energies.
      num_examples: number of training images, to estimate the time.
      image_side: height and width of the images.
      channels: channels of the images.
      num_classes: number of classes.
      reduced_options: attributes that make the network small.
    """

    title: str
    variants: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    reported: Mapping[str, str]
    sigma: float = 0.3
    num_examples: int = 50_000
    image_side: int = 32
    channels: int = 3
    num_classes: int = 10
    reduced_options: tuple[str, ...] = ()

    def with_runs(self, labels: Sequence[str]) -> "Row":
        """Returns the row with these runs or variants; with all runs by default.

        Raises:
          ValueError: one of the labels has no run.
        """
        known = self.runs | {label: dict(own) for label, own in self.variants.items()}
        return dataclasses.replace(self, runs=chosen(labels, known) if labels else self.runs)

    def baseline_of(self, label: str) -> str | None:
        """Returns the paper's result for the algorithm of a run or variant, or None.

        Examples:
          >>> row = Row(base=TrainConfig.of(), runs={}, seeds=1, title="", reported={"SGD": "13.1"})
          >>> row.baseline_of("SGD, flip and crop")
          '13.1'
        """
        return self.reported.get(label.partition(",")[0])

    def reduced(self, dataset: str) -> Comparison:
        """Returns a small network for a few epochs on other data, with one seed each."""
        # A small network fits into memory as it is.
        own = [option for option in self.base.network.model_options if option != "remat=True"]
        options = (*own, *self.reduced_options)
        base = self.changed(REDUCED, {"dataset": dataset, "model_options": options})
        factor = base.epochs / self.base.epochs
        runs = {
            label: own | ({"epochs": own["epochs"] * factor} if "epochs" in own else {})
            for label, own in self.runs.items()
        }
        return Comparison(base=base, runs=runs, seeds=1, sigma=self.sigma)


def algorithms(epochs: float) -> dict[str, dict[str, Any]]:
    """Returns the algorithms of a row, at equal and at y times the gradients.

    Args:
      epochs: epochs of the base.
    """
    return {
        "SGD": {"algorithm": "sgd"},
        "rSGD": {"algorithm": "rsgd"},
        "eSGD": {"algorithm": "esgd"},
        "rSGD x 3": {"algorithm": "rsgd", "epochs": 3 * epochs},
    }


def as_published(base: TrainConfig, *, epochs: float | None = None) -> dict[str, dict[str, Any]]:
    """Returns the algorithms as in the authors' code, if our rows choose otherwise.

    - The coupling is a force in the gradient, which momentum amplifies, instead of a pull after the
      optimizer's step. Replicas meet earlier, by a quarter of the training.
    - The weight decay of Replicated-SGD is y times the nominal one. The authors' loss is the mean
      over the replicas, and their learning rate is y times the nominal one, which also multiplies
      the decay.

    The outer step of Entropy-SGD is not scaled. Scaled by gamma, as by the authors, it would freeze
    the anchor.

    Args:
      base: base of the row.
      epochs: number of epochs, if different from the row's.
    """
    length = {} if epochs is None else {"epochs": epochs}
    force, shares = {"decoupled": False}, {"replicas": REPLICAS}
    decay = {"weight_decay": REPLICAS * base.optimizer.weight_decay}
    return {
        "SGD, as published": {"algorithm": "sgd"} | length,
        "rSGD, as published": {"algorithm": "rsgd"} | shares | force | decay | length,
        "eSGD, as published": {"algorithm": "esgd"} | force | length,
    }
