"""The order of an epoch, training batches and evaluation batches."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatjax.data import (
    Normalization,
    Split,
    epoch_order,
    eval_batches,
    take_batch,
    to_device,
)

NORMALIZATION = Normalization(mean=(0.3, 0.6), std=(0.2, 0.4))


def make_split(count=23, shape=(4, 5, 2)):
    rng = np.random.default_rng(0)
    return Split(
        image=rng.integers(256, size=(count, *shape), dtype=np.uint8),
        label=rng.integers(10, size=count, dtype=np.int32),
    )


def normalized(image):
    """One pixel at a time, in double precision."""
    result = np.empty(image.shape)
    for index in np.ndindex(image.shape):
        channel = index[-1]
        mean, std = NORMALIZATION.mean[channel], NORMALIZATION.std[channel]
        result[index] = (image[index] / 255 - mean) / std
    return result


def test_each_replica_sees_its_own_permutation_without_the_remainder():
    order = epoch_order(jax.random.key(0), num_examples=103, batch_size=10, num_replicas=3)
    assert order.shape == (10, 3, 10)
    assert order.dtype == jnp.int32
    seen = [tuple(np.asarray(order[:, replica]).ravel().tolist()) for replica in range(3)]
    for positions in seen:
        assert len(set(positions)) == 100
        assert set(positions) <= set(range(103))
        assert list(positions) != sorted(positions)
    assert len(set(seen)) == 3


def test_every_example_comes_first_equally_often():
    keys = jax.random.split(jax.random.key(1), 2000)
    first = np.asarray(jax.jit(jax.vmap(lambda key: epoch_order(key, 5, 1, 2)[0, :, 0]))(keys))
    for replica in range(2):
        # 400 expected of each, with a standard deviation of 18.
        np.testing.assert_allclose(np.bincount(first[:, replica], minlength=5), 400, atol=72)
    # Independent replicas agree in a fifth of the draws, with a standard deviation of 0.009.
    assert np.mean(first[:, 0] == first[:, 1]) == pytest.approx(0.2, abs=0.036)


def test_the_order_is_a_function_of_the_key_alone():
    key = jax.random.fold_in(jax.random.key(0), 7)
    again = jax.random.fold_in(jax.random.key(0), 7)
    np.testing.assert_array_equal(epoch_order(key, 50, 8, 2), epoch_order(again, 50, 8, 2))
    inside = jax.jit(lambda key: epoch_order(key, 50, 8, 2))
    np.testing.assert_array_equal(epoch_order(key, 50, 8, 2), inside(key))
    assert not np.array_equal(epoch_order(key, 50, 8, 2), epoch_order(jax.random.key(0), 50, 8, 2))


def test_the_order_of_a_replica_does_not_depend_on_how_many_there_are():
    key = jax.random.key(0)
    np.testing.assert_array_equal(epoch_order(key, 50, 8, 5)[:, :2], epoch_order(key, 50, 8, 2))


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ({"batch_size": 11}, ValueError, "batch_size must not exceed num_examples=10, got 11"),
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1, got 0"),
        ({"num_examples": 0}, ValueError, "num_examples must be >= 1, got 0"),
        ({"num_replicas": 0}, ValueError, "num_replicas must be >= 1, got 0"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an int, got 2.5"),
    ],
)
def test_epoch_order_refuses_impossible_sizes(sizes, error, message):
    with pytest.raises(error, match=message):
        epoch_order(jax.random.key(0), **{"num_examples": 10, "batch_size": 2} | sizes)


@pytest.mark.parametrize("shape", [(6,), (3, 4)])
@pytest.mark.parametrize("transform", [lambda fn: fn, jax.jit])
def test_take_batch_gathers_and_normalizes(shape, transform):
    split = make_split()
    indices = np.random.default_rng(1).integers(len(split), size=shape)
    batch = transform(take_batch)(to_device(split), jnp.asarray(indices), NORMALIZATION)
    assert batch["image"].shape == (*shape, 4, 5, 2)
    assert (batch["image"].dtype, batch["label"].dtype) == (jnp.float32, jnp.int32)
    for place in np.ndindex(shape):
        expected = normalized(split.image[indices[place]])
        np.testing.assert_allclose(batch["image"][place], expected, atol=1e-5)
        assert batch["label"][place] == split.label[indices[place]]


def test_take_batch_without_normalization_returns_the_raw_images():
    split = make_split()
    batch = take_batch(to_device(split), jnp.array([3, 1]), None)
    assert batch["image"].dtype == jnp.uint8
    np.testing.assert_array_equal(batch["image"], split.image[[3, 1]])


@pytest.mark.parametrize("indices", [[], np.zeros((2, 0), np.int32), np.array([])])
def test_take_batch_of_nothing(indices):
    batch = take_batch(to_device(make_split()), indices, NORMALIZATION)
    shape = np.shape(indices)
    assert (batch["image"].shape, batch["label"].shape) == ((*shape, 4, 5, 2), shape)


def test_to_device_takes_a_device_or_a_sharding():
    split = make_split()
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    assert to_device(split, replicated).image.sharding == replicated
    last = jax.devices()[-1]
    assert to_device(split, last).label.devices() == {last}
    np.testing.assert_array_equal(to_device(split).image, split.image)


@pytest.mark.parametrize(("batch_size", "count"), [(10, 3), (23, 1), (22, 2), (64, 1), (1, 23)])
def test_eval_batches_hold_each_example_once_in_order(batch_size, count):
    split = make_split()
    batches = eval_batches(split, NORMALIZATION, batch_size)
    assert len(batches) == count
    for batch in batches:
        assert {name: (array.shape, str(array.dtype)) for name, array in batch.items()} == {
            "image": ((batch_size, 4, 5, 2), "float32"),
            "label": ((batch_size,), "int32"),
            "weight": ((batch_size,), "float32"),
        }
    together = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    padding = count * batch_size - len(split)
    np.testing.assert_array_equal(together["weight"], [1] * len(split) + [0] * padding)
    np.testing.assert_array_equal(together["label"][: len(split)], split.label)
    np.testing.assert_allclose(together["image"][: len(split)], normalized(split.image), atol=1e-5)
    assert np.all(np.isfinite(together["image"]))


def test_eval_batches_compile_once_for_a_consumer():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def consume(batch):
        return (batch["weight"] * batch["label"]).sum()

    split = make_split()
    total = sum(consume(batch) for batch in eval_batches(split, NORMALIZATION, 10))
    assert total == split.label.sum()


@pytest.mark.parametrize(("batch_size", "error"), [(0, ValueError), (1.5, TypeError)])
def test_eval_batches_refuse_impossible_sizes(batch_size, error):
    with pytest.raises(error, match=f"batch_size must be .* got {batch_size}"):
        eval_batches(make_split(), NORMALIZATION, batch_size)
