"""`compare` and `tune` on the user's own data and network, and what they say of mistakes."""

import json

import numpy as np
import pytest

from experiments.__main__ import main
from experiments.commands.compare import Compare
from experiments.commands.tune import Tune
from experiments.configs import fashion_mnist
from experiments.configs.comparisons import study_of
from experiments.engine import train as training
from experiments.engine.config import TrainConfig
from experiments.engine.run_directory import RunDirectory, read_config
from experiments.report import bars
from experiments.studies.compare import own_data
from experiments.studies.compare.description import Comparison
from experiments.studies.compare.run import compare
from flatjax import data, models


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder in which commands are called, with data next to it: 90 vectors, and 90 images."""
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(110, 5)).astype(np.float32)
    images = draw.integers(0, 255, (110, 8, 8, 1), dtype=np.uint8)
    for name, x in (("task", vectors), ("images", images)):
        y = (vectors[:, 0] > 0).astype(int)
        arrays = {"x_train": x[:90], "y_train": y[:90], "x_test": x[90:], "y_test": y[90:]}
        np.savez(tmp_path / f"{name}.npz", **arrays)
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def test_vectors_are_compared_and_tuned_below_runs(home, capsys):
    """Of fewer examples than the study's batch and the subset of its search."""
    task = ["--dataset", "npz:../task.npz", "--seeds", "1", "--epochs", "2", "--only", "SGD"]
    assert main(["compare", *task]) == 0
    said = capsys.readouterr().out
    assert "npz:../task.npz, mlp, test" in said
    assert main(["compare", *task]) == 0
    again = capsys.readouterr().out.splitlines()
    assert again[:-1] == said.splitlines()
    assert again[-1].endswith("holds all runs, which are complete: nothing was trained.")
    assert main(["tune", *task]) == 0
    said = capsys.readouterr().out
    assert "nothing was trained" not in said
    assert main(["tune", *task]) == 0
    complete, *again = capsys.readouterr().out.splitlines()
    assert complete.endswith("holds all runs, which are complete: nothing was trained.")
    assert again == said.splitlines()
    assert sorted(path.name for path in home.parent.iterdir()) == ["home", "images.npz", "task.npz"]
    names = {command: f"{command}-npz-..-task.npz-epochs-2" for command in ("compare", "tune")}
    assert sorted(path.name for path in (home / "runs").iterdir()) == sorted(names.values())
    config = read_config(home / "runs" / names["compare"] / "sgd" / "seed-0" / "config.json")
    assert (config.network.model, config.batch_size, config.epochs) == ("mlp", 90, 2)
    (config, *_) = (home / "runs" / names["tune"]).glob("*/*/seed-0/config.json")
    config = read_config(config)
    assert (config.data.train_size, config.batch_size) == (None, 81)  # nine are for validation


def test_a_study_fits_its_data(home):
    study = own_data.fitted(study_of("npz:../images.npz"))
    assert (study.base.network.model, study.base.batch_size) == ("small_convnet", 90)
    assert own_data.fitted(study_of("digits")).base.batch_size == 64
    assert Tune(dataset="fashion_mnist").study(for_tuning=True) == fashion_mnist.STUDY
    assert "train_size" not in own_data.fitted(study_of("npz:../task.npz"), for_tuning=True).tuning
    large = study_of("digits")
    large = Comparison(large.base, large.runs, 1, 0.4, tuning={"train_size": 500})
    assert own_data.fitted(large, for_tuning=True).tuning == {"train_size": 500}


