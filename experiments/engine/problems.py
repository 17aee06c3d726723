"""The kinds of problems: what a network reads, its loss, and the sums that evaluate it.

This is the one place that knows images from tokens and classes from targets. A problem is static:
compiled programs depend on it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import chex
import jax
import jax.numpy as jnp
import optax

from flatjax import data
from flatjax.data._batches import shifted

Batch: TypeAlias = dict[str, jax.Array]
Augment: TypeAlias = Callable[[chex.PRNGKey, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What all kinds share.

    Attributes:
      input_shape: of one example, as the network reads it.
      num_classes: the number of outputs of the network, for each position of a text.
      normalization: of images; None for tokens.
      augment: random change of a batch of images before normalization, (key, images) -> images; or
        None.
      target_normalization: of the targets of a regression.
      input_dtype: of what the network reads.
    """

    input_shape: tuple[int, ...]
    num_classes: int
    normalization: data.Normalization | None = None
    augment: Augment | None = None
    target_normalization: data.Normalization | None = None
    input_dtype: ClassVar[str] = "float32"

    def split_struct(self, shape: tuple[int, ...]) -> Any:
        """Shapes and dtypes of examples on the device; `shape` is that of their labels."""
        assert self.normalization is not None
        image = jax.ShapeDtypeStruct((*shape, *self.input_shape), self.normalization.dtype)
        return data.DeviceSplit(image, self._label_struct(shape))

    def _label_struct(self, shape):
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    def batch(self, examples: Any, keys: chex.PRNGKey) -> Batch:
        """A batch of each replica, from its examples (y, B, ...) and augmentation keys (y,)."""
        assert self.normalization is not None
        images = examples.image
        if self.augment is not None:
            images = jax.vmap(self.augment)(keys, images)
        return {"image": self.normalization.normalize(images), "label": examples.label}

    def inputs(self, batch: Batch) -> jax.Array:
        """What the network reads of a batch."""
        return batch["image"]

    def loss(self, outputs: jax.Array, batch: Batch, smoothing: float) -> jax.Array:
        """The mean loss of a training batch; `smoothing` is that of labels."""
        raise NotImplementedError

    def sums(self, outputs: jax.Array, batch: Batch) -> Batch:
        """Sums of loss and error over the examples of a batch, and their number, `"count"`."""
        raise NotImplementedError

    def mean_outputs(self, outputs: Sequence[jax.Array]) -> jax.Array:
        """The outputs of an ensemble."""
        log_probabilities = [jax.nn.log_softmax(own) for own in outputs]
        # A constant shift, log y, changes no argmax, but the loss is that of the mean.
        total = jax.nn.logsumexp(jnp.stack(log_probabilities), axis=0)
        return total - jnp.log(len(outputs))


class Classification(Problem):
    """Images or vectors to classes: cross-entropy, and the fraction of wrong classes."""

    def loss(self, outputs: jax.Array, batch: Batch, smoothing: float) -> jax.Array:
        """Mean cross-entropy."""
        return _cross_entropy(outputs, batch["label"], smoothing)

    def sums(self, outputs: jax.Array, batch: Batch) -> Batch:
        """Sums over examples."""
        return _sums_of_classes(outputs, batch["label"], batch["weight"])


class Regression(Problem):
    r"""Images or vectors to numbers: squared error, in units of the variance of the targets.

    The network predicts normalized targets. Loss and error are the same: the mean over targets of
    :math:`(f - y)^2 / \mathrm{var}(y)`, the fraction of the variance that is not explained, 1 - R^2
    on the training examples.
    """

    def _label_struct(self, shape):
        return jax.ShapeDtypeStruct((*shape, self.num_classes), jnp.float32)

    def loss(self, outputs: jax.Array, batch: Batch, smoothing: float) -> jax.Array:
        """Mean squared error; there are no labels to smooth."""
        del smoothing
        return self._errors(outputs, batch).mean()

    def sums(self, outputs: jax.Array, batch: Batch) -> Batch:
        """Sums over examples."""
        total = jnp.sum(batch["weight"] * self._errors(outputs, batch))
        return {"loss": total, "error": total, "count": jnp.sum(batch["weight"])}

    def _errors(self, outputs, batch):
        assert self.target_normalization is not None
        target = self.target_normalization.normalize(batch["label"])
        return jnp.mean(jnp.square(outputs - target), axis=-1)

    def mean_outputs(self, outputs: Sequence[jax.Array]) -> jax.Array:
        """The mean prediction."""
        return jnp.mean(jnp.stack(outputs), axis=0)


class LanguageModel(Problem):
    """The next token of a text: cross-entropy in nats and error, both a token."""

    input_dtype = "int32"

    def split_struct(self, shape: tuple[int, ...]) -> Any:
        """Shapes and dtypes of sequences on the device; `shape` is without their length."""
        dtype = jnp.uint8 if self.num_classes <= 256 else jnp.int32
        length = self.input_shape[0] + 1
        return data.DeviceTokens(jax.ShapeDtypeStruct((*shape, length), dtype))

    def batch(self, examples: Any, keys: chex.PRNGKey) -> Batch:
        """The tokens that are read, and the one after each of them; nothing is augmented."""
        del keys
        return shifted(examples.tokens)

    def inputs(self, batch: Batch) -> jax.Array:
        """The tokens that are read."""
        return batch["tokens"]

    def loss(self, outputs: jax.Array, batch: Batch, smoothing: float) -> jax.Array:
        """Mean cross-entropy of a token."""
        return _cross_entropy(outputs, batch["targets"], smoothing)

    def sums(self, outputs: jax.Array, batch: Batch) -> Batch:
        """Sums over tokens."""
        return _sums_of_classes(outputs, batch["targets"], batch["weight"])


def _cross_entropy(logits, label, smoothing):
    targets = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, targets).mean()


def _sums_of_classes(logits, label, weight) -> Batch:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return {
        "loss": jnp.sum(weight * losses),
        "error": jnp.sum(weight * (logits.argmax(-1) != label)),
        "count": jnp.sum(weight),
    }


def make_problem(
    train: data.Split | data.TokenSplit, num_classes: int, augment: Augment | None
) -> Problem:
    """The problem of some training examples, which its normalizations are measured on.

    Args:
      train: the training examples.
      num_classes: classes, targets, or tokens of the vocabulary.
      augment: see `Problem`.

    Raises:
      ValueError: a channel or a target is constant.
    """
    if isinstance(train, data.TokenSplit):
        return LanguageModel((train.tokens.shape[1] - 1,), num_classes)
    normalization = data.Normalization.from_images(train.image)
    shape = train.image.shape[1:]
    if not train.is_regression:
        return Classification(shape, num_classes, normalization, augment)
    try:
        targets = data.Normalization.from_images(train.label[:, None, None])
    except ValueError as error:
        raise ValueError(f"the targets of a regression must vary ({error})") from error
    return Regression(shape, num_classes, normalization, augment, targets)
