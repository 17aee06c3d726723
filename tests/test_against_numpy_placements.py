"""The optimizers against NumPy loops wherever replicas live: stacks, names, devices, meshes."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import devices
from fast import only
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy_rows import (
    BATCHES,
    ENTROPIC,
    NESTEROV,
    PARAMS,
    REPLICAS,
    TOLERANCE,
    as_arrays,
    departure,
    esgd,
    gradient,
    parle,
    replicated_sgd,
    stacked_gradient,
    train,
)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def mesh_of(number):
    return Mesh(np.array(devices(number)), ("replica",))


# The axis of the replicas is the first of the parameters, the second (after the steps) of the rest.
PARAMS_SPEC, PATH_SPEC = P("replica"), P(None, "replica")
MAPPED = {"in_axes": (0, 1), "out_axes": 1, "axis_name": "replica"}


def vmapped(run):
    return jax.jit(jax.vmap(run, **MAPPED))


def pmapped(run):
    return jax.pmap(run, devices=devices(REPLICAS), **MAPPED)


def two_a_device(run, number=REPLICAS // 2):
    specs = {"in_specs": (PARAMS_SPEC, PATH_SPEC), "out_specs": PATH_SPEC}
    return jax.jit(jax.shard_map(run, mesh=mesh_of(number), **specs))


def one_a_device(run):
    def local_run(params, batches):
        params = jax.tree.map(lambda leaf: jnp.squeeze(leaf, 0), params)
        batches = jax.tree.map(lambda leaf: jnp.squeeze(leaf, 1), batches)
        return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 1), run(params, batches))

    return two_a_device(local_run, number=REPLICAS)


def automatic(run):
    """Plain jit on sharded arguments: the compiler spreads the work."""

    def sharded_run(*arguments):
        shardings = (NamedSharding(mesh_of(REPLICAS), spec) for spec in (PARAMS_SPEC, PATH_SPEC))
        path = jax.jit(run)(*map(jax.device_put, arguments, shardings))
        assert all(len(leaf.addressable_shards) == REPLICAS for leaf in jax.tree.leaves(path))
        assert not any(leaf.is_fully_replicated for leaf in jax.tree.leaves(path))
        return path

    return sharded_run


class Placement(NamedTuple):
    """A column of the table.

    Attributes:
      axes: where the optimizer finds the replicas.
      gradient: of what one program holds, a replica or a stack of them.
      lift: from the run of one program to that of all replicas.
    """

    axes: dict[str, Any]
    gradient: Callable
    lift: Callable


STACKED, NAMED = {"replica_axis": 0}, {"axis_name": "replica"}
COLUMNS = {
    "stacked": Placement(STACKED, stacked_gradient, jax.jit),
    "vmap": Placement(NAMED, gradient, vmapped),
    "pmap": Placement(NAMED, gradient, pmapped),
    "shard_map": Placement(NAMED, gradient, one_a_device),
    "shard_map_of_stacks": Placement(STACKED | NAMED, stacked_gradient, two_a_device),
    "jit_of_sharded": Placement(STACKED, stacked_gradient, automatic),
}
ROWS = {
    "in_gradient": replicated_sgd(weight_decay=0.01, decoupled=False, **NESTEROV),
    "in_gradient_every_third": replicated_sgd(
        weight_decay=0.01, period=3, decoupled=False, **NESTEROV
    ),
    "every_third": replicated_sgd(weight_decay=0.01, period=3, **NESTEROV),
    "esgd": esgd(**ENTROPIC),
    "parle": parle(**ENTROPIC),
}


@functools.cache
def path_of(row):
    return ROWS[row].path(1.0)


# Every column; Parle, which has all parts of the others, takes longest.
FAST = [("in_gradient", column) for column in COLUMNS]
FAST += [("esgd", "stacked"), ("every_third", "pmap")]
FAST += [("in_gradient_every_third", "jit_of_sharded"), ("every_third", "shard_map_of_stacks")]


@pytest.mark.parametrize(
    ("row", "column"),
    # `parle` has all parts of `esgd`, in every column.
    only(FAST, [(row, c) for row in ROWS for c in COLUMNS if row != "esgd" or c == "stacked"]),
)
@pytest.mark.claim("README.md", "in every placement")
def test_placements(row, column):
    axes, gradient, lift = COLUMNS[column]
    run = lift(functools.partial(train, ROWS[row].make(**axes), gradient))
    assert departure(run(PARAMS, BATCHES), path_of(row)) < TOLERANCE


@pytest.mark.parametrize("row", ROWS)
def test_tolerance_is_tight(row):
    """A gamma off by a millionth would be noticed."""
    assert departure(as_arrays(ROWS[row].path(1 + 1e-6)), path_of(row)) > 100 * TOLERANCE
