"""Runs on a mesh of devices: the same result as on one, resumed across meshes, clear refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from run_helpers import changed, started
from test_coupling_communication import where_it_communicates

from experiments import __main__ as command_line
from experiments.engine import steps
from experiments.engine.config import TrainConfig
from experiments.engine.loop import Run, device_train
from experiments.engine.placement import OnMesh, make_mesh
from experiments.engine.plan import hyper_of
from experiments.engine.programs import programs_of
from experiments.engine.run_directory import read_result
from experiments.engine.train import train
from experiments.faults import raw

SMALL = TrainConfig.of(
    train_size=160,
    held_out_size=100,
    batch_size=40,
    epochs=4,
    replicas=2,
    gamma=0.01,
    model="test_mesh:Network",
    sigmas=(0.1,),
    local_energy_samples=2,
    local_energy_examples=40,
)


# Settings of the algorithms that have them.
OWN = {"replicas": 2, "inner_steps": 2, "replica_gamma": 0.01, "gamma": 0.01, "noise_scale": 1e-2}
PLAIN = SMALL.changed(model="mlp", model_options=("hidden=(4,)",), epochs=6)


class Network(nn.Module):
    """A convolution, batch norm and dropout: what depends on the batch, and on chance."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, images, *, train):
        """Logits."""
        x = nn.Conv(4, (3, 3), strides=2)(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x))
        x = nn.Dropout(0.1, deterministic=not train)(x)
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))


def replace(config=SMALL, **changes):
    return changed(config, OWN, **changes)


def start_large(seed):
    """A state whose product takes a while."""
    return jnp.full((2, 1000, 1000), seed / 1000)


def trained(config, mesh, num_steps=4):
    """The state after one epoch and its losses."""
    run = started(replace(config, seed=3), placed(mesh, config))
    losses = run.take_steps(num_steps)
    return run.state, losses


def placed(mesh, config):
    """The placement on a mesh; on one device if it is None."""
    return None if mesh is None else OnMesh(make_mesh(mesh, config))


def test_virtual_devices_finish_a_step_before_the_next():
    """Two steps under way can wait for each other's threads, and XLA ends the process."""
    placement = OnMesh(make_mesh("replica=2", PLAIN))
    like = jax.eval_shape(start_large, 0)
    step = placement.jit_training(lambda _, x: (jnp.tanh(x @ x), x[:, 0, 0]), like)
    found = step({}, placement.jit_init(start_large, like)(0))
    assert all(leaf.is_ready() for leaf in found)


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "mesh"), [("rsgd", "replica=2,data=2"), ("parle", "data=4")])
@pytest.mark.claim("docs/faq.md", "gives the same to rounding")
def test_batch_norm_noise_and_dropout_are_those_of_one_device(algorithm, mesh):
    """Weights, statistics, optimizer state and losses; and every array is where it belongs."""
    config = replace(algorithm=algorithm)
    (state, losses), expected = trained(config, mesh), trained(config, None)
    for found, wanted in zip(*map(jax.tree.leaves, (state, expected[0])), strict=True):
        np.testing.assert_allclose(*map(raw, (found, wanted)), rtol=1e-4, atol=1e-5)
        spec = P("replica") if found.ndim else P()
        sharding = jax.NamedSharding(make_mesh(mesh, config), spec)
        assert found.sharding.is_equivalent_to(sharding, found.ndim)
    np.testing.assert_allclose(losses, expected[1], rtol=1e-4)


@pytest.mark.slow
def test_less_communication_trains_alike_on_a_mesh():
    less = {"period": 2, "communication_dtype": "int8", "delayed": True}
    config = replace(PLAIN, gamma=1.0, decoupled=False, micro_batches=2, **less)
    found, expected = trained(config, "replica=2,data=2"), trained(config, None)
    for leaves in zip(*(jax.tree.leaves(state) for state, _ in (found, expected)), strict=True):
        np.testing.assert_allclose(*leaves, rtol=1e-4, atol=1e-5)
    pending = optax.tree.get(found[0].opt_state, "pending")
    assert np.abs(pending["Dense_0"]["kernel"]).max() > 1e-2


