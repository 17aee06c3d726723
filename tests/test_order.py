"""Waiting for another computation: the order changes, no value does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flatjax
from flatjax import _order


@pytest.fixture
def single_device(monkeypatch):
    """Nothing waits where there are several devices, and the tests have eight."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.mark.parametrize("done", [1.5, -1.5, 0.0, np.nan, np.inf, -np.inf])
def test_values_stay(single_device, done):
    args = {
        "float": jnp.array([1.0, np.nan]),
        "int": 3 * jnp.ones([2], int),
        "text": "a",
        "none": None,
    }
    waited = _order.after({"x": jnp.full([2, 2], done)}, args)
    assert waited["text"] == "a"
    assert waited["none"] is None
    np.testing.assert_array_equal(waited["float"], args["float"])
    np.testing.assert_array_equal(waited["int"], args["int"])


def test_keys_and_python_numbers_pass(single_device):
    key = jax.random.key(0)
    assert _order.after(jnp.ones([]), (2.0, key)) == (2.0, key)


@pytest.mark.parametrize("nothing", [{}, jnp.zeros([0]), jnp.zeros([2], int), 1.0])
def test_nothing_to_wait_for(single_device, nothing):
    arg = jnp.ones([2])
    assert _order.after(nothing, arg) is arg


def test_one_device_waits_and_several_do_not(monkeypatch):
    def waits():
        trace = jax.make_jaxpr(lambda x, y: _order.after(x, y))
        return "select_n" in str(trace(jnp.ones([2]), jnp.ones([2])))

    assert not waits()
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert waits()


def test_the_compiler_keeps_the_dependence(single_device):
    compiled = jax.jit(lambda x, y: _order.after(jnp.sin(x), y)).lower(jnp.ones(8), jnp.ones(8))
    assert "sine" in compiled.compile().as_text()


def test_unrolled_replicas_and_entropy_sgd_are_the_same(monkeypatch):
    params = {"w": jnp.arange(6.0).reshape(3, 2)}
    grad_fn = jax.grad(lambda p: jnp.sum(jnp.cos(p["w"])))
    tx = flatjax.esgd(0.1, 0.5, key=jax.random.key(0), inner_steps=2)

    def train():
        step = flatjax.map_replicas(grad_fn, placement="unroll")
        weights, state = params, tx.init(params)
        for _ in range(5):
            updates, state = tx.update(step(weights), state, weights)
            weights = optax.apply_updates(weights, updates)
        return weights["w"]

    free = train()
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    np.testing.assert_array_equal(train(), free)
