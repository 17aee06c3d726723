"""Runs that are asked to stop: they save first, in the middle of an epoch, and end the same."""

import errno
import os
import pathlib
import signal
import threading

import pytest
from run_helpers import started

from experiments import __main__ as command_line
from experiments import faults
from experiments.engine import interruption, programs
from experiments.engine.run_directory import RunDirectory
from experiments.engine.steps import arrays_of
from experiments.engine.train import train
from experiments.report.store import read_json, write_json

CONFIG = faults.CONFIG.changed(model="mlp", model_options=())


@pytest.fixture
def run(monkeypatch):
    """Before its first step; a step a program, so that epochs can be interrupted."""
    monkeypatch.setattr(programs, "loops_on_device", lambda plan: False)
    return started(faults.config_of("parle", model="mlp", model_options=()))


def signalled_at(run, step, signum, monkeypatch):
    """Makes the program of a step signal this process once, after so many steps."""
    compiled, taken = programs.programs_of(run.plan), []
    jitted = compiled.step

    def signalling(*arguments):
        taken.append(None)
        if len(taken) == step:
            signal.raise_signal(signum)  # which acts at once, on this thread
        return jitted(*arguments)

    monkeypatch.setitem(compiled.__dict__, "step", signalling)


@pytest.mark.slow
@pytest.mark.claim("README.md", "it resumes, bit for bit")
def test_an_interrupted_run_ends_in_the_same_bits(run, monkeypatch, tmp_path):
    options = {"progress": False, "evaluate_epochs": False}
    finish = lambda name, **more: train(
        run.config, run.task, directory=tmp_path / name, **options, **more
    )
    finish("straight")
    statuses = []
    for step, signum in ((4, signal.SIGTERM), (3, signal.SIGINT), (5, signal.SIGTERM)):
        with monkeypatch.context() as patch:
            signalled_at(run, step, signum, patch)
            with pytest.raises(KeyboardInterrupt) as stop:
                finish("stopped")
        statuses.append(stop.value.exit_status)
        assert str(tmp_path / "stopped") in str(stop.value)
    assert statuses == [143, 130, 143]
    saved = [int(path.name) for path in (tmp_path / "stopped" / "checkpoints").iterdir()]
    assert max(saved) == 12
    finish("stopped", checkpoint_seconds=0)  # after every step
    assert faults.differences(tmp_path / "straight", tmp_path / "stopped") == (0, 0)
    for name in ("straight", "stopped"):
        like = arrays_of(run.state)
        assert RunDirectory(tmp_path / name, run.config).restore(like).losses == []


def test_the_command_line_says_so(monkeypatch, tmp_path, capsys):
    def interrupted(*arguments, directory, **options):
        raise interruption.Interrupted(signal.SIGTERM, directory)

    monkeypatch.setattr("experiments.commands.train.train", interrupted)
    assert command_line.main(["train", "--out", str(tmp_path)]) == 143
    assert f"SIGTERM: saved in {tmp_path}" in capsys.readouterr().err


def test_the_second_signal_acts_at_once():
    def act(signum, frame):
        raise TimeoutError

    before = signal.signal(signal.SIGTERM, act)
    try:
        handlers = [signal.getsignal(signum) for signum in interruption.SIGNALS]
        with interruption.deferred() as request:
            signal.raise_signal(signal.SIGTERM)
            assert request.signum == signal.SIGTERM
            with pytest.raises(TimeoutError):
                signal.raise_signal(signal.SIGTERM)
        assert [signal.getsignal(signum) for signum in interruption.SIGNALS] == handlers
    finally:
        signal.signal(signal.SIGTERM, before)


def test_nothing_is_held_back_elsewhere():
    handlers = [signal.getsignal(signum) for signum in interruption.SIGNALS]

    def check(**options):
        with interruption.deferred(**options) as request:
            assert request.signum is None
            assert [signal.getsignal(signum) for signum in interruption.SIGNALS] == handlers

    check(enabled=False)
    thread = threading.Thread(target=check)
    thread.start()
    thread.join()


def test_a_full_disk_leaves_the_old_file(monkeypatch, tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"old": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", ["a file in the way", "a future field", "another run"])
def test_directories_that_are_refused_stay_as_they_are(damage, tmp_path, capsys):
    path = tmp_path / "run"
    if damage == "a file in the way":
        path.write_text("precious")
    else:
        config = CONFIG.changed(algorithm="sgd").to_json()
        config |= {"a_field_of_2031": 1} if damage == "a future field" else {"epochs": 2.0}
        (path / "checkpoints" / "9").mkdir(parents=True)
        write_json(path / "config.json", config)
    before = [(file, file.read_bytes()) for file in tmp_path.rglob("*") if file.is_file()]
    assert command_line.main(["train", "--algorithm", "sgd", "--out", str(path)]) == 1
    message = capsys.readouterr().err
    assert str(path) in message
    assert {"a future field": "a_field_of_2031", "another run": "epochs"}.get(damage, "") in message
    assert [(file, pathlib.Path(file).read_bytes()) for file, _ in before] == before
