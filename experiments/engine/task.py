"""A task: an objective and its data, loaded as a configuration asks."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import chex
import jax

import flatjax
from experiments.engine import fingerprints
from experiments.engine.config import TrainConfig
from experiments.engine.networks import make_network
from experiments.engine.objective import Objective
from experiments.engine.settings import Data
from flatjax import data

STATISTICS_BATCHES = 20


@dataclasses.dataclass(frozen=True)
class Task:
    """An objective with training and held-out examples.

    Attributes:
      config: the configuration.
      objective: network, loss and evaluation; tasks that differ in their data may share it.
      train: the training examples, with their label noise, in host memory.
      held_out: the examples on which models are evaluated.
    """

    config: TrainConfig
    objective: Objective
    train: data.Split
    held_out: data.Split

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What identifies the data of a run: numbers of examples and digests, as JSON holds it."""
        splits = {"train": self.train, "held_out": self.held_out}
        return {name: fingerprints.of_split(split) for name, split in splits.items()}

    @functools.cached_property
    def device_train(self) -> data.DeviceSplit:
        """The training examples on the device."""
        return data.to_device(self.train)

    @functools.cached_property
    def held_out_batches(self) -> list[dict[str, jax.Array]]:
        """All held-out examples."""
        return self._eval_batches(self.held_out, len(self.held_out), eval_batch_size())

    @functools.cached_property
    def curve_batches(self) -> list[dict[str, jax.Array]]:
        """The held-out examples on which training is followed."""
        return self._eval_batches(
            self.held_out, self.config.measures.curve_examples, eval_batch_size()
        )

    @functools.cached_property
    def train_batches(self) -> list[dict[str, jax.Array]]:
        """The training examples on which local energy is measured."""
        count = self.config.measures.local_energy_examples
        return self._eval_batches(self.train, count, eval_batch_size())

    @functools.cached_property
    def statistics_batches(self) -> list[dict[str, jax.Array]]:
        """The training examples on which batch statistics are measured; full batches only."""
        size = self.config.batch_size
        count = min(STATISTICS_BATCHES, len(self.train) // size)
        return self._eval_batches(self.train, count * size, size)

    def _eval_batches(self, split, count, batch_size):
        head = data.Split(split.image[:count], split.label[:count])
        return data.eval_batches(head, self.objective.normalization, min(batch_size, len(head)))

    def evaluate(
        self,
        params: chex.ArrayTree,
        batch_stats: chex.ArrayTree,
        batches: Iterable[Any] | None = None,
    ) -> dict[str, jax.Array]:
        """Mean loss and error of one network, on the held-out examples by default."""
        batches = self.held_out_batches if batches is None else batches
        return flatjax.evaluate(self.objective.eval_fn, params, batches, batch_stats)

    def ensemble_error(
        self, members: list[chex.ArrayTree], member_stats: list[chex.ArrayTree]
    ) -> jax.Array:
        """Held-out error of the average of the networks' probabilities."""
        eval_fn = self.objective.ensemble_eval_fn
        return flatjax.evaluate(eval_fn, members, self.held_out_batches, member_stats)["error"]


def eval_batch_size() -> int:
    """Examples that are evaluated at once."""
    # A CPU's caches hold what a small conv net makes of 125 images; 500 take three times as long.
    return 125 if jax.default_backend() == "cpu" else 500


# Studies make many tasks of one data set, whose arrays nobody changes.
_load = functools.lru_cache(maxsize=1)(data.load)


@functools.lru_cache(maxsize=1)
def dataset_fingerprint(name: str) -> dict[str, Any]:
    """What identifies a whole data set, as JSON holds it."""
    dataset = _load(name)
    splits = {"train": dataset.train, "test": dataset.test}
    return {"dataset": name} | {
        split: fingerprints.of_split(examples) for split, examples in splits.items()
    }


def load_splits(config: Data) -> tuple[data.Split, data.Split, int]:
    """Training and held-out examples, and the number of classes."""
    dataset = _load(config.dataset)
    train, held_out = dataset.train, dataset.test
    if config.validation > 0:
        train, validation = data.split_validation(train, config.validation, config.data_seed)
        held_out = validation if config.evaluate_on == "validation" else dataset.test
    if config.train_size is not None:
        train = data.subset(train, config.train_size, config.data_seed)
    if config.label_noise > 0:
        train = data.label_noise(train, config.label_noise, dataset.num_classes, config.data_seed)
    held_out = held_out[: config.held_out_size]
    if config.rgb32:
        train, held_out = data.enlarge(train), data.enlarge(held_out)
    return train, held_out, dataset.num_classes


def make_task(config: TrainConfig) -> Task:
    """Loads the data and builds the network of a configuration.

    Raises:
      ValueError: unknown data set or model, or options it does not have.
      TypeError: likewise.
      FileNotFoundError: data that are missing; the message says how to get them.
    """
    train, held_out, num_classes = load_splits(config.data)
    shape, network = train.image.shape[1:], config.network
    objective = Objective(
        network=make_network(network.model, network.model_options, num_classes, shape),
        image_shape=shape,
        normalization=data.Normalization.from_images(train.image),
        augment=_augmentation(config.data.augment, side=shape[0]),
        label_smoothing=config.optimizer.label_smoothing,
        micro_batches=config.micro_batches,
        sigmas=config.measures.sigmas,
        local_energy_samples=config.measures.local_energy_samples,
    )
    return Task(config, objective, train, held_out)


def make_tasks(config: TrainConfig, data_seeds: Sequence[int]) -> list[Task]:
    """One task for each data seed: its own subset, label noise and validation set.

    All share the objective of the first: its normalization, and the compiled programs.
    """
    first, *others = data_seeds
    task = make_task(config.changed(data_seed=first))
    return [task] + [_with_data_of(task, seed) for seed in others]


def _with_data_of(task: Task, data_seed: int) -> Task:
    config = task.config.changed(data_seed=data_seed)
    train, held_out, _ = load_splits(config.data)
    return Task(config, task.objective, train, held_out)


def is_task_of(task: Task, config: TrainConfig) -> bool:
    """Whether a configuration has this task, whatever its algorithm and its budget are."""
    parts = lambda config: (
        *(config.data, config.network, config.measures, config.batch_size),
        *(config.micro_batches, config.optimizer.label_smoothing),
    )
    return parts(config) == parts(task.config)


def _augmentation(names, side):
    """The augmentations of these names, one after another; sizes as is usual for CIFAR."""
    known = {
        "flip": data.random_flip,
        "crop": data.random_crop(padding=max(side // 8, 1)),
        "cutout": data.cutout(size=max(side // 2, 1)),
        "autoaugment": data.autoaugment(),
    }
    return data.compose(*[known[name] for name in names]) if names else None
