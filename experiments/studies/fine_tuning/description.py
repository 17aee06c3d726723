"""The description of the study of fine-tuning."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.studies.contest.description import Tuned

LAST_LAYERS, LORA = "last layers", "LoRA"


@dataclasses.dataclass(frozen=True)
class Data:
    """The two tasks, and how many examples there are.

    Attributes:
      dataset: name of the data set.
      old: classes of the first task.
      new: classes of the second task.
      train_size: training images of the new task, drawn anew for each seed.
      validation_size: held-out training images of each task, drawn anew for each seed.
    """

    dataset: str = "fashion_mnist"
    old: Sequence[int] = (0, 1, 2, 3, 4)
    new: Sequence[int] = (5, 6, 7, 8, 9)
    train_size: int = 500
    validation_size: int = 1000


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """Training on the old task, by AdamW with a cosine schedule.

    Attributes:
      steps: number of gradients.
      batch_size: examples of a gradient.
      learning_rate: the peak.
      weight_decay: the decoupled weight decay.
    """

    steps: int = 600
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.01


@dataclasses.dataclass(frozen=True)
class Longer:
    """A tested variant with the chosen settings of a contestant, and more gradients.

    Attributes:
      contestant: label of the contestant.
      multiple: factor of the number of gradients.
    """

    contestant: str
    multiple: int


@dataclasses.dataclass(frozen=True)
class FineTuning(Tuned):
    """The study; `experiments.configs.fine_tuning` has the protocol.

    Attributes:
      data: the two tasks.
      pretraining: training on the old task.
      hidden: widths of the hidden layers.
      modes: which weights are trained, `LAST_LAYERS` or `LORA`.
      rank: rank of the low-rank changes.
      gradients: gradients of a run, over all of its replicas.
      batch_size: examples of a gradient.
      longer: label -> variant with more gradients, which is tested only.
      first_test_seed: first seed of the test.
      test_seeds: number of seeds of the test.
      sigmas: strengths of the noise on the weights of a tested network.
      noise_samples: draws of the noise at each strength.
    """

    data: Data
    pretraining: Pretraining
    hidden: Sequence[int]
    modes: Sequence[str]
    rank: int
    gradients: int
    batch_size: int
    longer: Mapping[str, Longer]
    first_test_seed: int
    test_seeds: int
    sigmas: Sequence[float]
    noise_samples: int

    @property
    def seeds_of_test(self) -> list[int]:
        """Returns the seeds of the test."""
        return list(range(self.first_test_seed, self.first_test_seed + self.test_seeds))

    def base_of(self, label: str) -> str:
        """Returns the contestant whose chosen settings an arm has."""
        return self.longer[label].contestant if label in self.longer else label

    def run_of(self, mode: str, label: str) -> dict[str, Any]:
        """Returns everything that the runs of an arm share, as values for JSON."""
        multiple = self.longer[label].multiple if label in self.longer else 1
        return {
            "mode": mode,
            "fixed": dict(self.contestants[self.base_of(label)].fixed),
            "gradients": multiple * self.gradients,
            "batch_size": self.batch_size,
            "rank": self.rank if mode == LORA else None,
            "hidden": list(self.hidden),
            "data": dataclasses.asdict(self.data),
            "pretraining": dataclasses.asdict(self.pretraining),
        }
