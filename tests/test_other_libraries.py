"""Networks that are not linen: the core sees pytrees only. NNX, Equinox and Haiku."""

import subprocess
import sys

import equinox
import haiku
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import flatjax

X = jax.random.normal(jax.random.key(0), (64, 3))
Y = jnp.sin(X.sum(axis=1, keepdims=True))


class Network(nnx.Module):
    """One hidden layer."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 16, rngs=rngs)
        self.out = nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, x):
        """Values, (B, 1)."""
        return self.out(jnp.tanh(self.hidden(x)))


def nnx_network():
    """Split into a graph, which is the same for all, and a state, which is trained."""
    split = lambda key: nnx.split(Network(nnx.Rngs(key)), nnx.Param)
    graph, _ = split(jax.random.key(0))
    return lambda key: split(key)[1], lambda params: nnx.merge(graph, params)(X)


def equinox_network():
    """A pytree with functions among its leaves: the arrays are trained, the rest is put back."""

    def make(key):
        layers = {"width_size": 16, "depth": 1, "activation": jnp.tanh}
        return equinox.partition(equinox.nn.MLP(3, 1, key=key, **layers), equinox.is_inexact_array)

    _, static = make(jax.random.key(0))
    predict = lambda params: jax.vmap(equinox.combine(params, static))(X)
    return lambda key: make(key)[0], predict


def haiku_network():
    """Transformed into a pair of pure functions."""
    forward = lambda x: haiku.nets.MLP([16, 1], activation=jnp.tanh)(x)
    network = haiku.without_apply_rng(haiku.transform(forward))
    return lambda key: network.init(key, X), lambda params: network.apply(params, X)


@pytest.mark.parametrize("make", [nnx_network, equinox_network, haiku_network])
@pytest.mark.parametrize("name", ["rsgd", "esgd", "parle"])
def test_networks_train(make, name):
    init, predict = make()
    loss = lambda params: jnp.mean((predict(params) - Y) ** 2)
    tx = {
        "rsgd": flatjax.replicated_sgd(0.1, 1.0, replica_axis=0),
        "esgd": flatjax.esgd(0.1, 0.1, replica_axis=0),
        "parle": flatjax.parle(0.1, 0.1, 3.0, replica_axis=0),
    }[name]
    params = flatjax.stack_replicas(init, jax.random.split(jax.random.key(1)))
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        grads = flatjax.map_replicas(jax.grad(loss))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    before = jax.vmap(loss)(params).mean()
    for _ in range(400):
        params, state = step(params, state)
    members = params if name == "rsgd" else flatjax.eval_params(state, params)
    after = jax.vmap(loss)(members).mean()
    assert after < 0.3 * before
    if name != "esgd":  # whose anchors are not coupled: their center is no solution
        assert loss(flatjax.replica_center(members, replica_axis=0)) < 1.5 * after


def test_the_core_imports_no_neural_network_library():
    code = "import sys, flatjax; print([m for m in sys.modules if m.split('.')[0] == 'flax'])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
