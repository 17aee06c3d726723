"""`map_replicas` of networks of other libraries: their states go in and come out."""

import functools
from typing import Any

import chex
import equinox
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast import only
from flax import nnx
from placements import MESHES, PLACEMENTS, placed

import flatjax

assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)


@functools.cache
def equinox_state():
    """A module with a function among its leaves, and its statistics of batch norm."""
    make = lambda key: equinox.nn.make_with_state(EquinoxNetwork)(key)
    keys = jax.random.split(jax.random.key(0), 4)
    arguments = equinox.filter_vmap(make)(keys)

    def step(network, state, x):
        out, state = jax.vmap(network, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(
            x, state
        )
        return out, state

    return arguments, step, equinox.filter_vmap(step)


class EquinoxNetwork(equinox.Module):
    """A dense layer, batch norm and dropout, whose rate is a number among the leaves."""

    layer: equinox.nn.Linear
    norm: equinox.nn.BatchNorm
    dropout: equinox.nn.Dropout
    activation: Any

    def __init__(self, key):
        self.layer = equinox.nn.Linear(3, 2, key=key)
        self.norm = equinox.nn.BatchNorm(2, axis_name="batch", mode="batch")
        self.dropout = equinox.nn.Dropout(0.5, inference=True)
        self.activation = jnp.tanh

    def __call__(self, x, state):
        """Values and statistics."""
        x, state = self.norm(self.layer(x), state)
        return self.dropout(self.activation(x)), state


@functools.cache
def haiku_state():
    forward = haiku.transform_with_state(
        lambda x: haiku.BatchNorm(True, True, 0.9)(haiku.Linear(2)(x), is_training=True)
    )
    keys = jax.random.split(jax.random.key(0), 4)
    arguments = jax.vmap(forward.init, in_axes=(0, None))(keys, jnp.ones((5, 3)))
    step = lambda params, state, x: forward.apply(params, state, None, x)
    return arguments, step, jax.vmap(step)


class NNXNetwork(nnx.Module):
    """A dense layer, batch norm and dropout with its keys and counters."""

    def __init__(self, rngs):
        self.layer = nnx.Linear(3, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        """Values."""
        return self.dropout(self.norm(self.layer(x)))


@functools.cache
def nnx_state():
    split = lambda key: nnx.split(NNXNetwork(nnx.Rngs(key)))
    graph, _ = split(jax.random.key(0))
    state = jax.vmap(lambda key: split(key)[1])(jax.random.split(jax.random.key(0), 4))

    def step(state, graph, x):
        network = nnx.merge(graph, state)
        return network(x), nnx.state(network)

    return (state, graph), step, jax.vmap(step, in_axes=(0, None, 0))


CASES = [(place, make) for place in PLACEMENTS for make in (haiku_state, nnx_state)]
CASES += [(place, equinox_state) for place in ("vmap", "unroll", "auto")]
X = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)


@functools.cache
def expected_of(make):
    """What `vmap` gives, without a placement."""
    arguments, _, vmapped = make()
    return vmapped(*arguments, X)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("placement", "make"),
    only([("vmap", nnx_state)], CASES),
)
def test_states_of_other_libraries(placement, make):
    """Parameters, statistics, keys and counters go in and come out."""
    arguments, step, _ = make()
    axes = (0, None, 0) if make is nnx_state else 0
    mapped = flatjax.map_replicas(step, in_axes=axes, **placed(placement))
    if placement in (*MESHES, "auto_mesh"):  # faster than an operation after another
        mapped = jax.jit(mapped, static_argnums=1 if make is nnx_state else ())
    found = mapped(*arguments, X)
    expected = expected_of(make)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    numbers = lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf
    is_key = lambda leaf: jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    assert_close(jax.tree.map(numbers, found), jax.tree.map(numbers, expected))
