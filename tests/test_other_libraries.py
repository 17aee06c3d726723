"""Networks that are not linen, and their batch norm: NNX, Equinox and Haiku are pytrees."""

import functools
import subprocess
import sys

import equinox
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fast import only, slow
from flax import nnx

import flatjax

X = np.float32(np.random.default_rng(0).normal(size=(64, 3)))
Y = np.sin(X.sum(axis=1, keepdims=True))


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


LIBRARIES = [nnx_network, equinox_network, haiku_network]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make"),
    only(
        [("rsgd", nnx_network)],
        # Parle has the parts of the others.
        [("parle", make) for make in LIBRARIES]
        + [("rsgd", nnx_network), ("rsgd", equinox_network), ("esgd", haiku_network)],
    ),
)
@pytest.mark.claim("README.md", "NNX, Equinox and Haiku networks train alike")
def test_networks_train(name, make):
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


@pytest.mark.slow
def test_modules_are_stacked_whole():
    """Arrays get a replica axis; functions and numbers of layers are shared."""
    make = lambda key: equinox.nn.MLP(3, 1, 16, 1, key=key)
    replicas = flatjax.stack_replicas(make, jax.random.split(jax.random.key(0)))
    assert replicas.layers[0].weight.shape == (2, 16, 3)
    one = make(jax.random.split(jax.random.key(0))[1])
    predict = lambda network, x: jax.vmap(network)(x)
    found = flatjax.map_replicas(predict, in_axes=(0, None))(replicas, X)
    np.testing.assert_allclose(found[1], predict(one, X), rtol=1e-5, atol=1e-6)


# --- batch norm: statistics of each library, in its own form --------------------------------------

BATCHES = [2.0 * i + (1 + i) * X[:32] for i in range(3)]
MEANS = {
    "mean": np.mean([batch.mean(axis=0) for batch in BATCHES], axis=0),
    "var": np.mean([batch.var(axis=0) for batch in BATCHES], axis=0),
}
PROBE = np.float32([[0.3, -2.0, 5.0], [1.0, 7.0, 0.0]])


def nnx_norm(momentum):
    """Merged outside of jit, so that the update changes its statistics in place."""
    norm = nnx.BatchNorm(3, momentum=momentum, use_scale=False, use_bias=False, rngs=nnx.Rngs(0))
    graph, params, stats = nnx.split(norm, nnx.Param, ...)

    def update(params, stats, batch):
        norm = nnx.merge(graph, params, stats)
        norm(batch)
        return nnx.state(norm, nnx.BatchStat)

    def evaluate(stats, x):
        return nnx.merge(graph, params, stats)(x, use_running_average=True)

    return update, params, stats, evaluate


def equinox_norm(momentum, mode):
    """Whose state is an object that each update uses up."""
    make = functools.partial(equinox.nn.BatchNorm, axis_name="batch", channelwise_affine=False)
    norm, state = equinox.nn.make_with_state(make)(3, momentum=momentum, mode=mode)

    def apply(norm, state, batch):
        return jax.vmap(norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(
            batch, state
        )

    update = lambda norm, state, batch: apply(norm, state, batch)[1]
    return update, norm, state, lambda s, x: apply(equinox.nn.inference_mode(norm), s, x)[0]


def haiku_norm(momentum):
    """Which keeps a hidden average, a debiased one and a counter."""

    def forward(x, is_training):
        return haiku.BatchNorm(False, False, decay_rate=momentum)(x, is_training)

    norm = haiku.without_apply_rng(haiku.transform_with_state(forward))
    params, stats = norm.init(jax.random.key(0), X, is_training=True)
    update = lambda params, stats, x: norm.apply(params, stats, x, is_training=True)[1]
    return update, params, stats, lambda s, x: norm.apply(params, s, x, is_training=False)[0]


@pytest.mark.parametrize("momentum", [0.9, slow(0.99)])
@pytest.mark.parametrize(
    "make",
    [
        nnx_norm,
        slow(functools.partial(equinox_norm, mode="ema")),
        slow(functools.partial(equinox_norm, mode="batch")),
        slow(haiku_norm),
    ],
    ids=["nnx", "equinox ema", "equinox batch", "haiku"],
)
@pytest.mark.parametrize("trained", [slow(0), 30])
def test_batch_norm(make, momentum, trained):
    """Evaluated with re-estimated statistics: those of NumPy over the same batches."""
    update, params, stats, evaluate = make(momentum)
    leaves, structure = jax.tree.flatten(stats)
    for _ in range(trained):
        leaves = jax.tree.leaves(update(params, structure.unflatten(leaves), X + 100))
    stats = structure.unflatten(leaves)
    found = flatjax.batch_stats.reestimate(update, params, stats, BATCHES)
    leaves = jax.tree.leaves(found)
    expected = (PROBE - MEANS["mean"]) / np.sqrt(MEANS["var"] + 1e-5)
    np.testing.assert_allclose(evaluate(found, PROBE), expected, rtol=1e-3, atol=1e-4)
    # And so they are where training continues, on a batch with just these statistics.
    noise = np.random.default_rng(0).standard_normal((64, 3))
    noise = (noise - noise.mean(axis=0)) / noise.std(axis=0)
    batch = jnp.asarray(MEANS["mean"] + np.sqrt(MEANS["var"]) * noise, jnp.float32)
    continued = update(params, structure.unflatten(leaves), batch)
    np.testing.assert_allclose(evaluate(continued, PROBE), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_the_core_imports_no_neural_network_library():
    code = "import sys, flatjax; print([m for m in sys.modules if m.split('.')[0] == 'flax'])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
