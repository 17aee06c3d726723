"""Networks that are neither linen nor NNX: Equinox (a pytree with functions in it) and Haiku."""

import jax
import jax.numpy as jnp
import optax
import pytest

import flatjax

X = jax.random.normal(jax.random.key(0), (64, 3))
Y = jnp.sin(X.sum(axis=1))


def equinox_network():
    equinox = pytest.importorskip("equinox")

    def make(key):
        return equinox.nn.MLP(3, "scalar", width_size=16, depth=1, activation=jnp.tanh, key=key)

    # Functions among the leaves are no parameters: the arrays are trained, the rest is put back.
    _, static = equinox.partition(make(jax.random.key(0)), equinox.is_inexact_array)
    init = lambda key: equinox.partition(make(key), equinox.is_inexact_array)[0]
    predict = lambda params: jax.vmap(equinox.combine(params, static))(X)
    return init, predict


def haiku_network():
    haiku = pytest.importorskip("haiku")

    def forward(x):
        return haiku.nets.MLP([16, 1], activation=jnp.tanh)(x)[:, 0]

    network = haiku.without_apply_rng(haiku.transform(forward))
    return lambda key: network.init(key, X), lambda params: network.apply(params, X)


@pytest.mark.parametrize("make", [equinox_network, haiku_network])
@pytest.mark.parametrize("name", ["rsgd", "esgd"])
def test_networks_train(make, name):
    init, predict = make()
    loss = lambda params: jnp.mean((predict(params) - Y) ** 2)
    tx = {
        "rsgd": flatjax.replicated_sgd(0.1, 1.0, replica_axis=0),
        "esgd": flatjax.esgd(0.1, 0.1, replica_axis=0),
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
    members = params if name == "rsgd" else flatjax.entropy_sgd_eval_params(state, params)
    assert jax.vmap(loss)(members).mean() < 0.3 * before
