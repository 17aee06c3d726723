"""Runs that go on with another number of replicas: the center stays, schedules continue."""

import chex
import numpy as np
import pytest
from fast import slow

from experiments import __main__ as command_line
from experiments.engine import evaluate, feed
from experiments.engine.config import TrainConfig
from experiments.engine.loop import Run
from experiments.engine.placement import OnMesh, make_mesh
from experiments.engine.plan import hyper_of, make_plan
from experiments.engine.restart import continued, go_on_from, with_replicas
from experiments.engine.run_directory import read_result
from experiments.engine.task import make_task
from experiments.engine.train import load_run, train
from flatjax import data

CONFIG = TrainConfig.of(
    train_size=160,
    held_out_size=100,
    batch_size=40,
    epochs=8,
    replicas=4,
    gamma=0.01,
    model_options=("hidden=(4,)",),
    sigmas=(0.1,),
    local_energy_samples=2,
    local_energy_examples=40,
)
DILOCO = {"algorithm": "diloco", "replicas": 4, "period": 2}
PARLE = {"algorithm": "parle", "replicas": 4, "inner_steps": 2, "gamma": 0.1, "replica_gamma": 0.1}


class StoppedError(Exception):
    """In place of a signal."""


def stop_after(epochs, config, directory, **options):
    """Trains for some epochs, each of which is saved."""
    advance, left = Run.advance, [None] * epochs

    def counted(self, *rest):
        if not left:
            raise StoppedError
        left.pop()
        return advance(self, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "advance", counted)
        with pytest.raises(StoppedError):
            train(config, directory=directory, progress=False, checkpoint_seconds=0, **options)


def measured(run):
    """The final model and its loss, if training stopped here."""
    model = evaluate.final_model(run.plan, run.task, run.state)
    return model, float(run.task.evaluate(*model)["loss"])


@pytest.mark.parametrize(
    ("own", "y", "mesh"),
    [slow({}, 3, None), slow({}, 8, "replica=4"), slow(PARLE, 5, None), slow(DILOCO, 2, None)],
    ids=str,
)
def test_the_center_does_not_jump_and_the_run_ends(own, y, mesh, tmp_path):
    config = CONFIG.changed(**own)
    first, second = tmp_path / "first", tmp_path / "second"
    stop_after(1, config, first)
    before, new = load_run(first), with_replicas(config, y)
    placement = None if mesh is None else OnMesh(make_mesh(mesh, new))
    task = make_task(new)
    run = Run(make_plan(new, task, placement), new, task)
    go_on_from(run, first)
    (center, _), loss = measured(run)
    expected, wanted = measured(before)
    chex.assert_trees_all_close(center, expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    assert run.step == before.state.step == 4
    assert run.plan.total_steps == before.plan.total_steps == 8
    rate = lambda run: run.plan.learning_rate(hyper_of(run.config))(run.step)
    assert rate(run) == before.plan.learning_rate(hyper_of(config))(4)

    # Stopped on its way and resumed, it ends as it would have ended.
    found = train(new, placement=placement, directory=second, progress=False, go_on_from=first)
    assert [record["gradients"] for record in found["history"]] == [16, 16 + 4 * y]
    assert found["gradient_evaluations"] == 16 + 4 * y
    assert len(found["replica_test_errors"]) == y
    assert found["origin"] == {"directory": str(first), "step": 4, "replicas": 4}
    assert read_result(second)["origin"] == found["origin"]


@pytest.mark.slow
def test_it_goes_on_from_files_of_its_own(tmp_path):
    """Also twice: the gradients of all replicas are counted."""
    config = CONFIG.changed(epochs=16)
    paths = [tmp_path / name for name in ("4", "3", "1")]
    stop_after(1, config, paths[0])
    stop_after(1, with_replicas(config, 3), paths[1], go_on_from=paths[0])
    last = with_replicas(config, 1)
    stop_after(1, last, paths[2], go_on_from=paths[1])
    # What it started from is not read again.
    (paths[1] / "config.json").unlink()
    found = train(last, directory=paths[2], progress=False, go_on_from=paths[1])
    assert [record["gradients"] for record in found["history"]] == [16, 28, 32, 36]
    assert found["origin"]["replicas"] == 3


@pytest.mark.slow
def test_by_the_command(tmp_path, capsys):
    first = tmp_path / "run"
    stop_after(1, CONFIG, first)
    resume = ["train", "--no-progress", "--resume", str(first)]
    for more, message in (
        (["--replicas", "3", "--epochs", "3"], "epochs: a run continues with the settings"),
        (["--algorithm", "sgd"], "algorithm"),
        (["--out", str(tmp_path / "other")], "out must be left out"),
    ):
        assert command_line.main([*resume, *more]) == 1
        assert message in capsys.readouterr().err
    assert command_line.main([*resume, "--replicas", "3"]) == 0
    assert read_result(tmp_path / "run-3-replicas")["gradient_evaluations"] == 16 + 12
    # Without another number, the run itself goes on.
    assert command_line.main(resume) == 0
    assert read_result(first)["gradient_evaluations"] == 32
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert command_line.main(["train", "--resume", str(tmp_path / "none")]) == 1
    assert "FileNotFoundError" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"learning_rate": 0.2}, {"seed": 1}, {"algorithm": "sgd"}])
