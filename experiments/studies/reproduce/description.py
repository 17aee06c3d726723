"""What a row of the paper's table is."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.engine.config import TrainConfig
from experiments.studies.compare.description import Comparison
from experiments.studies.study import chosen

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
      variants: label -> what that run changes: runs that are made only if they are asked for. Those
        that end in ", as published" have the paper's force, decay and length (`as_published`).
      reported: label -> test error (%) that the paper reports, mean ± s.e.
      sigma: noise strength at which local energies are tabled.
      num_examples: training images, for the estimate of the time.
      image_side: their height and width.
      channels: their channels.
      num_classes: how many.
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
        """The row with these runs or variants only; with the runs if none is named.

        Raises:
          ValueError: there is no run of one of the labels.
        """
        known = self.runs | {label: dict(own) for label, own in self.variants.items()}
        return dataclasses.replace(self, runs=chosen(labels, known) if labels else self.runs)

    def baseline_of(self, label: str) -> str | None:
        """What the paper reports of the algorithm of a run or variant; None if nothing.

        Examples:
          >>> row = Row(base=TrainConfig.of(), runs={}, seeds=1, title="", reported={"SGD": "13.1"})
          >>> row.baseline_of("SGD, flip and crop")
          '13.1'
        """
        return self.reported.get(label.partition(",")[0])

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


def as_published(
    base: TrainConfig, *, replicas: int = 3, epochs: float | None = None
) -> dict[str, dict[str, Any]]:
    """The algorithms as the authors' code runs them, where our rows choose otherwise.

    - The coupling is a force in the gradient, which momentum amplifies, instead of a pull after the
      optimizer's step: replicas meet a quarter of the training earlier.
    - The weight decay of Replicated-SGD is y times the nominal one: their loss is the mean over the
      replicas and their learning rate y times the nominal one, which multiplies the decay as well.

    The outer step of Entropy-SGD stays unscaled: scaled by gamma, as theirs, it freezes the anchor.

    Args:
      base: of the row.
      replicas: y.
      epochs: their number, if the row has another one.
    """
    length = {} if epochs is None else {"epochs": epochs}
    decay = {"weight_decay": replicas * base.optimizer.weight_decay}
    force = {"decoupled": False}
    return {
        "SGD, as published": {"algorithm": "sgd"} | length,
        "rSGD, as published": {"algorithm": "rsgd", "replicas": replicas} | force | decay | length,
        "eSGD, as published": {"algorithm": "esgd"} | force | length,
    }
