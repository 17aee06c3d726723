"""Couplings that send less, or act later: against NumPy loops, and in compiled programs."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import devices
from fast import only
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import flatjax
from flatjax import communication

GAMMA, RATE, STEPS = 2.0, 0.1, 7
RNG = np.random.default_rng(0)
START = {name: RNG.normal(size=(4, *shape)) for name, shape in {"w": (2, 3), "b": (3,)}.items()}
START = jax.tree.map(lambda leaf: leaf.astype(np.float32), START)
MINIMA = jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape).astype(np.float32), START)


# ------------------------------------------------------------------------------ the same in NumPy


def sent(w, dtype):
    """What is left of the weights of one replica on the way."""
    if dtype is None:
        return w
    if dtype == "int8":
        step = np.abs(w).max() / 127
        return step * np.round(w / step)
    return w.astype(jnp.dtype(dtype)).astype(np.float32)


def displacements(replicas, dtype):
    received = [sent(w, dtype) for w in replicas]
    return [q - sum(received) / len(received) for q in received]


def by_hand(form, *, dtype, delayed, period, start, minima):
    """One leaf, replica by replica; SGD on |tanh(w - m)|."""
    replicas = [np.asarray(w) for w in start]
    pending = [np.zeros_like(w) for w in replicas]
    for t in range(STEPS):
        couples = t % period == period - 1
        gradients = [np.tanh(w - m) for w, m in zip(replicas, minima, strict=True)]
        if form == "force":
            if couples:
                now = displacements(replicas, dtype)
                used, pending = (pending, now) if delayed else (now, pending)
                gradients = [g + period * GAMMA * d for g, d in zip(gradients, used, strict=True)]
            replicas = [w - RATE * g for w, g in zip(replicas, gradients, strict=True)]
        else:
            before = displacements(replicas, dtype)
            replicas = [w - RATE * g for w, g in zip(replicas, gradients, strict=True)]
            if couples:
                used = before if delayed else displacements(replicas, dtype)
                shrink = 1 - np.exp(-period * RATE * GAMMA)
                replicas = [w - shrink * d for w, d in zip(replicas, used, strict=True)]
    return np.stack(replicas)


def coupled(form, **options):
    if form == "force":
        return optax.chain(flatjax.couple_replicas(GAMMA, **options), optax.sgd(RATE))
    if "delayed" in options:
        options["overlapped"] = options.pop("delayed")
    return optax.chain(optax.sgd(RATE), flatjax.pull_to_center(GAMMA, RATE, **options))


def run(tx, params, minima):
    """A scan, so that the types of the state must stay those of its start."""

    def step(carry, _):
        params, state = carry
        gradient = jax.tree.map(lambda w, m: jnp.tanh(w - m), params, minima)
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), length=STEPS)[0][0]


def placed(form, place, **options):
    """The run of four replicas: stacked, named, one on a device, two on a device."""
    if place == "stack":
        return functools.partial(run, coupled(form, replica_axis=0, **options))
    if place == "vmap":
        tx = coupled(form, axis_name="replica", **options)
        return jax.vmap(functools.partial(run, tx), axis_name="replica")
    mesh = flatjax.replica_mesh(4, devices(int(place)))
    tx = coupled(form, axis_name="replica", replica_axis=0, **options)
    local = functools.partial(run, tx)
    return jax.shard_map(local, mesh=mesh, in_specs=P("replica"), out_specs=P("replica"))


WAYS = {
    "bfloat16": {"dtype": "bfloat16", "delayed": False, "period": 1},
    "int8": {"dtype": "int8", "delayed": False, "period": 3},
    "delayed": {"dtype": None, "delayed": True, "period": 3},
    "int8_delayed": {"dtype": "int8", "delayed": True, "period": 1},
}


PLACES = ["stack", "vmap", "4", "2"]
FAST = [(form, way, "stack") for form in ("force", "pull") for way in WAYS]
FAST += [("force", "int8_delayed", place) for place in PLACES] + [("pull", "bfloat16", "4")]


@pytest.mark.parametrize(
    ("form", "way", "place"),
    only(FAST, itertools.product(["force", "pull"], WAYS, PLACES)),
)
def test_against_loops(form, way, place):
    options = WAYS[way] | {"communication_dtype": WAYS[way]["dtype"]}
    del options["dtype"]
    found = jax.jit(placed(form, place, **options))(START, MINIMA)
    for name, leaf in START.items():
        expected = by_hand(form, **WAYS[way], start=leaf, minima=MINIMA[name])
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)


# ----------------------------------------------------------------------------- what holds of them

displace = functools.partial(communication.displacement, replica_axis=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.claim("docs/distributed.md", "sums to zero")
def test_rounding_neither_moves_the_center_nor_parts_replicas(dtype):
    w = START["w"]
    np.testing.assert_allclose(displace(w, dtype=dtype).sum(axis=0), 0.0, atol=1e-6)
    assert not np.any(displace(np.broadcast_to(w[:1], w.shape), dtype=dtype))
    error = np.abs(displace(w, dtype=dtype) - displace(w)).max()
    assert 0 < error < np.abs(w).max() * (2**-8 if dtype == "bfloat16" else 1 / 127)


@pytest.mark.parametrize("dtype", [None, "bfloat16", "int8"])
def test_complex_weights_are_sent_as_two_parts(dtype):
    real, imaginary = START["w"], MINIMA["w"]
    send = lambda w: communication.displacement(w, replica_axis=0, dtype=dtype)
    found = send(jax.lax.complex(real, imaginary))
    np.testing.assert_allclose(found.real, send(real), rtol=1e-6)
    np.testing.assert_allclose(found.imag, send(imaginary), rtol=1e-6)


def test_weights_that_are_not_finite_are_not_hidden():
    w = jnp.array([[1.0, jnp.nan], [0.0, 2.0]])
    assert np.isnan(displace(w, dtype="int8")[0]).all()
    assert not np.any(displace(jnp.zeros((2, 3)), dtype="int8"))


def spread_after(form, gamma, steps=150):
    """The distance of the replicas after this many steps without a loss, relative to the first."""
    if form == "force":
        tx = optax.chain(
            flatjax.couple_replicas(gamma, replica_axis=0, delayed=True), optax.sgd(RATE)
        )
    else:
        tx = flatjax.pull_to_center(gamma, RATE, replica_axis=0, overlapped=True)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
        return (optax.apply_updates(params, updates), state), None

    params = jax.lax.scan(step, (START, tx.init(START)), length=steps)[0][0]
    distance = functools.partial(flatjax.replica_distance, replica_axis=0)
    return float(distance(params) / distance(START))


@pytest.mark.claim("docs/distributed.md", "K gamma < 1")
def test_stability_of_delayed_couplings():
    """The force up to learning_rate * gamma = 1, the pull always."""
    assert spread_after("force", 0.9 / RATE) < 1e-3
    assert spread_after("force", 1.1 / RATE) > 1e3
    assert spread_after("pull", float("inf")) < 1e-10


@pytest.mark.parametrize("dtype", ["int16", "uint8", "much", 3.0])
def test_dtypes_that_are_refused(dtype):
    with pytest.raises(ValueError, match="communication_dtype must be"):
        flatjax.couple_replicas(1.0, replica_axis=0, communication_dtype=dtype)


@pytest.mark.parametrize("fn", [communication.displacement, communication.mean])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "axis_name or replica_axis must be given"),
        ({"dtype": "bfloat16"}, "axis_name or replica_axis must be given"),
        ({"replica_axis": -1}, "replica_axis must be >= 0"),
        ({"replica_axis": 2}, r"leaf must carry a replica axis 2, got shape \(2, 2\)"),
        ({"replica_axis": 0, "dtype": "int16"}, "^dtype must be None, .* or int8, got 'int16'"),
        ({"replica_axis": 0, "dtype": "much"}, "^dtype must be"),
    ],
)
def test_arguments_of_messages_that_are_refused(fn, arguments, message):
    with pytest.raises(ValueError, match=message):
        fn(jnp.array([[0.0, 1.0], [2.0, 5.0]]), **arguments)


# ---------------------------------------------------------------------------------- what is sent


def sent_in(program):
    """Element types and sizes of what collectives of a compiled program return."""
    collective = r"(?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
    found = re.findall(rf"= \(?((?:\w+\[[\d,]*\][^ ]* ?)+)\)? {collective}", program)
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", " ".join(found))
    return [(kind, np.prod([int(n) for n in shape.split(",") if n])) for kind, shape in arrays]


@pytest.mark.parametrize("place", ["shard_map", "jit"])
@pytest.mark.parametrize(("dtype", "kind", "period"), [("int8", "s8", 3), ("bfloat16", "u16", 1)])
def test_what_is_sent(place, dtype, kind, period):
    """And scales, of which there is one for each leaf and replica."""
    axes = {"axis_name": "replica"} if place == "shard_map" else {}
    tx = flatjax.couple_replicas(
        1.0, replica_axis=0, period=period, communication_dtype=dtype, **axes
    )
    mesh, state = flatjax.replica_mesh(4, devices(4)), jax.eval_shape(tx.init, START)
    specs = jax.tree.map(lambda leaf: P("replica") if leaf.ndim else P(), (START, state))

    def step(params, state):
        return tx.update(jax.tree.map(jnp.tanh, params), state, params)

    if place == "shard_map":
        step = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=specs)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    with jax.set_mesh(mesh):
        step = jax.jit(step, in_shardings=shardings, out_shardings=shardings)
        arrays = sent_in(step.lower(START, state).compile().as_text())
    assert sum(size for found, size in arrays if found == kind) >= 4 * (6 + 3)
    assert all(size <= 4 for found, size in arrays if found != kind)


@pytest.mark.parametrize("dtype", [None, "int8", "bfloat16"])
def test_arrays_of_numpy(dtype):
    """Without x64, their float64 is float32."""
    with jax.enable_x64(False):
        for fn in (communication.displacement, communication.mean):
            found = fn(np.ones((2, 3)), replica_axis=0, dtype=dtype)
            assert found.dtype == jnp.float32
