"""Replicas that are spread over `data` (FSDP): the same result, who talks to whom, bytes held."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import devices
from fast import slow
from jax.sharding import PartitionSpec as P
from run_helpers import started
from test_coupling_communication import COLLECTIVE
from test_mesh import PLAIN, replace

from experiments import __main__ as command_line
from experiments.engine import steps
from experiments.engine.placement import OnMesh, make_mesh
from experiments.engine.plan import hyper_of, make_plan
from experiments.engine.task import make_task
from experiments.studies.scale import cost_model
from flatjax import data

MESH = "replica=2,data=2"
ROWS, COLUMNS = {(0, 1), (2, 3)}, {(0, 2), (1, 3)}  # of devices: a replica; a part of each replica
DILOCO = {"algorithm": "diloco", "replicas": 2, "period": 2}


def sharded(config):
    return OnMesh(make_mesh(MESH, config), shard=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [slow(DILOCO), slow({"algorithm": "parle"}), {"period": 2}], ids=str
)
def test_sharded_replicas_train_alike(changes):
    config = replace(PLAIN, seed=3, **changes)
    runs = [started(config, place) for place in (None, sharded(config))]
    losses = [run.take_steps(4) for run in runs]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    is_number = lambda leaf: not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    states = [filter(is_number, jax.tree.leaves(run.state)) for run in runs]
    for leaves in zip(*states, strict=True):
        np.testing.assert_allclose(*leaves, rtol=1e-4, atol=1e-5)
    kernel = runs[1].state.params["Dense_0"]["kernel"]
    assert (kernel.shape, kernel.addressable_shards[0].data.shape) == ((2, 64, 4), (1, 32, 4))
    if changes is DILOCO:
        center = optax.tree.get(runs[1].state.opt_state, "center")["Dense_0"]["kernel"]
        assert center.sharding.spec == P(None, "data")


# --- what is compiled ---------------------------------------------------------------------------


def plan_of(hidden, **changes):
    """Of a perceptron on four devices, two of them for each of two replicas."""
    devices(4)
    options = (f"hidden=({','.join(map(str, hidden))},)",)
    config = PLAIN.changed(batch_size=8, model_options=options, **changes)
    return make_plan(config, make_task(config), sharded(config)), config


def compiled(plan, config):
    """The program of a step, without arrays, and the state that it takes."""
    place, hyper = plan.placement, hyper_of(config)
    at = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    state = jax.eval_shape(functools.partial(steps.init_state, plan), hyper, 0)
    shardings = place.shardings(state)
    task = make_task(config)
    train = data.DeviceSplit(task.train.image, task.train.label)
    draw = jax.eval_shape(functools.partial(steps.draw_epoch, plan), 0, 0)
    draw = steps.Draw(at(draw.order, place.order), at(draw.key, place.replicated))
    step = jax.jit(
        functools.partial(steps.train_next, plan),
        donate_argnums=1,
        out_shardings=(shardings, place.stacked),
    )
    with jax.set_mesh(place.mesh):
        state = jax.tree.map(at, state, shardings)
        train = jax.tree.map(lambda leaf: at(leaf, place.replicated), train)
        return step.lower(hyper, state, train, draw).compile(), state


def groups_in(line):
    """The groups of devices that a collective joins, in any of XLA's notations."""
    numbers = lambda text: [int(number) for number in text.split(",")]
    if found := re.search(r"replica_groups=\{(\{.*?\})\}", line):
        return {tuple(numbers(group)) for group in re.findall(r"\{(.*?)\}", found[1])}
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        shape, dims, order = found.groups()
        ids = np.arange(np.prod(numbers(dims))).reshape(numbers(dims))
        ids = ids.transpose(numbers(order)) if order else ids
        return {tuple(group) for group in ids.reshape(numbers(shape)).tolist()}
    sizes, names = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line).groups()
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", sizes)}
    ids = np.arange(np.prod(list(sizes.values()))).reshape(list(sizes.values()))
    joined = [list(sizes).index(name) for name in re.findall(r"'(\w+)'", names)]
    ids = np.moveaxis(ids, joined, range(-len(joined), 0))
    size = np.prod([ids.shape[axis] for axis in range(-len(joined), 0)])
    return {tuple(group) for group in ids.reshape(-1, size).tolist()}


