"""Runs on texts and on regressions: losses by hand, files, populations, flatness."""

import json
import math

import chex
import jax
import numpy as np
import optax
import pytest
from fast import slow
from test_stream_runs import train_and_stop, train_in

from experiments.__main__ import main
from experiments.engine import datasets
from experiments.engine.config import TrainConfig
from experiments.engine.population import Population
from experiments.engine.task import make_task, make_tasks
from experiments.engine.train import load_final_model, load_run, train
from flatjax import data, models

TINY = ("width=16", "depth=1", "heads=2", "context=8")
FEW = {"local_energy_samples": 2, "local_energy_examples": 64, "sigmas": (0.1,)}
TEXT = TrainConfig.of(
    **{"algorithm": "rsgd", "replicas": 2, "gamma": 0.01, "epochs": 12, "batch_size": 16},
    **{"model": "transformer", "model_options": TINY, "learning_rate": 0.02, "common_init": True},
    **{"base_optimizer": "adamw", "weight_decay": 0.0, "warmup": 0.1},
    **FEW,
)
LINE = TrainConfig.of(
    **{"algorithm": "sgd", "epochs": 20, "batch_size": 20, "learning_rate": 0.03},
    **{"dataset": f"{__name__}:line", "model_options": ("hidden=(16,)",), "validation": 0.2},
    **FEW,
)


def line():
    """Two targets that are nearly linear in five numbers, far from 0 and of unequal size."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(250, 5))
    y = [100 + 10 * x[:, 0], 0.01 * (x[:, 1] - x[:, 2]) + 0.002 * rng.normal(size=250)]
    return data.from_arrays((x, np.stack(y, axis=1)), test=50, task="regression")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text that repeats six letters, in a file."""
    file = tmp_path_factory.mktemp("text") / "six.txt"
    file.write_text("abcdef" * 500)
    return f"text,context=8,test=0.2:{file}"


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    """A complete run on the text: its directory and its result."""
    run = tmp_path_factory.mktemp("run") / "text"
    return run, train(TEXT.changed(dataset=text), directory=run, progress=False)


@pytest.mark.slow
def test_a_transformer_learns_a_text(finished):
    run, result = finished
    assert result["test_loss"] < 0.2 * math.log(256)
    assert result["test_error"] < 10
    assert result["train_loss"] < 0.2 * math.log(256)
    assert len(result["replica_test_errors"]) == 2
    predict, params, state = models.load(run)
    tokens = np.frombuffer(b"cdefabcd", np.uint8)[None]
    assert chr(int(predict(params, state, tokens)[0, -1].argmax())) == "e"


@pytest.mark.slow
def test_a_run_on_a_text_is_restored(finished):
    run, result = finished
    loaded = load_run(run)
    assert int(loaded.state.step) == result["history"][-1]["step"]
    assert loaded.task.objective.problem.input_shape == (8,)


@pytest.mark.slow
def test_the_flatness_of_a_model_of_language_is_measured(finished, tmp_path):
    """The mean of its replicas is the model of the run."""
    run, result = finished
    command = ["flatness", str(run), "--samples", "2", "--out", str(tmp_path)]
    assert main([*command, "--no-progress"]) == 0
    (found,) = json.loads((tmp_path / "flatness.json").read_text())["runs"]
    assert found["test_error"] == pytest.approx(result["test_error"], abs=1e-3)
    soup = found["replicas"]["soup"]
    assert soup["values"]["loss"] == pytest.approx(result["test_loss"], rel=1e-4)
    alone = 100 * np.array(soup["alone"]["error"])
    assert result["replica_test_errors"] == pytest.approx(alone, abs=1e-3)
    assert found["replicas"]["barriers"]["replica 2"]["loss"] >= 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "regression"])
def test_an_interrupted_run_ends_in_the_same_bits_and_is_measured(
    kind, text, tmp_path, monkeypatch
):
    """Before it continues, the flatness of its checkpoint is measured."""
    config = TEXT.changed(dataset=text, epochs=4) if kind == "text" else LINE.changed(epochs=2)
    task, directories = make_task(config), [tmp_path / "whole", tmp_path / "stopped"]
    train_in(directories[0], config, task)
    train_and_stop(directories[1], config, task, 7, monkeypatch)
    if kind == "regression":  # texts: above
        command = ["flatness", *map(str, directories), "--trust", "--level", "quick"]
        command += ["--samples", "2", "--no-progress", "--out", str(tmp_path / "out")]
        assert main(command) == 0
        found = json.loads((tmp_path / "out" / "flatness.json").read_text())
        whole, stopped = found["runs"]
        assert whole["train_loss"] < stopped["train_loss"]
        assert len(found["merged"]["barriers"]) == 1
    train_in(directories[1], config, task)
    one, other = (load_final_model(path, trust=True) for path in directories)
    chex.assert_trees_all_equal(one.params, other.params)


