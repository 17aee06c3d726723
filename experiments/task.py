"""What is learned: data, network, loss and evaluation of a run, as pure functions."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import flatjax
from experiments.config import TrainConfig
from flatjax import data, flatness, models

EVAL_BATCH_SIZE = 500
STATISTICS_BATCHES = 20


@dataclasses.dataclass(frozen=True)
class Task:
    """Data, network, loss and evaluation of a configuration.

    Attributes:
      config: the configuration.
      model: the linen module.
      train: the training examples, with their label noise, in host memory.
      held_out: what models are evaluated on.
      normalization: of the images, measured on the training images.
      augment: random change of a batch of uint8 images, (key, images) -> images; or None.
    """

    config: TrainConfig
    model: nn.Module
    train: data.Split
    held_out: data.Split
    normalization: data.Normalization
    augment: Callable[[chex.PRNGKey, jax.Array], jax.Array] | None

    # --- training -------------------------------------------------------------------------------

    def init(self, key: chex.PRNGKey) -> dict[str, chex.ArrayTree]:
        """Variables of one network: `params`, and `batch_stats` if it has any."""
        images = jnp.zeros((1, *self.train.image.shape[1:]))
        return self.model.init(key, images, train=False)

    @functools.cached_property
    def device_train(self) -> data.DeviceSplit:
        """The training examples on the device."""
        return data.to_device(self.train)

    def batch(
        self, train: data.DeviceSplit, indices: jax.Array, key: chex.PRNGKey
    ) -> dict[str, jax.Array]:
        """The training batch of each replica: images (y, B, H, W, C), labels (y, B)."""
        if self.augment is None:
            return data.take_batch(train, indices, self.normalization)
        batch = data.take_batch(train, indices, None)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(indices.shape[0]))
        images = jax.vmap(self.augment)(keys, batch["image"])
        return batch | {"image": self.normalization.normalize(images)}

    def loss(
        self, params: chex.ArrayTree, batch_stats: chex.ArrayTree, batch: chex.ArrayTree
    ) -> tuple[jax.Array, chex.ArrayTree]:
        """Mean cross-entropy of one network on a batch, and its new batch statistics."""
        logits, updated = self.model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch["image"],
            train=True,
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return losses.mean(), updated.get("batch_stats", batch_stats)

    # --- evaluation -----------------------------------------------------------------------------

    @functools.cached_property
    def held_out_batches(self) -> list[dict[str, jax.Array]]:
        """All held-out examples."""
        return self._eval_batches(self.held_out, len(self.held_out), EVAL_BATCH_SIZE)

    @functools.cached_property
    def train_batches(self) -> list[dict[str, jax.Array]]:
        """The training examples on which local energy is measured."""
        return self._eval_batches(self.train, self.config.local_energy_examples, EVAL_BATCH_SIZE)

    @functools.cached_property
    def statistics_batches(self) -> list[dict[str, jax.Array]]:
        """The training examples on which batch statistics are measured; full batches only."""
        size = self.config.batch_size
        count = min(STATISTICS_BATCHES, len(self.train) // size)
        return self._eval_batches(self.train, count * size, size)

    def _eval_batches(self, split, count, batch_size):
        head = data.Split(split.image[:count], split.label[:count])
        return data.eval_batches(head, self.normalization, min(batch_size, len(head)))

    def logits(
        self, params: chex.ArrayTree, batch_stats: chex.ArrayTree, batch: chex.ArrayTree
    ) -> jax.Array:
        """Logits of one network in evaluation mode, (B, classes)."""
        variables = {"params": params, "batch_stats": batch_stats}
        return self.model.apply(variables, batch["image"], train=False)

    @functools.cached_property
    def eval_fn(self) -> flatjax.evaluation.EvalFn:
        """(params, batch, batch_stats) -> sums of loss and error; see `flatjax.evaluation`."""
        return jax.jit(
            lambda params, batch, batch_stats: _sums(self.logits(params, batch_stats, batch), batch)
        )

    @functools.cached_property
    def local_energy(self) -> Callable[..., flatness.LocalEnergy]:
        """(params, batches, key, batch_stats) -> local energy; see `flatjax.flatness`."""
        return flatness.local_energy(
            self.eval_fn,
            sigmas=self.config.sigmas,
            num_samples=self.config.local_energy_samples,
        )

    @functools.cached_property
    def update_stats(self) -> flatjax.batch_stats.UpdateStatsFn:
        """(params, batch_stats, batch) -> batch_stats; see `flatjax.batch_stats`."""
        return jax.jit(lambda params, stats, batch: self.loss(params, stats, batch)[1])

    def evaluate(self, params: chex.ArrayTree, batch_stats: chex.ArrayTree) -> dict[str, jax.Array]:
        """Mean loss and error of one network on the held-out examples."""
        return flatjax.evaluate(self.eval_fn, params, self.held_out_batches, batch_stats)

    def ensemble_error(
        self, members: list[chex.ArrayTree], member_stats: list[chex.ArrayTree]
    ) -> jax.Array:
        """Held-out error of the average of the networks' probabilities."""
        return flatjax.evaluate(
            self._ensemble_eval_fn, members, self.held_out_batches, member_stats
        )["error"]

    @functools.cached_property
    def _ensemble_eval_fn(self):
        def eval_fn(members, batch, member_stats):
            log_probabilities = [
                jax.nn.log_softmax(self.logits(params, stats, batch))
                for params, stats in zip(members, member_stats, strict=True)
            ]
            # A constant shift, log y, changes no argmax, but the loss is that of the mean.
            total = jax.nn.logsumexp(jnp.stack(log_probabilities), axis=0)
            return _sums(total - jnp.log(len(members)), batch)

        return jax.jit(eval_fn)


