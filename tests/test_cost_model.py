"""The cost model: its limits in closed form, and what compiled programs send and hold."""

import dataclasses
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import devices
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import flatjax
from experiments import __main__ as command_line
from experiments.engine.placement import OnMesh
from experiments.studies.scale import cost_model, machines
from experiments.studies.scale import report as cost_report
from experiments.studies.scale.cost_model import Job, Plan, cost
from experiments.studies.scale.machines import Group, Link, Machine

# Powers of two, so that sums are exact.
MACHINE = Machine(2.0**40, 2.0**36, 2.0**41, 8, Link(2.0**-18, 2.0**38), Link(2.0**-16, 2.0**35))
CPU = dataclasses.replace(MACHINE, overlaps=False)
JOB = Job.transformer(parameters=2.0**27, tokens=2.0**20)
rsgd = lambda **options: Plan("rsgd", **({"replicas": 8, "replica": 8} | options))


# ---------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("plan", [Plan("sgd"), Plan("rsgd", replicas=3), Plan("parle", replicas=2)])
def test_one_device_sends_nothing(plan):
    found = cost(plan, JOB, CPU)
    assert found.data == found.coupling == 0
    assert found.step == found.gradient + found.update
    assert found.gradient == 6 * 2.0**47 / 2.0**40


@pytest.mark.parametrize("group", [Group(8, 1), Group(1, 8), Group(4, 2), Group(8, 512)])
def test_a_mean_sends_the_same_bytes_over_hosts_as_within_one(group):
    n = group.local * group.hosts
    assert machines.all_reduce(64.0, group).total == pytest.approx(2 * (n - 1) / n * 64)
    assert machines.all_gather(64.0, group).total == (n - 1) * 64


def test_seldom_coupled_replicas_cost_as_if_alone():
    alone = cost(Plan("esgd", replicas=8, replica=8), JOB, CPU)
    period = lambda k: cost(rsgd(period=k), JOB, CPU)
    waits = lambda k: period(k).step - period(k).gradient - period(k).update
    assert alone.coupling == 0
    assert waits(10) == pytest.approx(waits(1) / 10)
    assert waits(10**9) < 1e-9 * period(1).coupling + 1e-12


@pytest.mark.claim("docs/distributed.md", "| int8, b = 1 | y - 1 | y < 8 |")
def test_rounding_pays_below_eight_bytes_over_those_of_a_weight():
    """Where latency counts nothing; int8 is a quarter of float32, but gathered, not reduced."""
    job = dataclasses.replace(JOB, arrays=0)
    for dtype, size in (("bfloat16", 2), ("int8", 1)):
        for y in (2, 4, 8, 16):
            plan = rsgd(replicas=y, replica=y)
            full = cost_model.coupling_traffic(plan, job, MACHINE).total
            rounded = dataclasses.replace(plan, communication_dtype=dtype)
            sent = cost_model.coupling_traffic(rounded, job, MACHINE).total
            assert sent / full == y * size / 8


@pytest.mark.parametrize("tokens", [2.0**20, 2.0**4])
def test_what_overlaps_is_counted_once(tokens):
    """A gradient that is longer than the coupling, and one that is shorter."""
    job = Job.transformer(JOB.parameters, tokens)
    steps = lambda **options: cost(rsgd(**options), job, MACHINE).step
    found = cost(rsgd(), job, MACHINE)
    gradient, update, coupling = found.gradient, found.update, found.coupling
    assert (coupling < gradient) == (tokens > 2**10)
    assert found.step == max(gradient, coupling) + update
    delayed = cost(rsgd(delayed=True), job, MACHINE)
    assert delayed.step == max(gradient + delayed.update, coupling)
    assert steps(decoupled=True) == gradient + update + coupling
    assert steps(decoupled=True, delayed=True) == max(gradient + update, coupling)
    assert steps(period=2) == steps(period=2, decoupled=True) == gradient + update + coupling / 2
    sgd = Plan("sgd", data=8)
    data = cost(sgd, job, MACHINE)
    assert data.step == gradient / 3 + max(2 / 3 * gradient, data.data) + update
    assert cost(sgd, job, CPU).step == gradient + data.data + update


