"""Runs on examples that stay in a file: the same as in memory, and each process reads its own."""

import chex
import numpy as np
import pytest
from devices import devices
from fast import slow
from test_stream_runs import CONFIG, IMAGE, LABEL, Bar, train_and_stop, train_in

from experiments.engine import feed, steps
from experiments.engine.loop import Run
from experiments.engine.placement import OnMesh, make_mesh
from experiments.engine.plan import make_plan
from experiments.engine.population import Population
from experiments.engine.steps import arrays_of
from experiments.engine.task import make_task
from experiments.engine.train import load_final_model
from flatjax import data

ARRAYS = {"x_train": IMAGE[:52], "y_train": LABEL[:52], "x_test": IMAGE[52:], "y_test": LABEL[52:]}


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """The same data in memory, and in files."""
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "data.npz", **ARRAYS)
    for name, array in ARRAYS.items():
        np.save(folder / f"{name}.npy", array)
    return f"npz:{folder / 'data.npz'}", f"npy:{folder}"


@pytest.fixture
def in_windows(monkeypatch):
    """Two rows of batches are in a window, one in the last window of an epoch."""
    monkeypatch.setattr(feed, "WINDOW_BYTES", 2 * 2 * 10 * IMAGE[0].nbytes)


def final(config, placement=None):
    """The state at the end of a run without files."""
    task = make_task(config)
    run = Run(make_plan(config, task, placement), config, task)
    losses = []
    while run.step < run.plan.total_steps:
        if run.advance(Bar(), lambda: False):
            losses.append(run.close_epoch(False)["train_loss"])
    return arrays_of(run.state), losses


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["rsgd", slow("sam")])
def test_a_run_ends_bit_for_bit_as_in_memory(algorithm, names, in_windows):
    own = {"replicas": 2, "gamma": 0.1} if algorithm == "rsgd" else {}
    more = {"label_noise": 0.2, "augment": ("flip",)}
    config = CONFIG.changed(algorithm=algorithm, **own, **more)
    in_memory, in_file = (config.changed(dataset=name) for name in names)
    rows = [make_plan(one, make_task(one)).window_rows for one in (in_memory, in_file)]
    assert rows == [None, 2 if algorithm == "rsgd" else 4]
    chex.assert_trees_all_equal(final(in_memory), final(in_file))


@pytest.mark.slow
def test_it_does_on_a_mesh(names, in_windows):
    devices(4)
    config = CONFIG.changed(dataset=names[1])
    found = final(config, OnMesh(make_mesh("replica=2,data=2", config)))
    chex.assert_trees_all_close(found, final(config), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3, 6])
def test_an_interrupted_run_ends_bit_for_bit_as_a_whole_one(
    stop, names, in_windows, tmp_path, monkeypatch
):
    config = CONFIG.changed(dataset=names[1])
    task = make_task(config)
    expected = train_in(tmp_path / "whole", config, task)
    train_and_stop(tmp_path / "stopped", config, task, stop, monkeypatch)
    found = train_in(tmp_path / "stopped", config, task)
    assert found["replica_test_errors"] == expected["replica_test_errors"]
    one, other = (load_final_model(tmp_path / name) for name in ("whole", "stopped"))
    chex.assert_trees_all_equal(one.params, other.params)


def test_windows_of_a_text_hold_its_sequences(tmp_path):
    file = tmp_path / "text"
    file.write_bytes(bytes(range(200)))
    split = data.from_text(file, context=8, mapped=True).train
    order = np.random.default_rng(0).permutation(22)[:20].reshape(5, 2, 2)
    feeder = feed.FileFeed(split, lambda epoch: order, 5, 2, lambda window: window, [0, 1])
    for row in range(5):
        found = feeder.window(row).tokens[row % 2]
        starts = 8 * order[row]
        np.testing.assert_array_equal(found, starts[..., None] + np.arange(9))


