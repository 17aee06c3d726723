"""Means over a data set from sums over batches."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flatjax
from flatjax import _sums

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.normal(size=(22, 3)).astype(np.float32), RNG.integers(0, 4, size=22)
PARAMS = RNG.normal(size=(3, 4)).astype(np.float32)


def padded_batches(size):
    """All of one size; the last one filled with examples of weight 0 that would spoil any mean."""
    batches = []
    for start in range(0, 22, size):
        image, label = IMAGES[start : start + size], LABELS[start : start + size]
        empty = size - len(label)
        batches.append(
            {
                "image": np.concatenate([image, np.full((empty, 3), 1e6, np.float32)]),
                "label": np.concatenate([label, np.zeros(empty, int)]),
                "weight": np.concatenate([np.ones(len(label)), np.zeros(empty)]).astype(np.float32),
            }
        )
    return batches


def eval_fn(params, batch, shift=0.0):
    logits, weight = batch["image"] @ params + shift, batch["weight"]
    wrong = jnp.argmax(logits, axis=-1) != batch["label"]
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], axis=-1)
    return {
        "loss": -jnp.sum(weight * log_p[:, 0]),
        "error": jnp.sum(weight * wrong),
        "class": jnp.sum(weight[:, None] * jax.nn.one_hot(batch["label"], 4), axis=0),
        "count": jnp.sum(weight),
    }


def by_hand(shift=0.0):
    logits = np.float64(IMAGES @ PARAMS + shift)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return {
        "loss": -log_p[np.arange(22), LABELS].mean(),
        "error": np.mean(logits.argmax(axis=1) != LABELS),
        "class": np.bincount(LABELS, minlength=4) / 22,
    }


@pytest.mark.parametrize("size", [1, 8, 22, 50])
def test_means_do_not_depend_on_the_batches(size):
    jitted = jax.jit(lambda params, batch: eval_fn(params, batch))
    found = flatjax.evaluate(jitted, PARAMS, padded_batches(size))
    assert sorted(found) == ["class", "error", "loss"]
    chex.assert_trees_all_close(found, by_hand(), rtol=1e-5)
    assert jitted._cache_size() == 1


def test_state_is_passed_on():
    shift = np.array([1.0, -1.0, 0.5, 0.0], np.float32)
    found = flatjax.evaluate(jax.jit(eval_fn), PARAMS, iter(padded_batches(8)), shift)
    chex.assert_trees_all_close(found, by_hand(shift), rtol=1e-5)


def test_replicas_are_evaluated_together():
    stack = np.stack([PARAMS, -PARAMS, 2 * PARAMS])
    mapped = jax.jit(flatjax.map_replicas(eval_fn, in_axes=(0, None)))
    found = flatjax.evaluate(mapped, stack, padded_batches(8))
    each = [flatjax.evaluate(eval_fn, params, padded_batches(8)) for params in stack]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    chex.assert_trees_all_close(found, expected, rtol=1e-5)
    assert len(set(found["loss"].tolist())) == 3


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    losses = jnp.full(128, 2.7, dtype)
    of_losses = lambda params, batch: {"loss": jnp.sum(batch), "count": len(batch)}
    found = flatjax.evaluate(jax.jit(of_losses), None, [losses] * 200)["loss"]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, jnp.sum(losses) / 128.0, rtol=1e-6)
    np.testing.assert_allclose(found, 2.7, rtol=2e-3)


INTEGERS = [
    lambda params, batch: {"error": jnp.int32(135_000_000), "count": jnp.int32(1_350_000_000)},
    lambda params, batch: {"error": 540_000_000, "count": 5_400_000_000},
    lambda params, batch: {"error": np.int64(540_000_000), "count": np.float64(5.4e9)},
]


@pytest.mark.parametrize("of_integers", INTEGERS, ids=["device", "python", "numpy"])
def test_counts_beyond_32_bits(of_integers):
    found = flatjax.evaluate(of_integers, None, [0] * 4)["error"]
    np.testing.assert_allclose(found, 0.1, rtol=1e-6)


def test_counts_beyond_32_bits_under_jit():
    found = jax.jit(lambda params: flatjax.evaluate(INTEGERS[0], params, [0] * 4))(PARAMS)
    np.testing.assert_allclose(found["error"], 0.1, rtol=1e-6)


def test_small_summands_are_not_lost():
    of_batch = lambda params, batch: {"loss": batch, "count": 1}
    batches = [jnp.float32(2**24)] + [jnp.float32(1)] * 200
    found = flatjax.evaluate(of_batch, None, batches)["loss"]
    assert found == np.float32((2**24 + 200) / 201)  # one by one, 2**24 + 1 is 2**24
    for bad in (np.inf, -np.inf, np.nan):
        found = flatjax.evaluate(of_batch, None, [*batches, jnp.float32(bad), jnp.float32(1)])
        np.testing.assert_array_equal(found["loss"], np.float32(bad))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "bool"])
def test_sums_of_integers_are_exact(dtype):
    numbers = RNG.integers(0, 2, 50) if dtype == "bool" else RNG.integers(-(2**7), 2**7, 50)
    top = 1 if dtype == "bool" else np.iinfo(dtype).max
    numbers = [jnp.asarray(np.asarray(number).astype(dtype)) for number in [*numbers, *[top] * 50]]
    add = jax.jit(_sums.add)
    total = _sums.zeros(numbers[0])
    for number in numbers:
        total = add(total, number)
    assert int(np.float64(total.high) + np.float64(total.low)) == sum(map(int, numbers))


def test_what_is_float64_is_summed_in_float64():
    with jax.enable_x64(True):
        of_batch = lambda params, batch: {"loss": batch, "count": 1}
        found = flatjax.evaluate(of_batch, None, [jnp.float64(1), jnp.float64(1e-12)])["loss"]
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, 0.5 + 5e-13, rtol=1e-15)


def test_the_mean_can_be_differentiated():
    of_batch = lambda params, batch: {"loss": params**2 * jnp.sum(batch), "count": len(batch)}
    loss = lambda params: flatjax.evaluate(of_batch, params, [jnp.ones(2), jnp.ones(3)])["loss"]
    assert jax.grad(loss)(3.0) == pytest.approx(6.0)


def test_evaluate_refuses():
    with pytest.raises(ValueError, match="batches must hold at least one"):
        flatjax.evaluate(eval_fn, PARAMS, [])
    with pytest.raises(ValueError, match=r"eval_fn must return .* 'count', got \['loss'\]"):
        flatjax.evaluate(lambda params, batch: {"loss": 1.0}, PARAMS, padded_batches(8))
