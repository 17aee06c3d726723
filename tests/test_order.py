"""Waiting for another computation: the order changes, no value does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import devices
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import flatjax
from flatjax import _cpu


def sharded(fn):
    """The same on two devices."""
    mesh = jax.make_mesh((2,), ("x",), devices=devices(2))
    return jax.jit(fn, in_shardings=NamedSharding(mesh, P()))


@pytest.mark.parametrize("done", [1.5, -1.5, 0.0, np.nan, np.inf, -np.inf])
def test_values_stay(done):
    args = {
        "float": jnp.array([1.0, np.nan]),
        "int": 3 * jnp.ones([2], int),
        "text": "a",
        "none": None,
    }
    waited = _cpu.after({"x": jnp.full([2, 2], done)}, args)
    assert waited["text"] == "a"
    assert waited["none"] is None
    np.testing.assert_array_equal(waited["float"], args["float"])
    np.testing.assert_array_equal(waited["int"], args["int"])


def test_keys_and_python_numbers_pass():
    key = jax.random.key(0)
    assert _cpu.after(jnp.ones([]), (2.0, key)) == (2.0, key)


@pytest.mark.parametrize("nothing", [{}, jnp.zeros([0]), jnp.zeros([2], int), 1.0])
def test_nothing_to_wait_for(nothing):
    arg = jnp.ones([2])
    assert _cpu.after(nothing, arg) is arg


@pytest.mark.parametrize(("placed", "waits"), [(jax.jit, True), (sharded, False)])
def test_one_device_waits_and_several_do_not(placed, waits):
    lowered = placed(_cpu.after).lower(jnp.ones([2]), jnp.ones([2]))
    assert ("stablehlo.select" in lowered.as_text()) == waits


def test_the_compiler_keeps_the_dependence():
    compiled = jax.jit(lambda x, y: _cpu.after(jnp.sin(x), y)).lower(jnp.ones(8), jnp.ones(8))
    assert "sine" in compiled.compile().as_text()


def test_unrolled_replicas_and_entropy_sgd_are_the_same(monkeypatch):
    params = {"w": jnp.arange(6.0).reshape(3, 2)}
    grad_fn = jax.grad(lambda p: jnp.sum(jnp.cos(p["w"])))
    tx = flatjax.esgd(0.1, 0.5, key=jax.random.key(0), inner_steps=2)

    def train():
        @jax.jit
        def step(weights, state):
            grads = flatjax.map_replicas(grad_fn, placement="unroll")(weights)
            updates, state = tx.update(grads, state, weights)
            return optax.apply_updates(weights, updates), state

        weights, state = params, tx.init(params)
        for _ in range(5):
            weights, state = step(weights, state)
        return weights["w"]

    ordered = train()
    monkeypatch.setattr(_cpu, "after", lambda done, args: args)
    monkeypatch.setattr(_cpu, "once", lambda values, count: values)
    np.testing.assert_allclose(train(), ordered, rtol=1e-6)


def test_what_is_computed_once_stays():
    draw = lambda key: {"x": jax.random.normal(key, (3,)), "y": jnp.ones(2)}
    key = jax.random.key(0)
    once = jax.jit(lambda count, key: _cpu.once(draw(key), count))
    for count in (0, 7):
        jax.tree.map(np.testing.assert_array_equal, once(count, key), draw(key))
    keys = jax.random.split(key, 4)
    found = jax.jit(jax.vmap(once))(jnp.arange(4), keys)
    jax.tree.map(np.testing.assert_array_equal, found, jax.vmap(draw)(keys))
    assert _cpu.once({}, 0) == {}


@pytest.mark.parametrize(("placed", "conditionals"), [(jax.jit, 1), (sharded, 0)])
def test_the_compiler_keeps_the_conditional(placed, conditionals):
    compute = placed(lambda count, x: _cpu.once(jnp.sin(x), count))
    compiled = compute.lower(jnp.array(0), jnp.ones(8)).compile().as_text()
    assert compiled.count(" conditional(") == conditionals


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrap", [lambda x: _cpu.after(jnp.cos(x), x), lambda x: _cpu.once(x, jnp.array(1))]
)
def test_derivatives_pass(wrap):
    """In both modes and of second order, in vmap, jit and checkpoint."""
    x = jnp.arange(3.0)
    cube = lambda x: wrap(x) ** 3
    for transform in (lambda fn: fn, jax.jit, lambda fn: jax.jit(jax.checkpoint(fn))):
        fn = transform(cube)
        np.testing.assert_allclose(jax.vmap(jax.grad(fn))(x), 3 * x**2)
        np.testing.assert_allclose(jax.vmap(jax.grad(jax.grad(fn)))(x), 6 * x)
        np.testing.assert_allclose(jax.jvp(fn, (x,), (jnp.ones(3),))[1], 3 * x**2)


def test_a_step_within_an_opaque_loop_does_nothing_of_what_ends_it():
    tx = flatjax.esgd(0.1, 0.5, inner_steps=4, opaque_mode=True, noise_scale=0.0)
    grad_fn = lambda params, i: params
    step = jax.jit(lambda p, state: tx.update(p, state, p, grad_fn=grad_fn))
    params = jnp.ones(8)
    compiled = step.lower(params, tx.init(params)).compile().as_text()
    assert " conditional(" not in compiled
