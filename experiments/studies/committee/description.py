"""What the study of committees is: two classes, what learns them, and what is measured."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class TwoClasses:
    """Which classes, and how many patterns of them.

    Attributes:
      dataset: see `flatjax.data.load`.
      classes: labels there of the classes -1 and 1.
      num_train: patterns that are learned.
      num_validation: patterns for the choice of settings.
      label_noise: fraction of the labels to learn that are wrong.
    """

    dataset: str = "fashion_mnist"
    classes: tuple[int, int] = (3, 4)  # Dress, Coat
    num_train: int = 500
    num_validation: int = 2000
    label_noise: float = 0.0


@dataclasses.dataclass(frozen=True)
class GradientSolver:
    r"""Settings of a training by gradients.

    Attributes:
      algorithm: sgd, rsgd (replicas coupled to their center), esgd (Entropy-SGD).
      epochs: passes over the patterns, of each replica.
      learning_rate: of the gradient of the mean loss times sqrt(N).
      momentum: Nesterov's.
      batch_size: patterns in a batch.
      beta: steepness of the units, first and last; it grows by a constant factor.
      replicas: y.
      gamma: coupling at the end; it grows linearly from 0 (rsgd), or is constant (esgd).
      inner_steps: L of esgd.
    """

    algorithm: Literal["sgd", "rsgd", "esgd"] = "sgd"
    epochs: int = 100
    learning_rate: float = 1.0
    momentum: float = 0.9
    batch_size: int = 50
    beta: tuple[float, float] = (0.5, 20.0)
    replicas: int = 1
    gamma: float = 0.1
    inner_steps: int = 5

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> "GradientSolver":
        """From what JSON makes of it."""
        return cls(**settings | {"beta": tuple(settings["beta"])})

    def num_steps(self, num_patterns: int) -> int:
        """Gradients of each replica."""
        return self.epochs * (num_patterns // self.batch_size)


@dataclasses.dataclass(frozen=True)
class MessagePassing:
    """Settings of belief propagation.

    Attributes:
      num_replicas: y; 1 for the means of the marginals, infinite for self-reinforcement. First and
        last, if it grows by a constant factor as well.
      gamma: coupling of the replicas, first and last; it grows by a constant factor.
      num_gammas: steps of that growth.
      damping: of the messages.
    """

    num_replicas: float | tuple[float, float] = 1
    gamma: tuple[float, float] = (0.02, 300.0)
    num_gammas: int = 60
    damping: float = 0.9

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> "MessagePassing":
        """From what JSON makes of it."""
        replicas = settings["num_replicas"]
        replicas = tuple(replicas) if isinstance(replicas, list) else replicas
        return cls(**settings | {"gamma": tuple(settings["gamma"]), "num_replicas": replicas})


Solver = GradientSolver | MessagePassing


@dataclasses.dataclass(frozen=True)
class CommitteeStudy:
    """What is learned, by what, and what is measured; see `experiments.configs.committee`.

    Attributes:
      task: the two classes.
      num_units: K.
      solvers: label -> settings.
      spaces: label -> field -> values, of which validation patterns choose.
      subsets: seeds of the patterns to learn.
      tuning_subsets: others, for the choice.
      seeds: of every solver on every subset.
      overlaps: p, at which the local entropy is estimated by message passing, for every solution.
      sampled_overlaps: p, at which it is counted too, for every solution, and compared with chains
        of both kinds and with EP for the first seed on the first subset.
      sigmas: noise strengths of the local energy.
      num_samples: draws of that noise.
      direct_samples: draws that are counted.
      betas: inverse temperatures of `flatjax.flatness.local_entropy`.
      chain_steps: steps of each of its chains.
    """

    task: TwoClasses
    num_units: int
    solvers: Mapping[str, Solver]
    spaces: Mapping[str, Mapping[str, Sequence[float]]]
    subsets: Sequence[int]
    tuning_subsets: Sequence[int]
    seeds: Sequence[int]
    overlaps: Sequence[float]
    sampled_overlaps: Sequence[float]
    sigmas: Sequence[float]
    num_samples: int
    direct_samples: int
    betas: Sequence[float]
    chain_steps: int