def test_hosts_share_what_crosses_them():
    """A replica on each host: its gradient stays there, and the coupling goes out eightfold."""
    plan = rsgd(data=8)
    assert cost_model.data_traffic(plan, JOB, MACHINE).inter == 0
    assert cost_model.coupling_traffic(plan, JOB, MACHINE).intra == 0
    whole = cost_model.coupling_traffic(plan, JOB, MACHINE).inter
    sharded = dataclasses.replace(plan, sharded=True)
    assert cost_model.coupling_traffic(sharded, JOB, MACHINE).inter == whole / 8
    assert cost_model.memory(sharded, JOB) == cost_model.memory(plan, JOB) / 8
    assert cost(sharded, JOB, MACHINE).data == 1.5 * cost(plan, JOB, MACHINE).data


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": "sgd", "replicas": 2},
        {"algorithm": "rsgd", "replicas": 3, "replica": 2},
        {"algorithm": "parle", "replicas": 2, "period": 2},
    ],
)
def test_plans_that_do_not_fit_together_are_refused(options):
    with pytest.raises(ValueError, match=r"replica|period"):
        Plan(**options)


# ------------------------------------------------------------------- what is held, what is sent

Y = 4
SHAPES = {"w": (64, 32), "v": (32, 16), "b": (32,)}
PARAMS = {name: jax.ShapeDtypeStruct((Y, *shape), jnp.float32) for name, shape in SHAPES.items()}
SIZE = sum(math.prod(shape) for shape in SHAPES.values())
SMALL = Job(SIZE, 1.0, 1.0, arrays=len(SHAPES))


def transformation(plan):
    """What a plan stands for."""
    if plan.algorithm == "parle":
        return flatjax.parle(0.1, 0.1, 0.1, replica_axis=0, inner_steps=plan.inner_steps)
    if plan.algorithm == "esgd":
        return flatjax.esgd(0.1, 0.1, replica_axis=0, inner_steps=plan.inner_steps)
    sgd = optax.sgd(0.1, momentum=0.9, nesterov=True)
    if plan.algorithm == "sgd":
        return sgd
    is_rounded = plan.communication_dtype != "float32"
    options = {
        "replica_axis": 0,
        "period": plan.period,
        "communication_dtype": plan.communication_dtype if is_rounded else None,
    }
    if plan.decoupled:
        return optax.chain(
            sgd, flatjax.pull_to_center(jnp.inf, 0.1, overlapped=plan.delayed, **options)
        )
    if plan.algorithm == "diloco":
        options.pop("period")
        return flatjax.diloco(sgd, sgd, plan.period, **options)
    return optax.chain(flatjax.couple_replicas(0.1, delayed=plan.delayed, **options), sgd)


PLANS = {
    "sgd": Plan("sgd"),
    "rsgd": rsgd(replicas=Y, replica=4),
    "rsgd_two_on_a_device": rsgd(replicas=Y, replica=2),
    "rsgd_delayed": rsgd(replicas=Y, replica=4, delayed=True),
    "rsgd_bfloat16": rsgd(replicas=Y, replica=4, communication_dtype="bfloat16"),
    "rsgd_int8": rsgd(replicas=Y, replica=4, communication_dtype="int8", period=3),
    "rsgd_int8_two": rsgd(replicas=Y, replica=2, communication_dtype="int8"),
    "rsgd_data": rsgd(replicas=Y, replica=4, data=2),
    "rsgd_sharded": rsgd(replicas=Y, replica=4, data=2, sharded=True),
    "rsgd_sharded_bfloat16": rsgd(
        replicas=Y, replica=4, data=2, sharded=True, communication_dtype="bfloat16"
    ),
    "local_sgd": rsgd(replicas=Y, replica=4, decoupled=True, period=3),
    "local_sgd_delayed": rsgd(replicas=Y, replica=4, decoupled=True, delayed=True),
    "esgd": Plan("esgd", replicas=Y, replica=4),
    "parle": Plan("parle", replicas=Y, replica=4),
    "diloco": Plan("diloco", replicas=Y, replica=4, period=3),
    "diloco_sharded": Plan("diloco", replicas=Y, replica=4, data=2, period=3, sharded=True),
    "diloco_int8": Plan(
        "diloco", replicas=Y, replica=2, communication_dtype="int8", data=2, period=3
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_state_is_as_large_as_counted(name):
    state = jax.eval_shape(transformation(PLANS[name]).init, PARAMS)
    arrays = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim > 0]
    copies = PLANS[name].state_copies * Y + PLANS[name].shared_copies
    assert sum(leaf.size for leaf in arrays) == copies * SIZE
    assert all(leaf.dtype.itemsize == cost_model.FLOAT32 for leaf in arrays)


def sent_in(program, devices):
    """Bytes that a device sends in the collectives of a compiled program, each among all."""
    total = 0.0
    for result, kind in re.findall(r"= (\(.*?\)|\S+) (all-reduce|all-gather)\(", program):
        sizes = [
            np.dtype(DTYPES[dtype]).itemsize * math.prod(int(n) for n in shape.split(",") if n)
            for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result)
        ]
        factor = 2 if kind == "all-reduce" else 1
        total += factor * (devices - 1) / devices * sum(sizes)
    assert not re.search(r"(all-to-all|collective-permute|reduce-scatter)\(", program)
    return total


