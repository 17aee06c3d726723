"""Metrics that go to TensorBoard and Weights & Biases are those of metrics.jsonl."""

import dataclasses
import json
import struct
import sys
import types

import pytest
from tensorboardX.proto import event_pb2

from experiments import __main__ as command_line
from experiments.engine.config import TrainConfig
from experiments.engine.loggers import open_logger, scalars
from experiments.engine.train import train
from experiments.report import store

CONFIG = TrainConfig.of(
    algorithm="sgd",
    model_options=("hidden=(4,)",),
    train_size=160,
    held_out_size=100,
    batch_size=40,
    epochs=3,
    sigmas=(0.1,),
    local_energy_samples=2,
    local_energy_examples=40,
)


def tensorboard_scalars(folder):
    """(step, name) -> number, in the only event file."""
    (path,) = folder.glob("events.out.tfevents.*")
    data, found = path.read_bytes(), {}
    while data:  # length and its checksum, the event, its checksum
        (length,) = struct.unpack("<Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found[event.step, value.tag] = value.simple_value
    return found


@pytest.mark.slow
def test_tensorboard_has_every_number_once_also_after_a_restart(tmp_path):
    out = tmp_path / "run"
    command = ["train", "--out", str(out), "--no-progress", "--checkpoint-seconds", "0"]
    command += CONFIG.to_arguments()
    assert command_line.main([*command, "--log", "tensorboard"]) == 0
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    expected = {(r["step"], name): value for r in records for name, value in scalars(r)}
    assert len(expected) >= 3 * len(records)
    assert tensorboard_scalars(out / "tensorboard") == pytest.approx(expected, rel=1e-6)

    (out / "result.json").unlink()  # as if it had been killed in the last evaluation
    assert command_line.main([*command, "--log", "tensorboard"]) == 0
    assert tensorboard_scalars(out / "tensorboard") == pytest.approx(expected, rel=1e-6)
    assert command_line.main([*command, "--log", "tensorboard"]) == 0  # complete: as it is
    assert tensorboard_scalars(out / "tensorboard") == pytest.approx(expected, rel=1e-6)


def test_the_files_of_another_run_stay(tmp_path, capsys):
    other = dataclasses.replace(CONFIG, seed=1)
    open_logger("tensorboard", tmp_path, other).close()
    store.write_json(tmp_path / "config.json", other.to_json())
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    before = [(path, path.read_bytes()) for path in (tmp_path / "tensorboard").iterdir()]
    command = ["train", "--out", str(tmp_path), "--log", "tensorboard", *CONFIG.to_arguments()]
    assert command_line.main(command) == 1
    assert "seed" in capsys.readouterr().err
    assert [(path, path.read_bytes()) for path, _ in before] == before


def test_wandb_goes_on_where_it_was(monkeypatch, tmp_path):
    class Run:
        step = 8  # what the server has already

        def __init__(self):
            self.logged = []

        def log(self, values, step):
            self.logged.append((step, values))

        def finish(self):
            self.logged.append("finished")

    started = []

    def init(**options):
        started.append((options, Run()))
        return started[-1][1]

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for _ in range(2):
        logger = open_logger("wandb", tmp_path, CONFIG)
        for step in (4, 8, 12):
            logger.log({"step": step, "train_loss": 1.0 / step})
        logger.close()
    (options, run), (again, _) = started
    assert run.logged == [(8, {"train_loss": 1 / 8}), (12, {"train_loss": 1 / 12}), "finished"]
    assert options == again
    assert options["resume"] == "allow"
    assert options["config"]["train_size"] == 160


def test_a_logger_needs_a_directory():
    with pytest.raises(ValueError, match="directory must be given with log"):
        train(CONFIG, progress=False, log=["tensorboard"])


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named(name, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, {"tensorboard": "tensorboardX"}.get(name, name), None)
    out = str(tmp_path / "run")
    assert command_line.main(["train", "--log", name, "--out", out]) == 1
    assert f"log: {name} needs pip install 'flatjax[{name}]'" in capsys.readouterr().err
