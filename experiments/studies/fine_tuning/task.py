"""The two tasks of each seed, and the network of the first one."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from experiments.engine import datasets
from experiments.studies.fine_tuning.description import FineTuning
from flatjax import data, models

Batches = list[dict[str, jax.Array]]


class Task(NamedTuple):
    """What one seed trains and tunes with.

    Attributes:
      pretrained: weights of the network of the old task.
      train: training examples of the new task, on the device.
      train_batches: the same, as batches for evaluation.
      validation: held-out batches of the new task.
      old_validation: held-out batches of the old task.
    """

    pretrained: chex.ArrayTree
    train: data.DeviceSplit
    train_batches: Batches
    validation: Batches
    old_validation: Batches


class Tasks:
    """Makes the tasks of seeds; a seed's network is trained when it is first needed.

    Attributes:
      net: the network; its last layer has an output for each class of one task.
      head: name of that layer.
      normalization: of all training images of the old task.
      test: test batches of the new task.
      old_test: test batches of the old task.

    Args:
      study: the study.
    """

    def __init__(self, study: FineTuning):
        self._study, own = study, study.data
        loaded: Any = datasets.load_in_memory(own.dataset)
        self._old, self._new = (data.choose_classes(loaded.train, c) for c in (own.old, own.new))
        self.net = models.MLP(hidden=study.hidden, num_classes=len(own.new))
        self.head = f"Dense_{len(study.hidden)}"
        self.normalization = data.Normalization.from_images(self._old.image)
        self.test, self.old_test = (
            self._batches(data.choose_classes(loaded.test, classes))
            for classes in (own.new, own.old)
        )
        self.of = functools.cache(self._make)

    def init(self, key: chex.PRNGKey) -> chex.ArrayTree:
        """Draws initial weights."""
        images = jnp.zeros((1, *self._old.image.shape[1:]))
        return self.net.init(key, images, train=False)["params"]

    def loss(self, params: chex.ArrayTree, batch: dict[str, jax.Array]) -> jax.Array:
        """Computes the mean cross-entropy of one task's batch."""
        logits = self.net.apply({"params": params}, batch["image"], train=True)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels
        return losses(logits, batch["label"]).mean()

    def _batches(self, split: data.Split) -> Batches:
        return data.eval_batches(split, self.normalization, min(len(split), 1000))

    def _make(self, seed: int) -> Task:
        own = self._study.data
        rest, validation = data.split_validation(self._new, own.validation_size, seed)
        train = data.subset(rest, own.train_size, seed)
        kept, old_validation = data.split_validation(self._old, own.validation_size, seed)
        return Task(
            self._pretrained(jax.random.key(seed), data.to_device(kept)),
            data.to_device(train),
            self._batches(train),
            self._batches(validation),
            self._batches(old_validation),
        )

    @functools.cached_property
    def _pretrained(self):
        own = self._study.pretraining
        rate = optax.cosine_decay_schedule(own.learning_rate, own.steps)
        tx = optax.adamw(rate, weight_decay=own.weight_decay)

        @jax.jit
        def train(key, kept):
            def step(carry, key):
                params, state = carry
                indices = jax.random.randint(key, (own.batch_size,), 0, len(kept.label))
                batch = data.take_batch(kept, indices, self.normalization)
                updates, state = tx.update(jax.grad(self.loss)(params, batch), state, params)
                return (optax.apply_updates(params, updates), state), None

            params = self.init(key)
            keys = jax.random.split(jax.random.fold_in(key, 1), own.steps)
            return jax.lax.scan(step, (params, tx.init(params)), keys)[0][0]

        return train