def test_settings_change_all_runs_and_the_directory():
    command = Compare(model="small_convnet", batch_size=32, epochs=30.0)
    study = command.study()
    for label, config in study.configs().items():
        assert (config.network.model, config.batch_size) == ("small_convnet", 32)
        assert config.epochs == (90 if " x 3" in label else 30)
    name = "compare-digits-small_convnet-batch-32-epochs-30"
    assert command.directory("compare").name == name
    assert Compare().study() == study_of("digits")
    assert Compare().directory("compare").name == "compare-digits"
    scaled = Compare().study(epochs_scale=0.1)
    assert {config.epochs for config in scaled.configs().values()} == {6, 18}
    assert Compare().directory("compare", epochs_scale=0.1).name == "compare-digits-0.1"
    with pytest.raises(ValueError, match="epochs must be left out if epochs_scale is given"):
        Compare(epochs=3.0).study(epochs_scale=0.1)


@pytest.mark.parametrize("command", ["compare", "tune"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "fashion-mnist"], "did you mean 'fashion_mnist'?"),
        (["--dataset", "npz:none.npz"], "none.npz"),
        (["--model", "small_convent"], "Did you mean 'small_convnet'?"),
        (["--batch-size", "5000"], "must be at most the 1167 training examples"),
        (["--epochs", "0.001"], "epochs must pay for at least"),
    ],
)
def test_a_mistake_is_said_once_and_leaves_nothing(command, options, message, home, capsys):
    assert main([command, *options]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert list(home.iterdir()) == []


def test_names_without_a_likeness_get_no_suggestion():
    for load in (lambda: data.load("zzz!"), lambda: models.create("zzz", 10)):
        with pytest.raises(ValueError, match="got 'zzz") as error:
            load()
        assert "mean" not in str(error.value)


def test_the_directory_of_another_study_stops_the_comparison(tmp_path):
    base = TrainConfig.of(algorithm="sgd", train_size=100, epochs=1, batch_size=50)
    study = Comparison(base, {"one": {}, "two": {}}, seeds=1, sigma=0.1)
    with RunDirectory(tmp_path / "one" / "seed-0", base.changed(learning_rate=9.0)).claimed():
        (tmp_path / "one" / "seed-0" / "checkpoints" / "1").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"one/seed-0 holds .*learning_rate.*--out DIRECTORY"):
        compare(study, tmp_path, progress=False)
    assert not (tmp_path / "two").exists()


# --- directories of runs ------------------------------------------------------------------------


def test_flatness_names_the_runs_below_a_directory(home, capsys):
    for seed in range(7):
        with RunDirectory(home / "study" / "sgd" / f"seed-{seed}", TrainConfig.of()).claimed():
            pass
    assert main(["flatness", "study"]) == 1
    error = capsys.readouterr().err
    assert "did you mean study/sgd/seed-0 study/sgd/seed-1 " in error
    assert "study/sgd/seed-4 (and 2 more)?" in error
    assert main(["flatness", "nothing"]) == 1
    assert "give the directory of a run" in capsys.readouterr().err


def test_a_start_that_failed_does_not_block_its_directory(tmp_path, monkeypatch, capsys):
    def missing(names):
        raise ImportError(f"log: {names} are missing")

    out = ["train", "--out", str(tmp_path / "run"), "--epochs", "1", "--train-size", "200"]
    out += ["--local-energy-samples", "2", "--local-energy-examples", "20", "--algorithm", "sgd"]
    with monkeypatch.context() as patch:
        patch.setattr(training.loggers, "require", missing)
        assert main([*out, "--log", "tensorboard"]) == 1
    assert "are missing" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    # Nothing was trained with the configuration in the directory.
    with RunDirectory(tmp_path / "run", TrainConfig.of(seed=3)).claimed():
        pass
    assert main(out) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 0
    assert main([*out, "--seed", "1"]) == 1
    error = capsys.readouterr().err
    assert "seed: wanted 1, found 0" in error
    assert "--out DIRECTORY" in error


def test_bars_are_shown_on_a_terminal_only(capsys, monkeypatch):
    assert list(bars.bar(range(3), progress=True)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert list(bars.bar(range(3), progress=True)) == [0, 1, 2]
    assert "3/3" in capsys.readouterr().err
    assert list(bars.bar(range(3), progress=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
