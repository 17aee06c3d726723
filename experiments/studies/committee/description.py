"""The description of the study of committees: classes, algorithms, measures."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class TwoClasses:
    """Two classes, and the numbers of their patterns.

    Attributes:
      dataset: see `flatjax.data.load`.
      classes: labels in the data set of the classes -1 and 1.
      num_train: number of patterns to learn.
      num_validation: number of patterns for the choice of settings.
      label_noise: fraction of the training labels that are wrong.
    """

    dataset: str = "fashion_mnist"
    classes: tuple[int, int] = (3, 4)  # Dress, Coat
    num_train: int = 500
    num_validation: int = 2000
    label_noise: float = 0.0


@dataclasses.dataclass(frozen=True)
class GradientSolver:
    r"""Settings of training by gradients.

    Attributes:
      algorithm: sgd, rsgd (replicas coupled to their center), esgd (Entropy-SGD).
      epochs: passes over the patterns, for each replica.
      learning_rate: learning rate for the gradient of the mean loss, times sqrt(N).
      momentum: Nesterov momentum.
      batch_size: patterns in a batch.
      beta: steepness of the units, first and last; it grows by a constant factor.
      replicas: y.
      gamma: coupling at the end. It grows linearly from 0 (rsgd), or is constant (esgd).
      inner_steps: L of esgd.
      common_start: whether replicas start from the same weights, so that unit k has the same role
        in all of them.
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
    common_start: bool = True

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> "GradientSolver":
        """Makes settings from values of JSON."""
        return cls(**settings | {"beta": tuple(settings["beta"])})

    def num_steps(self, num_patterns: int) -> int:
        """Returns the number of gradients of each replica."""
        return self.epochs * (num_patterns // self.batch_size)


@dataclasses.dataclass(frozen=True)
class MessagePassing:
    """Settings of belief propagation.

    Attributes:
      num_replicas: y; 1 for the means of the marginals, infinite for self-reinforcement. If it also
        grows by a constant factor, the first and the last y.
      gamma: coupling of the replicas, first and last; it grows by a constant factor.
      num_gammas: number of steps of that growth.
      damping: damping of the messages.
    """

    num_replicas: float | tuple[float, float] = 1
    gamma: tuple[float, float] = (0.02, 300.0)
    num_gammas: int = 60
    damping: float = 0.9

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> "MessagePassing":
        """Makes settings from values of JSON."""
        replicas = settings["num_replicas"]
        replicas = tuple(replicas) if isinstance(replicas, list) else replicas
        return cls(**settings | {"gamma": tuple(settings["gamma"]), "num_replicas": replicas})


Solver = GradientSolver | MessagePassing


@dataclasses.dataclass(frozen=True)
class CommitteeStudy:
    """The study: data, algorithms and measures; see `experiments.configs.committee`.

    Attributes:
      task: the two classes.
      num_units: K.
      solvers: label -> settings.
      spaces: label -> field -> values, from which validation patterns choose.
      subsets: seeds of the training patterns.
      tuning_subsets: seeds of other patterns, for the choice of settings.
      seeds: seeds of every solver on every subset.
      overlaps: overlaps p at which message passing estimates the local entropy of every solution.
      sampled_overlaps: overlaps p at which the local entropy of every solution is also counted. For
        the first seed on the first subset, it is compared with both kinds of chains and with EP.
      sigmas: noise strengths of the local energy.
      num_samples: number of draws of that noise.
      direct_samples: number of draws for counting.
      betas: inverse temperatures of `flatjax.flatness.local_entropy`.
      chain_steps: number of steps of each of its chains.
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