def test_groups_are_read_in_every_notation():
    for text, expected in (
        ("{{0,1},{2,3}}", ROWS),
        ("[2,2]<=[4]", ROWS),
        ("[2,2]<=[2,2]T(1,0)", COLUMNS),
        ("mesh['a'=2,'b'=2] {'a'}", COLUMNS),
        ("mesh['a'=2,'b'=2] {'b'}", ROWS),
        ("mesh['a'=2,'b'=2] {'a', 'b'}", {(0, 1, 2, 3)}),
    ):
        assert groups_in(f"replica_groups={text}, more") == expected


@pytest.mark.parametrize("changes", [{}, slow(DILOCO)], ids=str)
def test_replicas_exchange_shards_and_nothing_else(changes):
    """Devices with the same part of a replica talk about half of the weights; nobody to all."""
    plan, config = plan_of((64, 64), **changes)
    program, state = compiled(plan, config)
    exchanged = 0
    for line in program.as_text().splitlines():
        if not (found := re.search(rf"= (.*?) {COLLECTIVE}", line)):
            continue
        groups = groups_in(line)
        assert groups in (ROWS, COLUMNS), line
        if groups == COLUMNS:
            assert found[2] == "all-reduce"
            shapes = re.findall(r"f32\[([\d,]*)\]", found[1])
            exchanged += sum(np.prod([int(n) for n in s.split(",") if n]) for s in shapes)
    assert exchanged == sum(leaf.size for leaf in jax.tree.leaves(state.params)) / 2 / 2


@pytest.mark.parametrize(
    ("hidden", "changes"),
    [
        pytest.param((256, 256), {}, id="small"),
        slow((5760,) * 4, {}, id="rsgd"),
        slow((5760,) * 4, DILOCO, id="diloco"),
    ],
)
@pytest.mark.claim("docs/distributed.md", "how many bytes each device holds")
@pytest.mark.claim("docs/scale.md", "its memory agrees with the model to 10%")
def test_bytes_of_a_device_are_those_of_the_model(hidden, changes):
    """10^8 parameters in the slow run: weights and state as they lie, gradients as compiled."""
    plan, config = plan_of(hidden, **changes)
    program, like = compiled(plan, config)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(like.params)) / 2
    name = config.algorithm.name
    options = {"decoupled": True} if name == "rsgd" else {}
    model = cost_model.Plan(name, replicas=2, replica=2, data=2, sharded=True, **options)
    job = cost_model.Job(parameters, 1.0, 1.0)
    gradients = cost_model.FLOAT32 * parameters * model.share
    theory = cost_model.memory(model, job)

    state = plan.placement.jit_init(functools.partial(steps.init_state, plan), like)(
        hyper_of(config), 0
    )
    held = dict.fromkeys(jax.devices()[:4], 0)
    for leaf in jax.tree.leaves(steps.arrays_of(state)):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    for size in held.values():
        assert size == pytest.approx(theory - gradients, rel=0.02)
    found = program.memory_analysis()
    assert found.argument_size_in_bytes == pytest.approx(max(held.values()), rel=0.1)
    # During a step, also what replicas send and receive, at once on a CPU.
    exchanged = cost_model.exchanged(model, job)
    peak = found.argument_size_in_bytes + found.temp_size_in_bytes
    assert peak == pytest.approx(theory + exchanged, rel=0.1)


def test_a_replica_is_spread_over_a_mesh_only(tmp_path, capsys):
    arguments = ["train", "--shard", "--out", str(tmp_path / "run"), "--no-progress"]
    assert command_line.main(arguments) == 1
    assert "shard needs --mesh" in capsys.readouterr().err
