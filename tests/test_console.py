"""Commands begin and end in one line, whatever the locale, the pipe, the disk or the signal."""

import errno
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from fast import slow

from experiments import __main__ as command_line
from experiments.commands.cost_model import CostModel
from experiments.report import store

ROOT = pathlib.Path(__file__).parents[1]


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "experiments", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
def test_files_are_utf8_and_shown_whatever_the_locale(tmp_path):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    process = start("cost-model", "--out", str(tmp_path), **plain, PYTHONIOENCODING="ascii")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    text = (tmp_path / "cost_model.md").read_text(encoding="utf-8")
    assert not text.isascii()
    assert "?" in out.decode("ascii")


@pytest.mark.slow
def test_a_closed_pipe_ends_quietly(tmp_path):
    process = start("cost-model", "--out", str(tmp_path))
    process.stdout.close()
    with process.stderr as errors:
        assert errors.read() == b""
    assert process.wait(timeout=120) == 141


@pytest.mark.parametrize("module", ["numpy", slow("optax")])
def test_sigint_while_it_starts_ends_in_one_line(module, tmp_path):
    # Python says which modules are imported; there are many after these two.
    process = start("train", "--out", str(tmp_path), PYTHONPROFILEIMPORTTIME="1")
    for line in process.stderr:
        if line.split(b"|")[-1].strip() == module.encode():
            process.send_signal(signal.SIGINT)
            break
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    said = [line for line in err.splitlines() if not line.startswith(b"import time:")]
    assert said == [b"SIGINT: stopped before anything was started."]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--seed", "-1"], "seed must be a whole number from 0"),
        (["train", "--seed", "4294967296"], "seed must be a whole number from 0"),
        (["train", "--epochs", "nan"], "epochs must be > 0, got nan"),
        (["train", "--checkpoint-seconds", "nan"], "checkpoint_seconds must be"),
        (["compare", "--seeds", "0"], "seeds must be a number >= 1"),
        (["compare", "--epochs-scale", "inf"], "epochs_scale must be"),
        (["tune", "--seeds", "-3"], "seeds must be a number >= 1"),
        (["reproduce", "--table", "--teraflops", "0"], "teraflops must be"),
        (["gaussian-mixture", "--seeds", "1"], "seeds must be a number >= 2"),
        (["flatness", "run", "--samples", "0"], "samples must be a number >= 2"),
    ],
)
def test_bad_values_give_one_line(arguments, message, capsys):
    assert command_line.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_full_disk_says_so_in_one_line(monkeypatch, tmp_path, capsys):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))

    monkeypatch.setattr(store, "write_text", full)
    monkeypatch.setattr(CostModel, "run", lambda self: store.write_text(tmp_path, ""))
    assert command_line.main(["cost-model"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(tmp_path) in error
    assert "the same command continues" in error
