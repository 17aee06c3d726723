"""The final model in the directory of a run, and those who use it."""

import shutil

import chex
import flax.linen as nn
import numpy as np
import pytest

from experiments.__main__ import main
from experiments.engine.config import TrainConfig
from experiments.engine.evaluate import final_model
from experiments.engine.train import load_final_model, load_run, train
from flatjax import data, models

CONFIG = TrainConfig.of(
    algorithm="rsgd",
    model=f"{__name__}:Normed",
    gamma=0.1,
    replicas=2,
    train_size=200,
    batch_size=50,
    epochs=2,
    held_out_size=100,
    local_energy_samples=2,
    local_energy_examples=50,
)


class Normed(nn.Module):
    """A network with batch norm."""

    num_classes: int

    @nn.compact
    def __call__(self, images, train):
        """Logits."""
        hidden = nn.BatchNorm(not train)(nn.Dense(16)(images.reshape(len(images), -1)))
        return nn.Dense(self.num_classes)(nn.relu(hidden))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A complete run: its directory and its result."""
    run = tmp_path_factory.mktemp("model") / "run"
    return run, train(CONFIG, directory=run, progress=False)


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "run")


def test_the_model_predicts_as_the_result_says(finished):
    run, result = finished
    predict, params, state = models.load(run, trust=True)
    test = data.load("digits").test[:100]
    wrong = np.asarray(predict(params, state, test.image)).argmax(-1) != test.label
    assert 100 * wrong.mean() == pytest.approx(result["test_error"], abs=1e-3)
    assert predict.class_names == tuple("0123456789")
    assert predict.about["config"]["gamma"] == 0.1


@pytest.mark.slow
def test_it_is_the_center_with_statistics_of_its_own(finished):
    run = load_run(finished[0], trust=True)
    params, stats = final_model(run.plan, run.task, run.state)
    found = load_final_model(finished[0], trust=True)
    assert found.config == CONFIG
    for one, other in ((found.params, params), (found.batch_stats, stats)):
        chex.assert_trees_all_equal(one, other)


def test_a_complete_run_needs_no_checkpoint_for_it(run, finished):
    shutil.rmtree(run / "checkpoints")
    found = load_final_model(run, trust=True)
    error = 100 * float(found.task.evaluate(found.params, found.batch_stats)["error"])
    assert error == pytest.approx(finished[1]["test_error"], abs=1e-3)


def test_without_a_model_the_checkpoint_is_taken(run):
    expected = load_final_model(run, trust=True)
    shutil.rmtree(run / "model")
    chex.assert_trees_all_equal(load_final_model(run, trust=True).params, expected.params)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        load_final_model(run, trust=True)


@pytest.mark.slow
def test_the_model_of_another_run_is_refused(run, tmp_path):
    config = CONFIG.changed(seed=1)
    train(config, directory=tmp_path / "other", progress=False)
    shutil.rmtree(run / "model")
    shutil.copytree(tmp_path / "other" / "model", run / "model")
    with pytest.raises(ValueError, match=r"run/model holds a run of another .*seed: wanted 0"):
        load_final_model(run, trust=True)


def test_flatness_names_a_damaged_model(run, tmp_path, capsys):
    path = run / "model" / "arrays.npz"
    path.write_bytes(path.read_bytes()[:-10])
    assert main(["flatness", str(run), "--trust", "--out", str(tmp_path / "out")]) == 1
    assert "arrays.npz is damaged" in capsys.readouterr().err


def test_flatness_and_load_want_trust(run, capsys):
    assert main(["flatness", str(run)]) == 1
    assert "pass --trust" in capsys.readouterr().err
    with pytest.raises(ValueError, match="trust=True"):
        models.load(run)


@pytest.mark.slow
def test_a_result_that_is_lost_is_made_again_with_the_same_model(run, finished):
    expected = load_final_model(run, trust=True)
    (run / "result.json").unlink()
    shutil.rmtree(run / "model")
    result = train(CONFIG, directory=run, progress=False)
    assert result["test_error"] == finished[1]["test_error"]
    chex.assert_trees_all_equal(load_final_model(run, trust=True).batch_stats, expected.batch_stats)