DTYPES = {"f32": np.float32, "u16": np.uint16, "s8": np.int8}


@pytest.mark.parametrize("name", [name for name in PLANS if name != "sgd"])
@pytest.mark.claim("docs/scale.md", "compiles the transformations on virtual devices")
def test_couplings_send_what_is_counted(name):
    """The updates of the transformations alone, on a mesh of virtual devices."""
    plan = PLANS[name]
    tx = transformation(plan)
    mesh = Mesh(
        np.array(devices(plan.devices)).reshape(plan.replica, plan.data),
        ("replica", "data"),
    )
    state = jax.eval_shape(tx.init, PARAMS)
    shardings = OnMesh(mesh, plan.sharded).shardings((PARAMS, state))

    def step(params, state):
        return tx.update(jax.tree.map(jnp.tanh, params), state, params)

    with jax.set_mesh(mesh):
        step = jax.jit(step, in_shardings=shardings, out_shardings=shardings)
        program = step.lower(PARAMS, state).compile().as_text()
    expected = cost_model.coupling_traffic(plan, SMALL, MACHINE)
    assert sent_in(program, plan.replica) == expected.total


def test_gradients_send_what_is_counted():
    """Of a replica on eight devices; the loss is not asked for."""
    plan = Plan("sgd", data=8)
    mesh = Mesh(np.array(devices(8)), ("data",))
    loss = lambda w, x: jnp.mean(jnp.tanh(x @ w))
    shardings = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    gradient = jax.jit(jax.grad(loss), in_shardings=shardings, out_shardings=shardings[0])
    program = gradient.lower(jnp.ones((64, 32)), jnp.ones((16, 64))).compile().as_text()
    job = Job(64 * 32, 1.0, 16.0)
    assert sent_in(program, 8) == cost_model.data_traffic(plan, job, MACHINE).total


# ------------------------------------------------------------------------------------ the report


@pytest.mark.slow
@pytest.mark.claim("docs/scale.md", "cost-model")
def test_the_document_says_what_the_command_prints(tmp_path, capsys):
    assert command_line.main(["cost-model", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    document = pathlib.Path(__file__).parents[1] / "docs" / "scale.md"
    assert shown in document.read_text()
    assert (tmp_path / "cost_model.md").read_text() == shown
    assert (tmp_path / "cost_model.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", cost_report.MACHINES)
def test_sgd_begins_to_wait_where_it_is_said(name):
    """Without latency, on very many hosts."""
    machine = cost_report.MACHINES[name]
    link = lambda kind: dataclasses.replace(getattr(machine, kind), latency=0.0)
    machine = dataclasses.replace(machine, intra=link("intra"), inter=link("inter"))
    n = 2**20
    for factor, waits in ((0.99, True), (1.01, False)):
        tokens = factor * n * cost_report.waiting_tokens(machine)
        found = cost(Plan("sgd", data=n), Job.transformer(1e9, tokens), machine)
        assert (found.data > 2 / 3 * found.gradient) == waits
