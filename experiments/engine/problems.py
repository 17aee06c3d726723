"""The kinds of problems: inputs of the network, loss, and sums for evaluation.

Only this module distinguishes images from tokens and classes from targets. A problem is static:
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


@dataclasses.dataclass(frozen=True)
class Problem:
    """The common base of all kinds of problems. Problems compare and hash by value.

    Attributes:
      input_shape: shape of one example, as the network reads it.
      num_classes: number of outputs of the network, for each position of a text.
      normalization: normalization of images; None for tokens.
      augment: random change of a batch of images before normalization, (key, images) -> images; or
        None.
      target_normalization: normalization of a regression's targets.
      input_dtype: dtype of the network's inputs.
    """

    input_shape: tuple[int, ...]
    num_classes: int
    normalization: data.Normalization | None = None
    augment: Augment | None = None
    target_normalization: data.Normalization | None = None
    input_dtype: ClassVar[str] = "float32"

    def split_struct(self, shape: tuple[int, ...]) -> Any:
        """Returns shapes and dtypes of examples, for labels of the given shape."""
        assert self.normalization is not None
        image = jax.ShapeDtypeStruct((*shape, *self.input_shape), self.normalization.dtype)
        return data.DeviceSplit(image, self._label_struct(shape))

    def _label_struct(self, shape):
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    def batch(self, examples: Any, keys: chex.PRNGKey) -> Batch:
        """Makes a batch of each replica from examples (y, B, ...) and keys (y,)."""
        assert self.normalization is not None
        images = examples.image
        if self.augment is not None:
            images = jax.vmap(self.augment)(keys, images)
        return {"image": self.normalization.normalize(images), "label": examples.label}

    def inputs(self, batch: Batch) -> jax.Array:
        """Returns the inputs of the network in a batch."""
        return batch["image"]

    def loss(self, outputs: jax.Array, batch: Batch, smoothing: float) -> jax.Array:
        """Computes the mean loss of a training batch; `smoothing` smooths labels."""
        raise NotImplementedError

    def sums(self, outputs: jax.Array, batch: Batch) -> Batch:
        """Sums loss and error over the examples of a batch, and counts them in `"count"`."""
        raise NotImplementedError

    def mean_outputs(self, outputs: Sequence[jax.Array]) -> jax.Array:
        """Computes the outputs of an ensemble."""
        log_probabilities = [jax.nn.log_softmax(own) for own in outputs]
        # The shift by log y changes no argmax, and gives the loss of the mean prediction.
        total = jax.nn.logsumexp(jnp.stack(log_probabilities), axis=0)
        return total - jnp.log(len(outputs))


class Classification(Problem):
    """Images or vectors to classes: cross-entropy, and the fraction of wrong classes."""

    def loss(self, outputs: jax.Array, batch: Batch, smoothing: float) -> jax.Array:
        """Computes the mean cross-entropy."""
        return _cross_entropy(outputs, batch["label"], smoothing)

    def sums(self, outputs: jax.Array, batch: Batch) -> Batch:
        """Sums over examples."""
        return _sums_of_classes(outputs, batch["label"], batch["weight"])


class Regression(Problem):
    r"""Images or vectors to numbers: squared error, in units of the targets' variance.

    The network predicts normalized targets. Loss and error are the same: the mean over targets of
    :math:`(f - y)^2 / \mathrm{var}(y)` for the prediction f. On the training examples this is
    1 - R^2, the unexplained fraction of the variance.
    """

    def _label_struct(self, shape):
        return jax.ShapeDtypeStruct((*shape, self.num_classes), jnp.float32)

    def loss(self, outputs: jax.Array, batch: Batch, smoothing: float) -> jax.Array:
        """Computes the mean squared error; there are no labels to smooth."""
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
        """Computes the mean prediction."""
        return jnp.mean(jnp.stack(outputs), axis=0)


class LanguageModel(Problem):
    """The next token of a text: cross-entropy (in nats) and error, both per token."""

    input_dtype = "int32"

    def split_struct(self, shape: tuple[int, ...]) -> Any:
        """Returns shapes and dtypes of sequences; `shape` excludes their length."""
        dtype = jnp.uint8 if self.num_classes <= 256 else jnp.int32
        length = self.input_shape[0] + 1
        return data.DeviceTokens(jax.ShapeDtypeStruct((*shape, length), dtype))

    def batch(self, examples: Any, keys: chex.PRNGKey) -> Batch:
        """Returns the tokens and, for each, the next one; nothing is augmented."""
        del keys
        return shifted(examples.tokens)

    def inputs(self, batch: Batch) -> jax.Array:
        """Returns the input tokens."""
        return batch["tokens"]

    def loss(self, outputs: jax.Array, batch: Batch, smoothing: float) -> jax.Array:
        """Computes the mean cross-entropy per token."""
        return _cross_entropy(outputs, batch["targets"], smoothing)

    def sums(self, outputs: jax.Array, batch: Batch) -> Batch:
        """Sums over tokens."""
        return _sums_of_classes(outputs, batch["targets"], batch["weight"])


def _cross_entropy(logits, label, smoothing):
    targets = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, targets).mean()


def _sums_of_classes(logits, label, weight) -> Batch:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    # The argmax of NaN is class 0: a network that diverged would be right there.
    is_wrong = (logits.argmax(-1) != label) | ~jnp.isfinite(logits.max(-1))
    return {
        "loss": jnp.sum(weight * losses),
        "error": jnp.sum(weight * is_wrong),
        "count": jnp.sum(weight),
    }


def make_problem(
    train: data.Split | data.TokenSplit, num_classes: int, augment: Augment | None
) -> Problem:
    """Makes the problem of training examples, on which normalizations are measured.

    Args:
      train: the training examples.
      num_classes: number of classes, of targets, or of tokens in the vocabulary.
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
