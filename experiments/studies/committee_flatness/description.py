"""The description of the study: sizes, label noise, and random settings."""

import dataclasses
from collections.abc import Mapping, Sequence

from experiments.studies.committee.description import GradientSolver, TwoClasses
from experiments.studies.spaces import Range, log_uniform

Cell = tuple[int, float]  # number of patterns, label noise


@dataclasses.dataclass(frozen=True)
class CommitteeFlatness:
    """The study; see `experiments.configs.committee_flatness`.

    Attributes:
      task: the two classes; each cell has its own number of patterns and label noise.
      num_units: K.
      sizes: numbers of training patterns, P.
      noises: fractions of the labels that are wrong.
      solvers: algorithm -> what its settings share.
      spaces: algorithm -> field -> smallest and largest value, or a choice.
      trials: number of settings of each algorithm.
      steps: gradients of each replica, about.
      subsets: seeds of the training patterns.
      sigmas: strengths of the noise of the local energy; the first one is planned.
      num_samples: draws of this noise.
      width: width, in points, of the range of training errors whose solutions are compared.
    """

    task: TwoClasses
    num_units: int
    sizes: Sequence[int]
    noises: Sequence[float]
    solvers: Mapping[str, GradientSolver]
    spaces: Mapping[str, Mapping[str, Range]]
    trials: int
    steps: int
    subsets: Sequence[int]
    sigmas: Sequence[float]
    num_samples: int
    width: float

    def cells(self) -> list[Cell]:
        """Lists the cells; small ones come first."""
        return [(size, noise) for size in self.sizes for noise in self.noises]

    def task_of(self, cell: Cell) -> TwoClasses:
        """Returns the task of a cell."""
        size, noise = cell
        return dataclasses.replace(self.task, num_train=size, label_noise=noise)

    def solvers_of(self, cell: Cell) -> dict[str, GradientSolver]:
        """Makes the settings of a cell: "<algorithm> <number>" -> settings.

        Settings with equal names differ between cells only in the number of epochs.
        """
        found = {}
        for algorithm, base in self.solvers.items():
            for number, own in enumerate(log_uniform(self.spaces[algorithm], self.trials)):
                solver = dataclasses.replace(base, **own)
                batches = cell[0] // solver.batch_size
                epochs = max(1, round(self.steps / batches))
                found[f"{algorithm} {number}"] = dataclasses.replace(solver, epochs=epochs)
        return found