@pytest.mark.claim("docs/distributed.md", "contain none at all")
def test_a_step_of_training_communicates_when_replicas_are_coupled_only():
    """With a device or more for each replica, and its batch on one of them."""
    config = replace(PLAIN, period=2)
    run = started(config, placed("replica=2", config))
    plan, state = run.plan, run.state
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = functools.partial(steps.train_next, plan)
    step = jax.jit(step, out_shardings=(shardings, plan.placement.stacked))
    draw = programs_of(plan).draw(0, 0)
    lowered = step.lower(hyper_of(config), state, device_train(plan, run.task), draw)
    program = lowered.compile().as_text()
    in_branches, elsewhere = where_it_communicates(program)
    assert in_branches
    assert not elsewhere


# --- on disk ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh(tmp_path, monkeypatch, capsys):
    """An epoch on two devices, one on four, the last on one: as all of them on one."""
    arguments = ["train", "--no-progress", "--checkpoint-seconds", "0", "--out", str(tmp_path)]
    arguments += PLAIN.to_arguments()
    advance, epochs = Run.advance, []

    def interrupted(self, *rest):
        if len(epochs) in (1, 3):
            epochs.append(None)
            raise RuntimeError("stopped")
        epochs.append((self.step, len(self.state.params["Dense_0"]["bias"].devices())))
        return advance(self, *rest)

    monkeypatch.setattr(Run, "advance", interrupted)
    assert command_line.main([*arguments, "--mesh", "replica=2"]) == 1
    assert command_line.main([*arguments, "--mesh", "data=2,replica=2"]) == 1
    assert command_line.main(arguments) == 0
    assert epochs == [(0, 2), None, (4, 4), None, (8, 1)]
    assert "test error" in capsys.readouterr().out
    monkeypatch.undo()
    assert_same(read_result(tmp_path), train(PLAIN), atol=1e-6)


def assert_same(found, expected, atol=0.0):
    """Results of two runs, but for their times."""

    def numbers(result):
        history = [record | {"seconds": None} for record in result["history"]]
        left_out = {"config": None, "seconds": None}
        return jax.tree.leaves(result | left_out | {"history": history})

    assert found["config"] == expected["config"]
    np.testing.assert_allclose(numbers(found), numbers(expected), rtol=1e-4, atol=atol)


# --- what does not fit --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mesh", "changes", "message"),
    [
        ("replica=4", {"replicas": 6}, "mesh: replica=4 does not divide the 6 .* replica=3"),
        ("replica=9", {"replicas": 3}, "mesh: replica=9 does not divide the 3 .* replica=3"),
        ("replica=2", {"algorithm": "sgd"}, "the 1 replicas of sgd; .* replica=1"),
        ("data=3", {}, r"batch_size .* data=3 .* 40; .* 39 or 42, or data=4"),
        ("data=80", {}, r"batch_size .* data=80 .* 40; .* is 80, or data=40"),
        ("replica=3,data=4", {"replicas": 3}, "12 devices, there are 8; .* replica=3,data=2"),
        ("replica=9", {"replicas": 9}, "9 devices, there are 8; .* replica=3,data=1"),
        ("auto", {"batch_size": 42}, "batch_size must divide over data=4"),
        ("model=2", {}, "mesh must read replica=3,data=2"),
        ("replica=0", {}, "mesh must read replica=3,data=2"),
        ("data=2,data=2", {}, "mesh must name each axis once"),
    ],
)
def test_meshes_that_do_not_fit_are_refused(mesh, changes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(mesh, replace(**changes))


def test_no_process_may_be_left_without_a_device(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"mesh: .* of the 2 processes .* replica=2,data=4"):
        make_mesh("replica=2", SMALL)


def test_auto_takes_all_devices():
    assert dict(make_mesh("auto", replace(replicas=6)).shape) == {"replica": 2, "data": 4}


def test_the_axes_of_a_mesh_have_names():
    with pytest.raises(ValueError, match="axes"):
        started(SMALL, OnMesh(jax.make_mesh((2,), ("x",), devices=jax.devices()[:2])))
