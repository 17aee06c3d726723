"""Programs for other platforms, made on this machine, contain nothing that is there for CPUs."""

import collections
import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import devices
from fast import slow
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import flatjax
from flatjax import _cpu, models

PLATFORMS = ("cpu", "cuda", "tpu")
REPLICAS = 3
NETWORK = models.SmallConvNet(num_classes=10)
SHAPE = (8, 8, 1)


def loss(params, x, y):
    logits = NETWORK.apply({"params": params}, x, train=True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def shapes(*replicas):
    """Parameters of one network or of several, and their batches."""
    init = lambda key: NETWORK.init(key, jnp.zeros((1, *SHAPE)), train=False)["params"]
    params = jax.eval_shape(init, jax.random.key(0))
    stacked = lambda leaf: jax.ShapeDtypeStruct((*replicas, *leaf.shape), leaf.dtype)
    x = jax.ShapeDtypeStruct((4, *SHAPE), jnp.float32)
    return jax.tree.map(stacked, (params, x, jax.ShapeDtypeStruct((4,), jnp.int32)))


def step_of(tx, grad_fn, params, state, x, y):
    """A step of any of the transformations."""
    extra = {"grad_fn": lambda params, i: grad_fn(params, x, y)}
    tx = optax.with_extra_args_support(tx)
    updates, state = tx.update(grad_fn(params, x, y), state, params, **extra)
    return optax.apply_updates(params, updates), state


def stacked(make, **jit_options):
    """Replicas in one program."""
    tx = make(replica_axis=0)
    params, x, y = shapes(REPLICAS)
    step = functools.partial(step_of, tx, flatjax.map_replicas(jax.grad(loss)))
    return jax.jit(step, **jit_options), (params, jax.eval_shape(tx.init, params), x, y)


def sharded(make):
    """Replicas spread over the devices of a mesh."""
    mesh = flatjax.replica_mesh(REPLICAS, devices(REPLICAS))
    tx = make(replica_axis=0)
    params, x, y = shapes(REPLICAS)
    step = functools.partial(step_of, tx, flatjax.map_replicas(jax.grad(loss), mesh=mesh))
    jitted = jax.jit(step, in_shardings=NamedSharding(mesh, P()))
    return jitted, (params, jax.eval_shape(tx.init, params), x, y)


def named(make):
    """A program for each replica, which knows the others by the name of an axis, vmapped."""
    tx = make(axis_name="replica")
    params, x, y = shapes(REPLICAS)
    step = functools.partial(step_of, tx, jax.grad(loss))
    state = jax.eval_shape(jax.vmap(tx.init), params)
    return jax.jit(jax.vmap(step, axis_name="replica")), (params, state, x, y)


def pmapped(make):
    """The same on as many devices."""
    step, (params, state, x, y) = named(make)
    tx = make(axis_name="replica")
    step = functools.partial(step_of, tx, jax.grad(loss))
    # In a jit, which can be lowered for other platforms.
    return jax.jit(jax.pmap(step, axis_name="replica", devices=devices(REPLICAS))), (
        params,
        state,
        x,
        y,
    )


def one(make):
    """A single network."""
    tx = make()
    params, x, y = shapes()
    step = functools.partial(step_of, tx, jax.grad(loss))
    return jax.jit(step), (params, jax.eval_shape(tx.init, params), x, y)


ALGORITHMS = {
    "rsgd": functools.partial(flatjax.replicated_sgd, 0.1, 0.1),
    "esgd": functools.partial(flatjax.esgd, 0.1, 0.1, inner_steps=3),
    "sgd": functools.partial(optax.sgd, 0.1),
    "opaque": functools.partial(flatjax.esgd, 0.1, 0.1, inner_steps=3, opaque_mode=True),
}
CASES = [(pmapped, "rsgd")]
# Each place and each algorithm, not each pair.
SLOW = [(stacked, "rsgd"), (sharded, "opaque"), (named, "esgd"), (one, "opaque")]
CASES += [slow(*case) for case in SLOW]


# A case of a single branch is what remains of a choice among platforms; the compiler inlines it.
NO_COMPUTATION = (
    *("constant", "return", "case", "broadcast_in_dim", "transpose"),
    "sharding_constraint",
)


def operations(place, algorithm):
    """How often each operation is in the programs, except those that compute nothing."""
    step, args = place(ALGORITHMS[algorithm])
    traced, found = step.trace(*args), {}
    for platform in PLATFORMS:
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        found[platform] = collections.Counter(re.findall(r"(?:stablehlo|sdy)\.(\w+)", text))
        for name in NO_COMPUTATION:
            del found[platform][name]
    return found


@pytest.fixture
def _convolutions_on_gpus(monkeypatch):
    """There, too, where products are faster."""
    monkeypatch.setattr(_cpu._gradients, "has_few_patches", lambda *_: False)


def remove_the_tricks(monkeypatch):
    """Leaves what a library has that knows nothing of platforms."""
    monkeypatch.setattr(_cpu, "after", lambda done, args: args)
    monkeypatch.setattr(_cpu, "once", lambda values, count: values)
    monkeypatch.setattr(_cpu, "unrolled_or", lambda unrolled, otherwise: otherwise())
    monkeypatch.setattr(_cpu._normal, "_can_be_written_out", lambda *_: False)
    monkeypatch.setattr(_cpu._convolution, "_is_ours", lambda *_: False)


@pytest.mark.usefixtures("_convolutions_on_gpus")
@pytest.mark.parametrize(("place", "algorithm"), CASES)
def test_only_programs_for_a_cpu_have_its_tricks(monkeypatch, place, algorithm):
    found = operations(place, algorithm)
    remove_the_tricks(monkeypatch)
    plain = operations(place, algorithm)
    assert found["cuda"] == plain["cuda"]
    assert found["tpu"] == plain["tpu"]
    # Several devices have their replicas at the same time, and XLA's convolution.
    has_tricks = algorithm != "rsgd" or place in (stacked, named)
    assert (found["cpu"] != plain["cpu"]) == has_tricks


@pytest.mark.slow
@pytest.mark.usefixtures("_convolutions_on_gpus")
def test_a_stack_has_one_convolution_for_each_layer_on_accelerators():
    network = operations(one, "sgd")["cuda"]["convolution"]
    stack = operations(stacked, "rsgd")
    assert stack["cuda"]["convolution"] == stack["tpu"]["convolution"] == network
    assert stack["cpu"]["convolution"] > network


@pytest.mark.slow
def test_a_program_for_several_platforms_has_each():
    step, args = stacked(ALGORITHMS["rsgd"])
    exported = jax.export.export(step, platforms=("cpu", "cuda"))(*args)
    assert exported.platforms == ("cpu", "cuda")
    params, state, x, y = (jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), arg) for arg in args)
    found = jax.jit(exported.call)(params, state, x, y)
    expected = step(params, state, x, y)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected
    )
