"""What is learned: data, network, loss and evaluation of a run, as pure functions."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

import flatjax
from experiments.engine import datasets, fingerprints
from experiments.engine.config import TrainConfig
from flatjax import data, flatness
from flatjax.models._network import Network, make_network

STATISTICS_BATCHES = 20


@dataclasses.dataclass(frozen=True)
class Task:
    """Data, network, loss and evaluation of a configuration.

    Attributes:
      config: the configuration.
      network: the linen module, behind one interface.
      train: the training examples, with their label noise, in host memory; the first of them, if
        they come from a stream.
      held_out: what models are evaluated on.
      normalization: of the images, measured on the training images.
      augment: random change of a batch of uint8 images, (key, images) -> images; or None.
      class_names: names of the classes, if they have any.
      stream: where all training examples come from, if they are not in memory.
    """

    config: TrainConfig
    network: Network
    train: data.Split
    held_out: data.Split
    normalization: data.Normalization
    augment: Callable[[chex.PRNGKey, jax.Array], jax.Array] | None
    class_names: tuple[str, ...] | None = None
    stream: data.Stream | None = None

    @property
    def num_train(self) -> int:
        """Training examples in a pass."""
        if self.stream is None:
            return len(self.train)
        return self.stream.num_batches * self.config.batch_size

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What identifies the data of a run: numbers of examples and digests, as JSON holds it."""
        splits = {"train": self.train, "held_out": self.held_out}
        found = {name: fingerprints.of_split(split) for name, split in splits.items()}
        return found if self.stream is None else found | {"examples_in_a_pass": self.num_train}

    def description(self, params: chex.ArrayTree, batch_stats: chex.ArrayTree) -> dict[str, Any]:
        """What `flatjax.models.save` wants to know of a model of this task."""
        image_shape = self.train.image.shape[1:]
        batch = {"image": jnp.zeros((1, *image_shape))}
        logits = jax.eval_shape(self.logits, params, batch_stats, batch)
        return {
            "model": self.config.model,
            "options": self.config.model_options,
            "num_classes": logits.shape[-1],
            "image_shape": image_shape,
            "normalization": self.normalization,
            "class_names": self.class_names,
        }

    # --- training -------------------------------------------------------------------------------

    def init(self, key: chex.PRNGKey) -> dict[str, chex.ArrayTree]:
        """Variables of one network: `params`, and `batch_stats` if it has any."""
        images = jnp.zeros((1, *self.train.image.shape[1:]))
        return self.network.init(key, images)

    @functools.cached_property
    def device_train(self) -> data.DeviceSplit:
        """The training examples on the device."""
        return data.to_device(self.train)

    def batch(
        self, train: data.DeviceSplit, indices: jax.Array, key: chex.PRNGKey
    ) -> dict[str, jax.Array]:
        """The training batch of each replica.

        Returns:
          Images (y, B, H, W, C), labels (y, B), and a key for what is random in the network on
          each of the micro-batches, (y, parts).
        """
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(indices.shape[0]))
        parts = self.config.micro_batches
        network_keys = jax.vmap(lambda key: jax.random.split(key, parts))(keys)
        if self.augment is None:
            batch = data.take_batch(train, indices, self.normalization)
        else:
            batch = data.take_batch(train, indices, None)
            images = jax.vmap(self.augment)(keys, batch["image"])
            batch |= {"image": self.normalization.normalize(images)}
        return batch | {"key": network_keys}

    def loss(
        self, params: chex.ArrayTree, batch_stats: chex.ArrayTree, batch: chex.ArrayTree
    ) -> tuple[jax.Array, chex.ArrayTree]:
        """Mean cross-entropy of one network on a batch, and its new batch statistics.

        Without a `"key"` (1,) in the batch, what is random in the network is the same every time.
        """
        variables = {"params": params, "batch_stats": batch_stats}
        key = batch["key"][0] if "key" in batch else jax.random.key(0)
        logits, batch_stats = self.network.train_logits(variables, batch["image"], key)
        targets = jax.nn.one_hot(batch["label"], logits.shape[-1])
        targets = optax.smooth_labels(targets, self.config.label_smoothing)
        return optax.softmax_cross_entropy(logits, targets).mean(), batch_stats

    def value_and_grad(
        self, params: chex.ArrayTree, batch_stats: chex.ArrayTree, batch: chex.ArrayTree
    ) -> tuple[tuple[jax.Array, chex.ArrayTree], chex.ArrayTree]:
        """Loss, new statistics and gradient of one network, over the parts of a batch in turn."""
        gradient = jax.value_and_grad(self.loss, has_aux=True)
        parts = self.config.micro_batches
        if parts == 1:
            return gradient(params, batch_stats, batch)
        batches = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), batch)

        def add(carry, part):
            stats, total = carry
            (value, stats), grads = gradient(params, stats, part)
            return (stats, jax.tree.map(jnp.add, total, grads)), value

        # In half precision, the sum would be rounded with every part.
        wide = lambda w: jnp.zeros_like(w, jnp.promote_types(w.dtype, jnp.float32))
        zeros = jax.tree.map(wide, params)
        # XLA's own convolutions are about ten times slower on a CPU inside a loop than outside.
        unroll = parts if jax.default_backend() == "cpu" else 1
        (stats, total), values = jax.lax.scan(add, (batch_stats, zeros), batches, unroll=unroll)
        mean = lambda g, w: (g / parts).astype(w.dtype)
        return (values.mean(), stats), jax.tree.map(mean, total, params)

    # --- evaluation -----------------------------------------------------------------------------

    @functools.cached_property
    def held_out_batches(self) -> list[dict[str, jax.Array]]:
        """All held-out examples."""
        return self._eval_batches(self.held_out, len(self.held_out), eval_batch_size())

    @functools.cached_property
    def curve_batches(self) -> list[dict[str, jax.Array]]:
        """The held-out examples on which training is followed."""
        return self._eval_batches(self.held_out, self.config.curve_examples, eval_batch_size())

    @functools.cached_property
    def train_batches(self) -> list[dict[str, jax.Array]]:
        """The training examples on which local energy is measured."""
        count = self.config.local_energy_examples
        return self._eval_batches(self.train, count, eval_batch_size())

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
        return self.network.logits(variables, batch["image"])

    @functools.cached_property
    def eval_fn(self) -> flatjax.EvalFn:
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

    def evaluate(
        self,
        params: chex.ArrayTree,
        batch_stats: chex.ArrayTree,
        batches: Iterable[Any] | None = None,
    ) -> dict[str, jax.Array]:
        """Mean loss and error of one network, on the held-out examples by default."""
        batches = self.held_out_batches if batches is None else batches
        return flatjax.evaluate(self.eval_fn, params, batches, batch_stats)

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


