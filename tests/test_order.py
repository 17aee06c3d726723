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


def test_what_is_computed_once_stays(single_device):
    draw = lambda key: {"x": jax.random.normal(key, (3,)), "y": jnp.ones(2)}
    key = jax.random.key(0)
    once = jax.jit(lambda count, key: _order.once(draw, count, key))
    for count in (0, 7):
        jax.tree.map(np.testing.assert_array_equal, once(count, key), draw(key))
    keys = jax.random.split(key, 4)
    found = jax.vmap(once)(jnp.arange(4), keys)
    jax.tree.map(np.testing.assert_array_equal, found, jax.vmap(draw)(keys))


@pytest.mark.parametrize(("devices", "conditionals"), [(1, 1), (2, 0)])
def test_the_compiler_keeps_the_conditional(monkeypatch, devices, conditionals):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    compute = jax.jit(lambda count, x: _order.once(jnp.sin, count, x))
    compiled = compute.lower(jnp.array(0), jnp.ones(8)).compile().as_text()
    assert compiled.count(" conditional(") == conditionals


def test_a_step_within_an_opaque_loop_does_nothing_of_what_ends_it(single_device):
    tx = flatjax.esgd(0.1, 0.5, inner_steps=4, opaque_mode=True, noise_scale=0.0)
    grad_fn = lambda params, i: params
    step = jax.jit(lambda p, state: tx.update(p, state, p, grad_fn=grad_fn))
    params = jnp.ones(8)
    compiled = step.lower(params, tx.init(params)).compile().as_text()
    assert " conditional(" not in compiled
