"""The network to evaluate after training in NNX: weights and statistics against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flatjax.nnx

RNG = np.random.default_rng(0)
BATCHES = [np.float32(RNG.normal(i, 3.0, size=(8, 3))) for i in range(2)]


class Network(nnx.Module):
    """A linear layer, batch norm, dropout."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(2, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        """Outputs, (B, 2)."""
        return self.dropout(self.norm(self.linear(x)))


def expected(x, kernel, bias, scale=1.0, shift=0.0):
    """Outputs with the mean of the batches' statistics, by NumPy."""
    kernel, bias = np.asarray(kernel, float), np.asarray(bias, float)
    maps = [np.asarray(batch, float) @ kernel + bias for batch in BATCHES]
    mean = np.mean([one.mean(axis=0) for one in maps], axis=0)
    variance = np.mean([one.var(axis=0) for one in maps], axis=0)
    return scale * (np.asarray(x, float) @ kernel + bias - mean) / np.sqrt(variance + 1e-5) + shift


@nnx.jit
def step(model, optimizer, x):
    """One update of a network, or of stacked ones."""
    grad = nnx.grad(lambda model, x: jnp.mean((model(x) - 1.0) ** 2))
    is_stacked = model.linear.kernel.ndim == 3
    optimizer.update(model, (nnx.vmap(grad, in_axes=(0, None)) if is_stacked else grad)(model, x))


@pytest.mark.slow
def test_the_center_has_statistics_of_its_own():
    make = lambda key: Network(nnx.Rngs(key))
    model = flatjax.stack_replicas(make, jax.random.split(jax.random.key(0), 3))
    tx = flatjax.replicated_sgd(0.1, steps=100, replica_axis=0)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    step(model, optimizer, BATCHES[0])
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.BatchStat))
    found = flatjax.nnx.eval_model(model, optimizer, BATCHES, replica_axis=0)
    weights = (model.linear.kernel, model.linear.bias, model.norm.scale, model.norm.bias)
    center = [np.mean(weight[...], axis=0) for weight in weights]
    np.testing.assert_allclose(found.linear.kernel[...], center[0], rtol=1e-6)
    wanted = expected(BATCHES[1], *center)  # without dropout
    np.testing.assert_allclose(found(BATCHES[1]), wanted, rtol=1e-3, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model, nnx.BatchStat))
    step(model, optimizer, BATCHES[0])  # training continues, in training mode
    np.testing.assert_allclose(found(BATCHES[1]), wanted, rtol=1e-3, atol=1e-4)


def test_the_anchor_of_a_network_that_is_run_by_a_function_of_its_own():
    model = Network(nnx.Rngs(0))
    start = np.asarray(model.linear.kernel[...])
    optimizer = nnx.Optimizer(model, flatjax.esgd(0.1, 0.1, inner_steps=5), wrt=nnx.Param)
    for _ in range(2):  # in the middle of a loop
        step(model, optimizer, BATCHES[0])
    assert not np.allclose(model.linear.kernel[...], start)
    batches = [{"x": batch} for batch in BATCHES]
    run = lambda network, batch: network(batch["x"])
    found = flatjax.nnx.eval_model(model, optimizer, batches, forward=run)
    np.testing.assert_array_equal(found.linear.kernel[...], start)
    wanted = expected(BATCHES[1], start, np.zeros(2))
    np.testing.assert_allclose(found(BATCHES[1]), wanted, rtol=1e-3, atol=1e-4)


def test_batches_are_asked_for():
    model = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, flatjax.esgd(0.1, 0.1), wrt=nnx.Param)
    with pytest.raises(ValueError, match="batches must be given for a network with batch norm"):
        flatjax.nnx.eval_model(model, optimizer)