def _sums(logits, batch) -> dict[str, jax.Array]:
    weight, label = batch["weight"], batch["label"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return {
        "loss": jnp.sum(weight * losses),
        "error": jnp.sum(weight * (logits.argmax(-1) != label)),
        "count": jnp.sum(weight),
    }


# Studies make many tasks of one data set, whose arrays nobody changes.
_load = functools.lru_cache(maxsize=1)(data.load)


def load_splits(config: TrainConfig) -> tuple[data.Split, data.Split, int]:
    """Training and held-out examples of a configuration, and the number of classes."""
    dataset = _load(config.dataset)
    train, held_out = dataset.train, dataset.test
    if config.validation > 0:
        train, validation = data.split_validation(train, config.validation, config.data_seed)
        held_out = validation if config.evaluate_on == "validation" else dataset.test
    if config.train_size is not None:
        train = data.subset(train, config.train_size, config.data_seed)
    if config.label_noise > 0:
        train = data.label_noise(train, config.label_noise, dataset.num_classes, config.data_seed)
    return train, held_out, dataset.num_classes


def make_task(config: TrainConfig) -> Task:
    """Loads the data and builds the network of a configuration.

    Raises:
      ValueError: unknown data set or model, or options it does not have.
      TypeError: likewise.
      FileNotFoundError: data that are missing; the message says how to get them.
    """
    train, held_out, num_classes = load_splits(config)
    options: dict[str, Any] = {"batch_norm": True} if config.batch_norm else {}
    side = train.image.shape[1]
    augmentations = {
        "flip": data.random_flip,
        "crop": data.random_crop(padding=max(side // 8, 1)),
        "cutout": data.cutout(size=max(side // 2, 1)),
    }
    chosen = [augmentations[name] for name in config.augment]
    return Task(
        config=config,
        model=models.create(config.model, num_classes, **options),
        train=train,
        held_out=held_out,
        normalization=data.Normalization.from_images(train.image),
        augment=data.compose(*chosen) if chosen else None,
    )
