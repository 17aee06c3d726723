"""Means over a data set from sums over batches."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flatjax

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


def test_evaluate_refuses():
    with pytest.raises(ValueError, match="batches must hold at least one"):
        flatjax.evaluate(eval_fn, PARAMS, [])
    with pytest.raises(ValueError, match=r"eval_fn must return .* 'count', got \['loss'\]"):
        flatjax.evaluate(lambda params, batch: {"loss": 1.0}, PARAMS, padded_batches(8))
