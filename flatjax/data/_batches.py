"""Batches of a data set on the device: pure functions that may be jitted."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, TypeAlias, overload

import jax
import jax.numpy as jnp
import numpy as np

from flatjax._checks import check_count
from flatjax._normalization import Normalization
from flatjax.data._dataset import Split
from flatjax.data._tokens import TokenSplit


class DeviceSplit(NamedTuple):
    """A split on the device: a pytree, to be passed to jitted functions.

    Attributes:
      image: uint8 (a quarter of the memory of normalized images) or float32, (N, H, W, C).
      label: int32 of shape (N,); float32 (N, D) of a regression.

    See Also:
      `to_device` (makes it), `take_batch` (cuts batches from it).
    """

    image: jax.Array
    label: jax.Array


class DeviceTokens(NamedTuple):
    """Sequences of tokens on the device: a pytree, to be passed to jitted functions.

    Attributes:
      tokens: uint8 or int32 of shape (N, T + 1).

    See Also:
      `to_device` (makes it), `take_batch` (cuts batches from it).
    """

    tokens: jax.Array


OnDevice: TypeAlias = DeviceSplit | DeviceTokens


@overload
def to_device(
    split: Split, device: jax.Device | jax.sharding.Sharding | None = None
) -> DeviceSplit: ...
@overload
def to_device(
    split: TokenSplit, device: jax.Device | jax.sharding.Sharding | None = None
) -> DeviceTokens: ...
def to_device(
    split: Split | TokenSplit, device: jax.Device | jax.sharding.Sharding | None = None
) -> OnDevice:
    """Moves a split to a device, once for the whole training.

    Args:
      split: the examples.
      device: a device or a sharding (a replicated one, for data-parallel training); the default is
        JAX's default device.

    Returns:
      The arrays on the device.

    Examples:
      >>> from flatjax.data import load, to_device
      >>> to_device(load("digits").train).image.shape
      (1297, 8, 8, 1)

    See Also:
      `epoch_order` (draws an order), `take_batch` (cuts a batch), `eval_batches` (batches for
      evaluation).
    """
    return jax.device_put(as_tree(split), device)


def as_tree(split: Split | TokenSplit) -> OnDevice:
    """Returns the arrays of a split as a pytree, without moving them."""
    kind: Any = DeviceTokens if isinstance(split, TokenSplit) else DeviceSplit
    return kind(*split.arrays)


@functools.partial(
    jax.jit, static_argnames=("num_examples", "batch_size", "num_replicas"), inline=True
)
def epoch_order(
    key: jax.Array, num_examples: int, batch_size: int, num_replicas: int = 1
) -> jax.Array:
    """Draws the order in which each replica sees the examples in one epoch.

    Every replica has its own permutation, which is cut into batches; the remainder is dropped. The
    order depends only on the key. With `key = jax.random.fold_in(data_key, epoch)`, a resumed run
    sees the same batches as an uninterrupted one. The order of a replica does not depend on the
    number of replicas.

    Args:
      key: the key of this epoch.
      num_examples: size N of the split.
      batch_size: examples in a batch of one replica.
      num_replicas: number y of replicas.

    Returns:
      int32 of shape (N // batch_size, num_replicas, batch_size): `order[step, replica]` holds the
      positions of a batch. The function is jitted, and compiled once for each triple of sizes.

    Raises:
      TypeError: a size is not an int.
      ValueError: a size is not positive, or `batch_size` is larger than `num_examples`.

    Examples:
      >>> import jax
      >>> from flatjax.data import epoch_order
      >>> epoch_order(jax.random.key(0), num_examples=1297, batch_size=128, num_replicas=3).shape
      (10, 3, 128)

    See Also:
      `take_batch` (cuts a batch from an order), `eval_batches` (every example once, in order).
    """
    check_count("num_examples", num_examples, minimum=1)
    check_count("batch_size", batch_size, minimum=1)
    check_count("num_replicas", num_replicas, minimum=1)
    if batch_size > num_examples:
        raise ValueError(
            f"batch_size must not exceed num_examples={num_examples}, got {batch_size}"
        )
    replica_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_replicas))
    order = jax.vmap(lambda key: jax.random.permutation(key, num_examples))(replica_keys)
    steps = num_examples // batch_size
    batches = order[:, : steps * batch_size].reshape(num_replicas, steps, batch_size)
    return batches.swapaxes(0, 1).astype(jnp.int32)


def take_batch(
    device_split: OnDevice, indices: jax.Array, normalization: Normalization | None = None
) -> dict[str, jax.Array]:
    """Gathers the examples at `indices` and normalizes their images.

    Args:
      device_split: the examples, from `to_device`.
      indices: int32 positions of any shape: (B,) for a batch, (y, B) for a batch of each replica.
      normalization: how to normalize; None to normalize later, after augmentation:
        `normalization.normalize(augment(key, batch["image"]))`.

    Returns:
      ``{"image": (*indices.shape, H, W, C), "label": indices.shape}``, float32 and int32; of a
      regression, labels are float32 of shape ``(*indices.shape, D)``. Of tokens,
      ``{"tokens": (*indices.shape, T), "targets": (*indices.shape, T)}``, int32: the tokens that
      are read, and the next token of each.

    Examples:
      >>> import jax
      >>> from flatjax.data import Normalization, epoch_order, load, take_batch, to_device
      >>> train = load("digits").train
      >>> normalization = Normalization.from_images(train.image)
      >>> order = epoch_order(jax.random.key(0), len(train), batch_size=64, num_replicas=2)
      >>> batch = jax.jit(take_batch)(to_device(train), order[0], normalization)
      >>> batch["image"].shape, batch["label"].shape
      ((2, 64, 8, 8, 1), (2, 64))

    See Also:
      `epoch_order` (draws the order), `to_device` (puts the split on the device).
    """
    indices = jnp.asarray(indices)
    if not indices.size:
        indices = indices.astype(jnp.int32)  # an empty list has no integers
    if isinstance(device_split, DeviceTokens):
        return shifted(device_split.tokens[indices])
    image = device_split.image[indices]
    if normalization is not None:
        image = normalization.normalize(image)
    return {"image": image, "label": device_split.label[indices]}


def eval_batches(
    split: Split | TokenSplit, normalization: Normalization | None, batch_size: int
) -> list[dict[str, jax.Array]]:
    """Cuts a split into normalized batches of one shape, in order.

    The last batch is padded with blank examples of weight 0. Hence one compilation serves all
    batches, and sums over the weights are exact. A `batch_size` above N gives one padded batch.

    Args:
      split: the examples.
      normalization: how to normalize the images; None for tokens.
      batch_size: examples in a batch, padding included.

    Returns:
      Batches ``{"image": (B, H, W, C) float32, "label": (B,) int32, "weight": (B,) float32}`` on
      the device; the weight is 1 for examples and 0 for padding. All together they take four times
      the memory of the uint8 images. Of tokens: ``{"tokens", "targets", "weight"}``, each (B, T).

    Raises:
      TypeError: `batch_size` is not an int.
      ValueError: `batch_size` is not positive, or images have no normalization.

    Examples:
      >>> from flatjax.data import Normalization, eval_batches, load
      >>> digits = load("digits")
      >>> batches = eval_batches(digits.test, Normalization.from_images(digits.train.image), 128)
      >>> len(batches), float(sum(batch["weight"].sum() for batch in batches))
      (4, 500.0)

    See Also:
      `flatjax.evaluate` (takes such batches), `flatjax.flatness.report` (takes such batches),
      `epoch_order` (batches for training).
    """
    batch_size = check_count("batch_size", batch_size, minimum=1)
    is_text = isinstance(split, TokenSplit)
    if normalization is None and not is_text:
        raise ValueError("normalization must be given for images, got None")
    batches = []
    for start in range(0, len(split), batch_size):
        arrays = [array[start : start + batch_size] for array in split.arrays]
        count = len(arrays[0])
        first, *others = (_padded(array, batch_size - count) for array in arrays)
        weight = jnp.asarray(_padded(np.ones(count, np.float32), batch_size - count))
        if is_text:
            batch = shifted(jnp.asarray(first))
            weight = jnp.broadcast_to(weight[:, None], batch["tokens"].shape)
        else:
            batch = {"image": _normalized(normalization, first), "label": jnp.asarray(others[0])}
        batches.append(batch | {"weight": weight})
    return batches


_normalized = jax.jit(Normalization.normalize)


def shifted(tokens: jax.Array) -> dict[str, jax.Array]:
    """Splits sequences (..., T + 1) into inputs and targets."""
    tokens = tokens.astype(jnp.int32)
    return {"tokens": tokens[..., :-1], "targets": tokens[..., 1:]}


def _padded(array: np.ndarray, padding: int) -> np.ndarray:
    return np.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1))