def test_other_settings_are_refused(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))}.* continues with the settings"):
        continued(CONFIG, CONFIG.changed(**change))


@pytest.mark.slow
def test_it_needs_a_checkpoint_and_files(tmp_path):
    train(CONFIG.changed(epochs=4), directory=tmp_path / "run", progress=False)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.rename(tmp_path / path.name)
    new = with_replicas(CONFIG.changed(epochs=4), 2)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        train(new, directory=tmp_path / "new", go_on_from=tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="go_on_from needs directory"):
        train(new, go_on_from=tmp_path / "run")


# --- streams ------------------------------------------------------------------------------------


class Numbered:
    """Seven batches of two that show their numbers, and a list of those that were read."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return 7

    def __getitem__(self, number):
        self.read.append(number)
        return np.full((2, 1, 1, 1), number, np.uint8), np.zeros(2, np.int32)


TEST = data.Split(np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int32))


def feed_of(num_replicas, rows, own=None):
    stream = data.Stream(Numbered(), TEST, num_classes=1)
    return feed.Feed(stream, num_replicas, rows, lambda window: window, own), stream


def batches_of(feeder, start, stop, rows):
    """The numbers of the batches in some rows of a run."""
    found = []
    for row in range(start, stop):
        window = feeder.window(row)
        found.append(window.image[row % 7 % rows, :, 0, 0, 0, 0].tolist())
    return found


@pytest.mark.parametrize("row", [1, 3, 4, 9])
def test_the_stream_goes_on_with_the_next_batch(row):
    """Within a window, at its end, in the next epoch: no batch is lost or taken twice."""
    feeder, stream = feed_of(2, rows=3)
    batches_of(feeder, 0, row, rows=3)
    position = feed.moved_position(stream, feeder.position, row, num_replicas=2)
    other, _ = feed_of(3, rows=2)
    other.resume(position)
    expected = [[(2 * row + 3 * k + a) % 7 for a in range(3)] for k in range(8)]
    assert batches_of(other, row, row + 8, rows=2) == expected


def test_only_own_batches_are_read():
    """Those of replica 1 of three; the digest of a window is that of all processes together."""
    feeder, stream = feed_of(3, rows=2, own=[1])
    found = batches_of(feeder, 0, 5, rows=2)
    expected = [(3 * row + 1) % 7 for row in range(6)]
    assert [numbers[1] for numbers in found] == expected[:5]
    assert stream.batches.read == expected
    position = feeder.position
    again, stream = feed_of(3, rows=2, own=[1])
    again.resume(position)
    assert stream.batches.read == expected[-2:]
    assert again.position == position


def test_devices_of_a_mesh_hold_their_replicas():
    placement = OnMesh(make_mesh("replica=2,data=2", CONFIG))
    assert list(placement.own_replicas(4)) == [0, 1, 2, 3]
    rows = np.arange(2 * 4 * 6).reshape(2, 4, 6)
    (found,) = placement.put_rows((rows,))
    assert found.addressable_shards[0].data.shape == (2, 2, 3)
    np.testing.assert_array_equal(found, rows)