@pytest.mark.slow
def test_a_text_in_its_file_trains_bit_for_bit_as_in_memory(tmp_path, monkeypatch):
    """Two rows of batches are in a window. On a mesh, the same up to rounding."""
    monkeypatch.setattr(feed, "WINDOW_BYTES", 2 * 2 * 10 * 9)
    file = tmp_path / "text"
    file.write_bytes(np.random.default_rng(0).integers(256, size=700, dtype=np.uint8).tobytes())
    sizes = ("width=4", "depth=1", "heads=1", "context=8")
    config = CONFIG.changed(model="transformer", model_options=sizes, epochs=2.0)
    names = (f"text,context=8,mapped={own}:{file}" for own in ("false", "true"))
    in_memory, in_file = (config.changed(dataset=name) for name in names)
    tasks = [make_task(one) for one in (in_memory, in_file)]
    assert tasks[0].fingerprint == tasks[1].fingerprint
    rows = [make_plan(task.config, task).window_rows for task in tasks]
    assert rows == [None, 2]
    expected = final(in_memory)
    chex.assert_trees_all_equal(final(in_file), expected)
    devices(4)
    for config in (in_memory, in_file):
        found = final(config, OnMesh(make_mesh("replica=2,data=2", config)))
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)


class Reads:
    """Labels and images of examples; remembers which are read."""

    def __init__(self):
        self.read = []
        images = np.arange(20, dtype=np.uint8).reshape(-1, 1, 1, 1)
        self.split = data.Split(images, np.zeros(20, np.int32))
        self.image, self.label = self.split.arrays

    def __getitem__(self, index):
        self.read.append(sorted(index.tolist()))
        return self.split[index]


def test_only_the_batches_of_own_replicas_are_read():
    """Replica 1 of three, five rows of an epoch, two in a window."""
    rng = np.random.default_rng(0)
    orders = [
        np.stack([rng.permutation(20).reshape(5, 4) for _ in range(3)], axis=1) for _ in range(2)
    ]
    train = Reads()
    feeder = feed.FileFeed(train, orders.__getitem__, 5, 2, lambda window: window, [1])
    ends = []
    for row in range(10):
        epoch, number = divmod(row, 5)
        found = feeder.window(row).image[number % 2, :, :, 0, 0, 0]
        np.testing.assert_array_equal(found[1], orders[epoch][number, 1])
        assert not found[[0, 2]].any()
        ends.append(feeder.end(row))
    assert ends == [2, 2, 4, 4, 5, 7, 7, 9, 9, 10]
    windows = [(epoch, slice(start, start + 2)) for epoch in (0, 1) for start in (0, 2, 4)]
    assert train.read == [sorted(orders[e][rows, 1].ravel().tolist()) for e, rows in windows]
    again = feed.FileFeed(train, orders.__getitem__, 5, 2, lambda window: window, [1])
    again.resume(None)
    np.testing.assert_array_equal(again.window(8).image, feeder.window(8).image)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation": 0.1}, "validation must be 0 for the file npy:"),
        ({"train_size": 20}, "train_size must be None for the file"),
        ({"rgb32": True}, "rgb32 is not for the file"),
    ],
    ids=str,
)
def test_what_needs_all_examples_in_memory_is_refused(change, message, names):
    with pytest.raises(ValueError, match=message):
        make_task(CONFIG.changed(dataset=names[1], **change))


def test_studies_of_many_runs_refuse_a_file(names):
    config = CONFIG.changed(dataset=names[1])
    with pytest.raises(ValueError, match="dataset must be in memory here"):
        Population(config, [make_task(config)])


def test_the_order_is_that_of_runs_in_memory(names):
    """Drawn by each process for itself."""
    config = CONFIG.changed(dataset=names[0])
    plan = make_plan(config, make_task(config))
    drawn = steps.draw_epoch(plan, 3, 2).order
    np.testing.assert_array_equal(drawn, steps.epoch_order(plan, 3, 2))
    assert drawn.shape == (5, 2, 10)