@pytest.mark.slow
def test_sums_are_those_of_tokens(text):
    task = make_task(TEXT.changed(dataset=text, held_out_size=10))
    network = task.objective.network
    init = jax.jit(lambda key: network.init(key, np.zeros((1, 8), np.int32))["params"])
    params = init(jax.random.key(1))
    tokens = task.held_out.tokens.astype(np.int32)
    of_tokens = jax.jit(lambda params: network.logits({"params": params}, tokens[:, :-1]))
    logits = np.asarray(of_tokens(params))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    found = task.evaluate(params, {})
    assert found["loss"] == pytest.approx(float(np.mean(losses)), rel=1e-5)
    assert found["error"] == pytest.approx(
        float(np.mean(logits.argmax(-1) != tokens[:, 1:])), abs=1e-6
    )
    batch = data.take_batch(task.device_train, np.arange(5))
    expected = task.evaluate(params, {}, data.eval_batches(task.train[:5], None, 5))["loss"]
    loss, _ = task.objective.loss(params, {}, batch)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.slow
def test_a_network_learns_a_regression(tmp_path):
    result = train(LINE, directory=tmp_path / "run", progress=False)
    assert result["test_error"] < 25  # % of the variance
    assert result["test_error"] == pytest.approx(100 * result["test_loss"], abs=1e-3)
    predict, params, state = models.load(tmp_path / "run")
    test = line().test
    error = np.asarray(predict(params, state, test.image)) - test.label
    scale = line().train.label.std(axis=0)
    assert (np.sqrt((error**2).mean(axis=0)) < 0.6 * scale).all()
    unexplained = 100 * ((error / scale) ** 2).mean()
    assert unexplained == pytest.approx(result["test_error"], rel=0.1)  # of 80% of them


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["regression", slow("text")])
def test_runs_of_a_population_are_those_of_the_trainer(kind, text):
    """Each run has its own rate, seed and examples; they are trained in one program."""
    base = LINE.changed(epochs=4)
    if kind == "text":
        base = TEXT.changed(dataset=text, epochs=4, train_size=100, common_init=False)
    tasks = make_tasks(base, [0, 1])
    assert any((a != b).any() for a, b in zip(*(t.train.arrays for t in tasks), strict=True))
    rates, seeds = [{"learning_rate": 0.03}, {"learning_rate": 1e-4}], [0, 1]
    found = Population(base, tasks).train(rates, seeds, [0, 1], progress=False)
    losses = []
    for own, seed, task, run in zip(rates, seeds, tasks, found, strict=True):
        alone = base.changed(**own, seed=seed)
        expected = train(alone, task, progress=False, evaluate_epochs=False)
        losses.append(float(run.task.evaluate(run.params, run.batch_stats)["loss"]))
        assert losses[-1] == pytest.approx(expected["test_loss"], rel=1e-3)
        assert run.train_loss == pytest.approx(expected["history"][-1]["train_loss"], rel=1e-3)
    assert losses[0] < 0.5 * losses[1]


def test_an_ensemble_of_regressions_predicts_the_mean():
    task = make_task(LINE)
    outputs = [np.ones((3, 2)), np.full((3, 2), 2.0)]
    np.testing.assert_allclose(task.objective.problem.mean_outputs(outputs), 1.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_noise": 0.1}, "label_noise is not for data of kind text, got 0.1"),
        ({"augment": ("flip",)}, "augment is not for data of kind text"),
        ({"model": "mlp", "model_options": ()}, "images must have shape"),
    ],
)
def test_settings_that_texts_do_not_have(text, changes, message):
    with pytest.raises(ValueError, match=message):
        make_task(TEXT.changed(dataset=text, **changes))


@pytest.mark.parametrize("changes", [{"label_noise": 0.1}, {"label_smoothing": 0.1}])
def test_settings_that_regressions_do_not_have(changes):
    name = next(iter(changes))
    with pytest.raises(ValueError, match=f"{name} is not for data of kind regression"):
        make_task(LINE.changed(**changes))


def test_a_transformer_is_not_for_images():
    with pytest.raises(ValueError, match=r"tokens must have shape \(B, T\)"):
        make_task(TrainConfig.of(algorithm="sgd", model="transformer"))


def test_names_of_texts_are_no_functions():
    assert not datasets.is_function("text:notes")
    assert not datasets.is_function("tfds_text,context=3:wiki40b")
    assert datasets.is_function("texts:make")


def test_a_network_of_nan_is_right_nowhere():
    """The argmax of NaN is class 0."""
    task = make_task(TrainConfig.of(algorithm="sgd", dataset="digits"))
    logits = np.full((3, 10), np.nan)
    logits[2] = np.eye(10)[4]
    batch = {"label": np.array([0, 0, 4]), "weight": np.ones(3)}
    assert float(task.objective.problem.sums(logits, batch)["error"]) == 2
