"""Runs on streams: every batch is taken once, in order, and interrupted runs lose nothing."""

import dataclasses

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from fast import slow

from experiments.__main__ import main
from experiments.engine import feed, loop, steps
from experiments.engine.config import TrainConfig
from experiments.engine.loop import Run
from experiments.engine.plan import make_plan
from experiments.engine.population import Population
from experiments.engine.steps import arrays_of
from experiments.engine.task import dataset_fingerprint, make_task
from experiments.engine.train import load_final_model, train
from flatjax import data

DRAW = np.random.default_rng(0)
IMAGE = DRAW.integers(256, size=(70, 3, 2, 1), dtype=np.uint8)
LABEL = (IMAGE.mean((1, 2, 3)) > 128).astype(np.int32)
SPLIT = data.Split(IMAGE, LABEL)
CONFIG = TrainConfig.of(
    algorithm="rsgd",
    dataset=f"{__name__}:make_stream",
    model_options=("hidden=(8,)",),
    replicas=2,
    gamma=0.1,
    batch_size=10,
    epochs=4.0,
    validation=0.0,
    local_energy_samples=2,
    local_energy_examples=20,
)


def make_stream():
    """Seven batches of ten."""
    batches = [SPLIT[10 * number : 10 * number + 10] for number in range(7)]
    pairs = [(one.image, one.label) for one in batches]
    return data.Stream(pairs, test=SPLIT[:20], num_classes=2, class_names=("dark", "light"))


def make_unseeded():
    """Seven batches in an order that changes when they are read again."""
    pairs = make_stream().batches
    shuffled = lambda epoch: (pairs[i] for i in DRAW.permutation(7))
    return data.Stream(shuffled, test=SPLIT[:20], num_classes=2, num_batches=7)


def make_dataset():
    return data.from_arrays((IMAGE, LABEL), test=20)


def make_nothing():
    return None


class Bar:
    """Shows no progress."""

    def update(self, count=1):
        """Does nothing."""


def final(config, task):
    """The state at the end of a run without files."""
    run = Run(make_plan(config, task), config, task)
    while run.step < run.plan.total_steps:
        if run.advance(Bar(), lambda: False):
            run.close_epoch(False)
    return arrays_of(run.state)


@pytest.fixture(scope="module")
def task():
    """All batches of an epoch are in one window."""
    return make_task(CONFIG)


@pytest.fixture
def in_windows(monkeypatch):
    """Three rows of batches are in a window, one in the last window of an epoch."""
    monkeypatch.setattr(feed, "WINDOW_BYTES", 3 * 2 * 10 * IMAGE[0].nbytes)


@pytest.mark.parametrize("algorithm", ["rsgd", slow("sam")])
def test_batches_are_dealt_to_the_replicas_in_order(algorithm, monkeypatch):
    """As if the examples were in memory, and their order drawn so."""
    own = {"replicas": 2, "gamma": 0.1} if algorithm == "rsgd" else {}
    config = CONFIG.changed(algorithm=algorithm, **own)
    task, y, draw_epoch = make_task(config), config.num_replicas, steps.draw_epoch
    streamed = final(config, task)

    def draw(plan, seed, epoch):
        batch = (epoch * 7 * y + jnp.arange(7 * y).reshape(7, y)) % 7
        order = 10 * batch[..., None] + jnp.arange(10)
        return draw_epoch(plan, seed, epoch)._replace(order=order)

    monkeypatch.setattr(steps, "draw_epoch", draw)
    in_memory = dataclasses.replace(task, train=SPLIT, stream=None)
    chex.assert_trees_all_equal(streamed, final(config, in_memory))


@pytest.mark.slow
def test_the_window_changes_nothing(task, in_windows, monkeypatch):
    in_three = final(CONFIG, task)
    monkeypatch.undo()
    assert [make_plan(CONFIG, task).window_rows, in_three["step"]] == [7, 14]
    chex.assert_trees_all_equal(in_three, final(CONFIG, task))