def eval_batch_size() -> int:
    """Examples that are evaluated at once."""
    # A CPU's caches hold what a small conv net makes of 125 images; 500 take three times as long.
    return 125 if jax.default_backend() == "cpu" else 500


def _sums(logits, batch) -> dict[str, jax.Array]:
    weight, label = batch["weight"], batch["label"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return {
        "loss": jnp.sum(weight * losses),
        "error": jnp.sum(weight * (logits.argmax(-1) != label)),
        "count": jnp.sum(weight),
    }


@functools.lru_cache(maxsize=1)
def dataset_fingerprint(name: str) -> dict[str, Any]:
    """What identifies a whole data set, as JSON holds it."""
    dataset = datasets.load_in_memory(name)
    splits = {"train": dataset.train, "test": dataset.test}
    return {"dataset": name} | {
        split: fingerprints.of_split(examples) for split, examples in splits.items()
    }


def load_splits(config: TrainConfig) -> tuple[data.Split, data.Split, int]:
    """Training and held-out examples of a configuration, and the number of classes."""
    dataset = datasets.load_in_memory(config.dataset)
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
    dataset = datasets.load(config.dataset)
    stream = dataset if isinstance(dataset, data.Stream) else None
    if stream is None:
        train, held_out, num_classes = load_splits(config)
    else:
        train, held_out, num_classes = _streamed_splits(config, stream)
    shape = train.image.shape[1:]
    return Task(
        config=config,
        network=make_network(config.model, config.model_options, num_classes, shape),
        train=train,
        held_out=held_out,
        normalization=data.Normalization.from_images(train.image),
        augment=_augmentation(config.augment, side=shape[0]),
        class_names=dataset.class_names,
        stream=stream,
    )


def _streamed_splits(
    config: TrainConfig, stream: data.Stream
) -> tuple[data.Split, data.Split, int]:
    """The first training examples, held-out examples, and the number of classes."""
    for field, neutral in (("validation", 0), ("label_noise", 0), ("train_size", None)):
        if (value := getattr(config, field)) != neutral:
            raise ValueError(
                f"{field} must be {neutral} for the stream {config.dataset}, got {value}: its "
                "training examples are not in memory."
            )
    if config.rgb32:
        raise ValueError(f"rgb32 is not for the stream {config.dataset}: enlarge in the loader.")
    measured = max(STATISTICS_BATCHES * config.batch_size, config.local_energy_examples)
    train = datasets.first_examples(stream, config.batch_size, measured)
    return train, stream.test[: config.held_out_size], stream.num_classes


def _augmentation(names, side):
    """The augmentations of these names, one after another; sizes as is usual for CIFAR."""
    known = {
        "flip": data.random_flip,
        "crop": data.random_crop(padding=max(side // 8, 1)),
        "cutout": data.cutout(size=max(side // 2, 1)),
        "autoaugment": data.autoaugment(),
    }
    return data.compose(*[known[name] for name in names]) if names else None
