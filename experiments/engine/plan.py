"""The static part of a run: everything that shapes its programs.

A run is a plan, hyperparameters and a seed. Runs that differ only in hyperparameters and seed have
equal plans, and therefore share their compiled programs.
"""

import dataclasses
from typing import Any

import optax

from experiments.engine.algorithms import ALGORITHMS, Algorithm, Hyper, learning_rate_schedule
from experiments.engine.config import TrainConfig
from experiments.engine.feed import rows_in_window
from experiments.engine.objective import Objective
from experiments.engine.placement import OneDevice, Placement
from experiments.engine.task import Task

# Numbers that a program takes as arguments. None means that a coupling is measured when training
# starts, or that no noise is drawn; this changes the program.
HYPERPARAMETERS = (
    "learning_rate",
    "weight_decay",
    "gamma",
    "replica_gamma",
    "distance",
    "ascent",
    "noise_scale",
    "sam_rho",
    "averaging_decay",
    "ema_decay",
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The part of a run that shapes its programs. Plans compare and hash by value.

    Attributes:
      config: the settings. Its seed and hyperparameters have fixed values, which are not used.
      objective: network and loss.
      num_examples: training examples in a pass.
      placement: where the arrays of the run are stored.
      window_rows: number of rows of batches on the device, see `feed`, for examples from a stream
        or a file; None if the training examples are in memory.

    Raises:
      ValueError: the configuration does not fit the data.
    """

    config: TrainConfig
    objective: Objective
    num_examples: int
    placement: Placement
    window_rows: int | None = None

    def __post_init__(self) -> None:
        config = self.config
        if config.batch_size > self.num_examples:
            raise ValueError(
                f"batch_size (--batch-size) must be at most the {self.num_examples} training "
                f"examples, got {config.batch_size}."
            )
        if self.total_steps == 0:
            raise ValueError(
                f"epochs must pay for at least {self._unit} gradients of each of "
                f"{self.num_replicas} replicas, got {config.epochs} ({self._budget:.2f} gradients)."
            )

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm of the run."""
        return ALGORITHMS[self.config.algorithm.name]

    @property
    def num_replicas(self) -> int:
        """The number of replicas, y."""
        return self.config.num_replicas

    @property
    def examples_shape(self) -> tuple[int, ...]:
        """The shape of the labels in programs: of all examples, or of a window of them."""
        if self.window_rows is None:
            return (self.num_examples,)
        return self.window_rows, self.num_replicas, self.config.batch_size

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches in a pass of one replica over the training set."""
        return self.num_examples // self.config.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """The number of gradients of one replica in a pass over the training set."""
        return self.batches_per_epoch * self.algorithm.batch_repeats

    @property
    def _budget(self) -> float:
        return self.config.epochs * self.batches_per_epoch / self.num_replicas

    @property
    def _unit(self) -> int:
        return self.algorithm.gradients_per_cycle(self.config)

    @property
    def total_steps(self) -> int:
        """The number of gradients that each replica takes."""
        return int(self._budget + 1e-9) // self._unit * self._unit

    @property
    def gradient_evaluations(self) -> int:
        """The number of gradients of all replicas together, the budget that a run uses."""
        return self.total_steps * self.num_replicas

    def epoch_lengths(self) -> list[int]:
        """The number of steps of every epoch; the last epoch may be short."""
        full, rest = divmod(self.total_steps, self.steps_per_epoch)
        return [self.steps_per_epoch] * full + [rest] * (rest > 0)

    def optimizer(self, hyper: Hyper) -> optax.GradientTransformationExtraArgs:
        """Makes the transformation of the stacked replicas; `hyper` may be traced."""
        tx = self.algorithm.make(self.config, hyper, self.total_steps)
        return optax.with_extra_args_support(tx)

    def learning_rate(self, hyper: Hyper) -> optax.Schedule:
        """Makes the learning rate as a function of the step of one replica."""
        return learning_rate_schedule(self.config, hyper, self.total_steps)


def make_plan(config: TrainConfig, task: Task, placement: Placement | None = None) -> Plan:
    """Makes the plan of a configuration; seed and hyperparameters do not matter.

    Raises:
      ValueError: the configuration does not fit the data or the placement.
    """
    placement = OneDevice() if placement is None else placement
    placement.check_fit(config)
    shared = _without_hyper(config)
    return Plan(shared, task.objective, task.num_train, placement, _window_rows(config, task))


def _window_rows(config: TrainConfig, task: Task) -> int | None:
    if task.is_in_memory:
        return None
    example, rows = task.train.arrays[0][0], task.num_train // config.batch_size
    return rows_in_window(example, config.num_replicas, config.batch_size, rows)


def _without_hyper(config: TrainConfig) -> TrainConfig:
    given: dict[str, Any] = {
        name: 0.5 for name, value in hyper_of(config).items() if value is not None
    }
    return config.changed(seed=0, data_seed=0, **given)


def hyper_of(config: TrainConfig) -> Hyper:
    """Returns the hyperparameters of a configuration, as a pytree of numbers."""
    hyper = {name: value for name, value in config.flat().items() if name in HYPERPARAMETERS}
    if hyper.get("noise_scale") == 0:
        hyper["noise_scale"] = None
    return hyper
