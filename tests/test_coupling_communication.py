"""When replicas on different devices communicate: at coupled steps only."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import pytest
from devices import devices
from fast import only
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from test_coupling import STACK
from test_coupling_gamma import balanced

import flatjax

COLLECTIVE = r"\b(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(-start)?\("


def compiled(tx, placement, **extra_args):
    """The program of an update, one replica on each of four devices."""
    mesh, state = flatjax.replica_mesh(4, devices(4)), jax.eval_shape(tx.init, STACK)
    specs = jax.tree.map(lambda leaf: P("replica") if leaf.ndim else P(), (STACK, state))

    def step(params, state):
        return tx.update(jax.tree.map(jnp.tanh, params), state, params, **extra_args)

    if placement == "shard_map":
        step = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=specs)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    step = jax.jit(step, in_shardings=shardings, out_shardings=shardings)
    return step.lower(STACK, state).compile().as_text()


def where_it_communicates(program):
    """Names of the computations with a collective: of branches of a conditional, and of others."""
    computations = re.findall(r"^(?:ENTRY )?%(\S+) [^\n]*\{\n(.*?)^\}", program, re.M | re.S)
    talking = {name for name, body in computations if re.search(COLLECTIVE, body)}
    branches = re.findall(r"(?:branch_computations=\{|\w+_computation=)([^}\n]*)", program)
    branches = set(re.findall(r"%([\w.\-]+)", " ".join(branches)))
    return talking & branches, talking - branches


SELDOM = {
    "couple_replicas": functools.partial(flatjax.couple_replicas, 1.0, period=3),
    "pull_to_center": functools.partial(flatjax.pull_to_center, 1.0, 0.1, period=3),
    "delayed": functools.partial(flatjax.couple_replicas, 1.0, period=3, delayed=True),
    "int8": functools.partial(
        flatjax.pull_to_center, 1.0, 0.1, period=3, communication_dtype="int8"
    ),
    "automatic_gamma": functools.partial(flatjax.couple_replicas, balanced, period=3),
    "parle": functools.partial(flatjax.parle, 0.1, 1.0, 1.0, noise_scale=0.0),
}
PLACES = {"shard_map": {"axis_name": "replica"}, "jit": {"replica_axis": 0}}


@pytest.mark.parametrize(
    ("name", "place"),
    only(
        [(name, "shard_map") for name in ("pull_to_center", "int8", "parle")]
        + [(name, "jit") for name in ("couple_replicas", "delayed", "automatic_gamma")],
        itertools.product(SELDOM, PLACES),
    ),
)
def test_devices_communicate_at_coupled_steps_only(name, place):
    program = compiled(SELDOM[name](**PLACES[place]), place, value=1.0)
    in_branches, elsewhere = where_it_communicates(program)
    assert in_branches
    assert not elsewhere


@pytest.mark.parametrize("place", PLACES)
def test_devices_communicate_at_each_step_without_a_period(place):
    in_branches, elsewhere = where_it_communicates(
        compiled(flatjax.couple_replicas(1.0, **PLACES[place]), place)
    )
    assert elsewhere
    assert not in_branches
