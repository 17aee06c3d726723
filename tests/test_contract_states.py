"""States of every transformation of flatjax: their fields, shardings, files and parameters."""

import functools
import re

import equinox
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from contract import (
    BASIC,
    CASES,
    COVERING,
    PARAMS,
    assert_close,
    each_case,
    each_case_if_slow,
    parabola,
    step,
)
from devices import devices
from fast import only
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flatjax


@each_case_if_slow
@pytest.mark.claim("docs/optax.md", "the state is sharded like them")
def test_shardings_are_stable(name):
    """All in the state that is like the parameters is sharded like them, and stays so."""
    mesh = jax.make_mesh((2,), ("replica",), (AxisType.Explicit,), devices=devices(2))
    sharding = NamedSharding(mesh, P("replica"))
    with jax.set_mesh(mesh):
        params = jax.device_put(PARAMS, sharding)
        tx = CASES[name].make()
        state = tx.init(params)
        after = jax.jit(functools.partial(step, tx))(params, state)
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    alike = [leaf for leaf in jax.tree.leaves((params, state, after)) if leaf.shape in shapes]
    assert len(alike) >= 2 * len(shapes)
    assert all(leaf.sharding.is_equivalent_to(sharding, leaf.ndim) for leaf in alike)


@each_case
def test_map_params(name):
    """Finds in the state what is like the parameters, or like the center of the replicas."""
    tx = CASES[name].make()
    state = tx.init(PARAMS)
    marked = optax.tree.map_params(tx, lambda _: True, state, transform_non_params=lambda _: False)
    shapes = [leaf.shape for leaf in jax.tree.leaves(PARAMS)]
    shapes += [(1, *shape[1:]) for shape in shapes]
    assert jax.tree.leaves(marked) == [leaf.shape in shapes for leaf in jax.tree.leaves(state)]


STATES = (
    flatjax.AverageParamsState,
    flatjax.CoupleReplicasState,
    flatjax.EntropySGDState,
    flatjax.OuterPullState,
    flatjax.PullToCenterState,
    flatjax.schedules.BalancedScopingState,
)


@pytest.mark.parametrize("state", STATES)
def test_fields_of_states_are_documented(state):
    assert re.findall(r"^ +(\w+): ", state.__doc__, re.MULTILINE) == list(state._fields)


def by_flax(state, like, path):
    path.write_bytes(flax.serialization.to_bytes(state))
    return flax.serialization.from_bytes(like, path.read_bytes())


def by_numpy(state, like, path):
    with path.open("wb") as file:
        np.savez(file, *jax.tree.leaves(state))
    with np.load(path) as saved:
        return jax.tree.unflatten(jax.tree.structure(like), saved.values())


def by_equinox(state, like, path):
    equinox.tree_serialise_leaves(path, state)
    return equinox.tree_deserialise_leaves(path, like)


def by_orbax(state, like, path):
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path, like)


FORMATS = [by_flax, by_numpy, by_equinox, by_orbax]
VARIANTS = [name for name in CASES if name not in BASIC]


@pytest.mark.parametrize(
    ("name", "save"),
    only(
        [("esgd", save) for save in FORMATS] + [(name, by_flax) for name in COVERING],
        [(name, save) for name in BASIC for save in FORMATS]
        + [(name, by_flax) for name in VARIANTS],
    ),
)
@pytest.mark.claim("docs/optax.md", "come back bit for bit")
def test_states_survive_serialisation(name, save, tmp_path):
    """As a `flatjax.TrainState`, restored into the start of another run."""
    arguments = {"key": 1} if "key" in CASES[name].arguments else {}
    start = flatjax.TrainState.create(
        apply_fn=parabola, params=PARAMS, tx=CASES[name].make(**arguments)
    )
    state = start.apply_gradients(grads=PARAMS, grad_fn=lambda params, i: params)
    restored = save(state, jax.tree.map(jnp.zeros_like, start), tmp_path / "state")
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    types = lambda tree: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
    assert types(restored) == types(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


@each_case
def test_parameters_replaced_after_init(name):
    """`set_params` makes the state of an optimizer that has started from the new ones."""
    tx = CASES[name].make()
    new = jax.tree.map(lambda w: 3 - w, PARAMS)
    assert_close(flatjax.set_params(tx.init(PARAMS), new), tx.init(new))


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("couple_replicas_delayed", "pending"),
        ("esgd_stacked", "anchor"),
        ("parle", "anchor"),
        ("sam", "cache"),
        ("average_params", "average"),
    ],
)
@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 1)])
def test_states_of_another_number_of_replicas_are_refused(name, field, old, new):
    """A restored state of one replica would be broadcast to all."""
    tx = CASES[name].make()
    take = lambda size: jax.tree.map(lambda leaf: leaf[:size], PARAMS)
    state = jax.eval_shape(tx.init, take(old))
    with pytest.raises(
        ValueError, match=rf"(state\.{field}|updates)\['b'\] .* shape of params, \({new}, 1\)"
    ):
        jax.eval_shape(tx.update, take(new), state, take(new))
