"""Means in place of sums are found by every measure, once for each function."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flatjax
from flatjax import _additivity, flatness

RNG = np.random.default_rng(0)
X = RNG.normal(size=(100, 5)).astype(np.float32)
W = RNG.normal(size=(5, 3)).astype(np.float32)
LABELS = RNG.integers(0, 3, size=100)
LEARNED = (X @ W).argmax(-1)  # labels without a single error
BATCHES = [(X[start : start + 25], LABELS[start : start + 25]) for start in range(0, 100, 25)]
KEY = jax.random.key(0)


def make(reduce):
    def eval_fn(params, batch):
        images, labels = batch
        logits = images @ params
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        wrong = logits.argmax(-1) != labels
        return {"loss": reduce(losses), "error": reduce(1.0 * wrong), "count": len(labels)}

    return eval_fn


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("labels", [LABELS, LEARNED])
def test_the_mean_error_is_warned_of(jit, labels):
    error = lambda reduce: (
        lambda params, batch: {
            "error": reduce((batch[0] @ params).argmax(-1) != batch[1]),
            "count": len(batch[1]),
        }
    )
    mean, total = (error(one) for one in (jnp.mean, jnp.sum))
    mean, total = (jax.jit(mean), jax.jit(total)) if jit else (mean, total)
    with pytest.warns(UserWarning, match=r"'error' is their mean: return jnp\.sum\(losses\)"):
        flatjax.evaluate(mean, W, [(X, labels)])
    flatjax.evaluate(mean, W, [(X, labels)])  # said once
    expected = np.mean((X @ W).argmax(-1) != labels)
    assert float(flatjax.evaluate(total, W, [(X, labels)])["error"]) == pytest.approx(expected)


def stacked(eval_fn):
    flatjax.check_collapsed(eval_fn, np.stack([W, W]), BATCHES)


CALLS = {
    "check_collapsed": stacked,
    "local_energy": lambda f: flatness.local_energy(f, sigmas=[0.1], num_samples=2)(
        W, BATCHES, KEY
    ),
    "local_energy of a loader": lambda f: flatness.local_energy(f, sigmas=[0.1], num_samples=2)(
        W, iter(BATCHES), KEY
    ),
    "sam_sharpness": lambda f: flatness.sam_sharpness(f, rho=0.1)(W, BATCHES),
    "worst_case_sharpness": lambda f: flatness.worst_case_sharpness(f, rho=0.1, steps=1)(
        W, BATCHES, KEY
    ),
    "quantization": lambda f: flatness.quantization(f, bits=[4])(W, BATCHES),
    "pruning": lambda f: flatness.pruning(f, sparsity=[0.5])(W, BATCHES),
    "hessian_operator": lambda f: flatness.hessian_operator(f)(W, BATCHES),
    "local_entropy": lambda f: flatness.local_entropy(f, distances=[0.1], betas=[1.0])(
        W, BATCHES, KEY
    ),
    "learning_coefficient": lambda f: flatness.learning_coefficient(f, num_steps=10)(
        W, BATCHES, KEY
    ),
    "slice_1d": lambda f: flatness.slice_1d(f, [0.0, 1.0])(W, X[:5, :3], BATCHES),
    "fine_tuning": lambda f: flatness.fine_tuning(f, BATCHES, optax.sgd(0.1), steps=[1])(
        W, BATCHES
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_measure_warns_of_means(name):
    with pytest.warns(UserWarning, match=r"eval_fn must return sums .* 'error', 'loss' are their"):
        CALLS[name](make(jnp.mean))


def test_the_parts_of_the_gauss_newton_operator():
    loss_fn = lambda outputs, batch: {"loss": jnp.mean(outputs**2), "count": len(outputs)}
    operator = flatness.gauss_newton_operator(lambda params, batch: batch[0] @ params, loss_fn)
    with pytest.warns(UserWarning, match="loss_fn must return sums"):
        operator(W, BATCHES)


def test_each_function_is_tested_once_and_may_die():
    sizes = []

    def count(params, batch):
        sizes.append(len(batch[1]))
        return make(jnp.sum)(params, batch)

    flatjax.evaluate(count, W, BATCHES)
    assert sorted(sizes) == [1, 1, 25, 25, 25, 25, 25]
    sizes.clear()
    flatjax.evaluate(count, W, BATCHES)
    flatjax.evaluate(count, W, [(X, LABELS)])
    assert sizes == [25, 25, 25, 25, 100]
    gc.collect()  # of functions of other tests
    before, reference = len(_additivity._tested), weakref.ref(count)
    del count
    gc.collect()
    assert reference() is None
    assert len(_additivity._tested) == before - 1


def test_methods_are_tested_once():
    class Task:
        calls = 0

        def sums(self, params, batch):
            self.calls += 1
            return make(jnp.sum)(params, batch)

    task = Task()
    for _ in range(3):
        flatjax.evaluate(task.sums, W, BATCHES)
    assert task.calls == 3 * 4 + 3


def test_what_returns_sums_by_construction_is_not_tested():
    sizes = []

    def apply(params, images):
        sizes.append(len(images))
        return images @ params

    flatjax.evaluate(flatness.classification(apply), W, BATCHES)
    assert sizes == [25]


def test_traced_code_is_not_tested():
    sizes = []

    def count(params, batch):
        sizes.append(len(batch[1]))
        return make(jnp.sum)(params, batch)

    jax.jit(lambda params: flatjax.evaluate(count, params, BATCHES))(W)
    jax.jit(lambda: flatjax.evaluate(count, W, BATCHES))()
    assert sizes == [25] * 8


def test_other_values_that_do_not_add_up_pass():
    """A mean of equal batches, differences of opposite signs, and sums of padded examples."""
    mean = lambda params, batch: {"loss": jnp.mean(batch), "count": 1}
    assert float(flatjax.evaluate(mean, 0.0, [jnp.array([1.0, 3.0])])["loss"]) == 2
    signs = lambda params, batch: {"sign": jnp.sum(batch), "count": len(batch)}
    batch = jnp.array([1.0, -1.0, 5.0, 5.0])
    assert float(flatjax.evaluate(signs, 0.0, [batch])["sign"]) == 2.5
    only = lambda params, batch: {"sign": jnp.sum(batch.reshape(2, 2)), "count": len(batch)}
    assert float(flatjax.evaluate(only, 0.0, [batch])["sign"]) == 2.5
    padded = lambda params, batch: {"loss": jnp.sum(batch[0] * batch[1]), "count": batch[1].sum()}
    data = [(jnp.ones(3), jnp.array([0.0, 0.0, 1.0]))]
    assert float(flatjax.evaluate(padded, 0.0, data)["loss"]) == 1
