"""A task: an objective and its data, as a configuration asks for them."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import chex
import jax

import flatjax
from experiments.engine import datasets, fingerprints
from experiments.engine.config import TrainConfig
from experiments.engine.datasets import Examples, Split
from experiments.engine.objective import Objective, make_objective
from experiments.engine.problems import Regression, make_problem
from experiments.engine.settings import Data
from experiments.report import store
from flatjax import data
from flatjax.models._network import foreign_module, make_network

STATISTICS_BATCHES = 20


@dataclasses.dataclass(frozen=True)
class Task:
    """An objective with training and held-out examples.

    Attributes:
      config: the configuration.
      objective: network, loss and evaluation; tasks that differ in their data may share it.
      train: the training examples, with their label noise, in host memory or in a file; only the
        first ones if they come from a stream.
      held_out: the examples on which models are evaluated.
      class_names: names of the classes, if they have any.
      stream: source of all training examples, if they are not in memory.
    """

    config: TrainConfig
    objective: Objective
    train: Split
    held_out: Split
    class_names: tuple[str, ...] | None = None
    stream: data.Stream | None = None

    @property
    def num_train(self) -> int:
        """The number of training examples in a pass."""
        if self.stream is None:
            return len(self.train)
        return self.stream.num_batches * self.config.batch_size

    @property
    def is_in_memory(self) -> bool:
        """Whether all training examples are, instead of in a stream or a file."""
        return self.stream is None and not datasets.is_mapped(self.train)

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Identifies the data of a run by numbers of examples and digests."""
        splits = {"train": self.train, "held_out": self.held_out}
        found = {name: fingerprints.of_split(split) for name, split in splits.items()}
        return found if self.stream is None else found | {"examples_in_a_pass": self.num_train}

    @property
    def network_fingerprint(self) -> dict[str, str] | None:
        """Identifies what a network of the user computes; None for flatjax's own."""
        is_own = foreign_module(self.config.network.model) is None
        return None if is_own else self.objective.network_fingerprint

    def description(self) -> dict[str, Any]:
        """Returns the arguments of `flatjax.models.save` for a model of this task."""
        problem = self.objective.problem
        return {
            "model": self.config.network.model,
            "options": self.config.network.model_options,
            "num_classes": problem.num_classes,
            "image_shape": problem.input_shape,
            "input_dtype": problem.input_dtype,
            "normalization": problem.normalization,
            "target_normalization": problem.target_normalization,
            "class_names": self.class_names,
        }

    @functools.cached_property
    def device_train(self) -> Examples:
        """The training examples, on the device."""
        return data.to_device(self.train)

    @functools.cached_property
    def held_out_batches(self) -> list[dict[str, jax.Array]]:
        """All held-out examples, in batches."""
        return self.batches(self.held_out)

    @functools.cached_property
    def curve_batches(self) -> list[dict[str, jax.Array]]:
        """The held-out examples for the error during training, in batches."""
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
        """The training examples for batch statistics; full batches only."""
        size = self.config.batch_size
        count = min(STATISTICS_BATCHES, len(self.train) // size)
        return self._eval_batches(self.train, count * size, size)

    def batches(self, split: Split) -> list[dict[str, jax.Array]]:
        """Makes the batches for evaluation; do not keep them if there are many tasks."""
        return self._eval_batches(split, len(split), eval_batch_size())

    def _eval_batches(self, split, count, batch_size):
        head, normalization = split[:count], self.objective.problem.normalization
        return data.eval_batches(head, normalization, min(batch_size, len(head)))

    def evaluate(
        self,
        params: chex.ArrayTree,
        batch_stats: chex.ArrayTree,
        batches: Iterable[Any] | None = None,
    ) -> dict[str, jax.Array]:
        """Computes mean loss and error of one network, on held-out examples by default."""
        batches = self.held_out_batches if batches is None else batches
        return flatjax.evaluate(self.objective.eval_fn, params, batches, batch_stats)

    def ensemble_error(
        self, members: list[chex.ArrayTree], member_stats: list[chex.ArrayTree]
    ) -> jax.Array:
        """Computes the held-out error of the average of the networks' predictions."""
        eval_fn = self.objective.ensemble_eval_fn
        return flatjax.evaluate(eval_fn, members, self.held_out_batches, member_stats)["error"]


def eval_batch_size() -> int:
    """Returns the number of examples that are evaluated at once."""
    # The maps of a small conv net for 125 images fit a CPU's caches; 500 take three times as long.
    return 125 if jax.default_backend() == "cpu" else 500


@functools.lru_cache(maxsize=1)
def dataset_fingerprint(name: str) -> dict[str, Any]:
    """Identifies a whole data set, as values for JSON."""
    dataset = datasets.load_in_memory(name)
    splits = {"train": dataset.train, "test": dataset.test}
    return {"dataset": name} | {
        split: fingerprints.of_split(examples) for split, examples in splits.items()
    }


@functools.cache
def dataset_digest(name: str) -> str:
    """Returns a digest of a whole data set, which is computed once."""
    return store.digest(dataset_fingerprint(name))


def load_splits(config: Data) -> tuple[Split, Split, int]:
    """Loads training and held-out examples, and returns the number of classes, too.

    Raises:
      ValueError: a setting needs images or classes, but the data set has none.
    """
    dataset = datasets.load_in_memory(config.dataset)
    train: Any = dataset.train
    held_out: Any = dataset.test
    if isinstance(train, data.TokenSplit):
        refuse_for("text", config, "label_noise", "augment", "rgb32")
    elif train.is_regression:
        refuse_for("regression", config, "label_noise")
    if datasets.is_mapped(train):
        _refuse_parts(config, "the file")
    if config.validation > 0:
        train, validation = data.split_validation(train, config.validation, config.data_seed)
        held_out = validation if config.evaluate_on == "validation" else held_out
    if config.train_size is not None:
        train = data.subset(train, config.train_size, config.data_seed)
    if config.label_noise > 0:
        train = data.label_noise(train, config.label_noise, dataset.num_classes, config.data_seed)
    held_out = held_out[: config.held_out_size]
    if config.rgb32:
        train, held_out = data.enlarge(train), data.enlarge(held_out)
    return train, held_out, dataset.num_classes


def _refuse_parts(settings: Data, source: str, *others: str) -> None:
    """Raises if settings need all training examples in memory; `others` must be 0."""
    neutral = {"validation": 0, "train_size": None} | dict.fromkeys(others, 0)
    for field, value in neutral.items():
        if (given := getattr(settings, field)) != value:
            raise ValueError(
                f"{field} must be {value} for {source} {settings.dataset}, got {given}: its "
                "training examples are not in memory."
            )
    if settings.rgb32:
        raise ValueError(f"rgb32 is not for {source} {settings.dataset}: enlarge its images first.")


def refuse_for(kind: str, settings: Any, *fields: str) -> None:
    """Raises a ValueError if one of the settings is changed, but not for such data."""
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    for name in fields:
        if (value := getattr(settings, name)) != defaults[name]:
            raise ValueError(f"{name} is not for data of kind {kind}, got {value!r}: leave it out.")


def make_task(config: TrainConfig) -> Task:
    """Loads the data and builds the network of a configuration.

    Raises:
      ValueError: the data set or model is unknown, or does not have an option.
      TypeError: an option has a wrong type.
      FileNotFoundError: data are missing; the message says how to get them.
    """
    dataset = datasets.load(config.data.dataset)
    stream = dataset if isinstance(dataset, data.Stream) else None
    if stream is None:
        train, held_out, num_classes = load_splits(config.data)
    else:
        train, held_out, num_classes = _streamed_splits(config, stream)
    side = 0 if isinstance(train, data.TokenSplit) else train.image.shape[1]
    problem = make_problem(train, num_classes, _augmentation(config.data.augment, side))
    if isinstance(problem, Regression):
        refuse_for("regression", config.optimizer, "label_smoothing")
    network = make_network(
        *(config.network.model, config.network.model_options, num_classes),
        image_shape=problem.input_shape,
        input_dtype=problem.input_dtype,
    )
    objective = make_objective(
        *(network, problem, config.optimizer.label_smoothing, config.micro_batches),
        *(config.measures.sigmas, config.measures.local_energy_samples),
    )
    return Task(config, objective, train, held_out, dataset.class_names, stream)


def _streamed_splits(
    config: TrainConfig, stream: data.Stream
) -> tuple[data.Split, data.Split, int]:
    """Returns first training examples, held-out examples and the number of classes."""
    settings = config.data
    _refuse_parts(settings, "the stream", "label_noise")
    size, count = config.batch_size, config.measures.local_energy_examples
    train = datasets.first_examples(stream, size, max(STATISTICS_BATCHES * size, count))
    return train, stream.test[: settings.held_out_size], stream.num_classes


def make_tasks(config: TrainConfig, data_seeds: Sequence[int]) -> list[Task]:
    """Makes a task for each data seed, with its own subset, noise and validation.

    All share the first task's objective: its normalization, and the compiled programs.
    """
    first, *others = data_seeds
    task = make_task(config.changed(data_seed=first))
    return [task] + [_with_data_of(task, seed) for seed in others]


def _with_data_of(task: Task, data_seed: int) -> Task:
    config = task.config.changed(data_seed=data_seed)
    train, held_out, _ = load_splits(config.data)
    return dataclasses.replace(task, config=config, train=train, held_out=held_out)


def is_task_of(task: Task, config: TrainConfig) -> bool:
    """Whether a configuration has this task; algorithm and budget do not matter."""
    parts = lambda config: (
        *(config.data, config.network, config.measures, config.batch_size),
        *(config.micro_batches, config.optimizer.label_smoothing),
    )
    return parts(config) == parts(task.config)


@functools.cache
def _augmentation(names, side):
    """Chains the augmentations of these names, with the usual sizes for CIFAR."""
    known = {
        "flip": data.random_flip,
        "crop": data.random_crop(padding=max(side // 8, 1)),
        "cutout": data.cutout(size=max(side // 2, 1)),
        "autoaugment": data.autoaugment(),
    }
    return data.compose(*[known[name] for name in names]) if names else None