def test_a_window_has_a_bounded_size(monkeypatch):
    monkeypatch.setattr(feed, "WINDOW_BYTES", 2 * 3 * 10 * IMAGE[0].nbytes + 1)
    assert feed.rows_in_window(IMAGE[0], num_replicas=3, batch_size=10, num_rows=7) == 2
    assert feed.rows_in_window(IMAGE[0], num_replicas=30, batch_size=10, num_rows=7) == 1
    assert feed.rows_in_window(IMAGE[0], num_replicas=1, batch_size=1, num_rows=7) == 7


class StoppedError(Exception):
    """In place of a signal."""


def train_in(directory, config, task):
    return train(config, task, directory=directory, progress=False, checkpoint_seconds=0)


def train_and_stop(directory, config, task, stop, monkeypatch):
    """Takes a few steps, with a checkpoint after each."""
    take_steps, taken = loop.take_steps, []

    def step_by_step(compiled, hyper, state, train, draw, num_steps, **options):
        if len(taken) == stop:
            raise StoppedError
        taken.append(1)
        return take_steps(compiled, hyper, state, train, draw, 1, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_steps", step_by_step)
        with pytest.raises(StoppedError):
            train_in(directory, config, task)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, task):
    """A run that was not interrupted: its directory and its result."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, train_in(directory, CONFIG, task)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3, 9, 13])
def test_an_interrupted_run_ends_bit_for_bit_as_a_whole_one(
    stop, whole, task, in_windows, tmp_path, monkeypatch
):
    assert make_plan(CONFIG, task).window_rows == 3
    train_and_stop(tmp_path, CONFIG, task, stop, monkeypatch)
    found = train_in(tmp_path, CONFIG, task)
    drop = lambda result: [{**record, "seconds": 0} for record in result["history"]]
    assert drop(found) == drop(whole[1])
    one, other = (load_final_model(path, trust=True) for path in (tmp_path, whole[0]))
    chex.assert_trees_all_equal(one.params, other.params)


@pytest.mark.slow
def test_a_loader_without_a_seed_is_found_out(tmp_path, monkeypatch):
    config = CONFIG.changed(dataset=f"{__name__}:make_unseeded")
    task = make_task(config)
    train_and_stop(tmp_path, config, task, 1, monkeypatch)
    with pytest.raises(ValueError, match="seed its shuffling"):
        train_in(tmp_path, config, task)


def test_a_stream_by_name_and_its_model(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", *CONFIG.to_arguments(), "--out", str(out), "--no-progress"]) == 0
    capsys.readouterr()
    assert main(["flatness", str(out), "--out", str(tmp_path / "flatness")]) == 1
    assert (
        f"the run's dataset {CONFIG.data.dataset} is not one of flatjax" in capsys.readouterr().err
    )
    model = load_final_model(out, trust=True)
    assert model.task.class_names == ("dark", "light")


def test_a_data_set_in_memory_by_name():
    task = make_task(CONFIG.changed(dataset=f"{__name__}:make_dataset"))
    assert (task.stream, len(task.train), len(task.held_out)) == (None, 50, 20)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"validation": 0.1}, ValueError, "validation must be 0 for the stream"),
        ({"label_noise": 0.1}, ValueError, "label_noise must be 0"),
        ({"train_size": 20}, ValueError, "train_size must be None"),
        ({"rgb32": True}, ValueError, "rgb32 is not for the stream"),
        ({"batch_size": 5}, ValueError, "batch_size must be 10, the size of the batches"),
        ({"dataset": f"{__name__}:absent"}, ValueError, "dataset must be a name .*absent"),
        ({"dataset": "no_such_module:x"}, ValueError, "dataset must be a name .*no_such_module"),
        ({"dataset": f"{__name__}:make_nothing"}, TypeError, "must return a flatjax.data.Dataset"),
    ],
    ids=str,
)
def test_what_streams_cannot_do_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        make_task(CONFIG.changed(**change))


def test_who_needs_all_examples_in_memory_refuses_a_stream(task):
    with pytest.raises(ValueError, match="dataset must be in memory here"):
        Population(CONFIG, [task])
    with pytest.raises(ValueError, match="dataset must be in memory here"):
        dataset_fingerprint(CONFIG.data.dataset)
