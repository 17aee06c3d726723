"""Barriers and means of saved networks: replicas of a run, several runs, files of others."""

import json
import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from experiments.__main__ import main
from experiments.engine.config import TrainConfig
from experiments.engine.train import train
from experiments.studies.flatness.files import Description, load_network
from experiments.studies.flatness.merging import merge
from flatjax import data, models

BASE = TrainConfig.of(
    **{"algorithm": "rsgd", "replicas": 2, "gamma": 1e-4, "common_init": True},
    **{"dataset": "digits", "model": f"{__name__}:Normed", "train_size": 200, "validation": 0.0},
    **{"epochs": 4, "batch_size": 40, "learning_rate": 0.05},
    **{"local_energy_samples": 2, "local_energy_examples": 100, "sigmas": (0.3,)},
)
QUICK = ["--level", "quick", "--samples", "2", "--no-progress"]


class Normed(nn.Module):
    """A network with batch norm before its only nonlinearity."""

    @nn.compact
    def __call__(self, images, train):
        """Ten logits."""
        h = nn.Dense(12)(images.reshape(len(images), -1))
        return nn.Dense(10)(nn.relu(nn.BatchNorm(not train, momentum=0.9)(h)))


def arrays(tree):
    """The arrays of a tree by path, in double precision."""
    return {name: np.asarray(leaf, float) for name, leaf in flatten_dict(tree, sep="/").items()}


def loss_by_hand(w, batches, of):
    """Mean cross-entropy, with the statistics that weights have on the batches `of`."""
    flat = lambda batch: np.reshape(np.asarray(batch["image"], float), (len(batch["image"]), -1))
    first = lambda batch: flat(batch) @ w["Dense_0/kernel"] + w["Dense_0/bias"]
    mean, var = (np.mean([moment(first(one), 0) for one in of], 0) for moment in (np.mean, np.var))
    total = count = 0
    for batch in batches:
        h = (first(batch) - mean) / np.sqrt(var + 1e-5)
        h = np.maximum(h * w["BatchNorm_0/scale"] + w["BatchNorm_0/bias"], 0)
        logits = h @ w["Dense_1/kernel"] + w["Dense_1/bias"]
        label, weight = np.asarray(batch["label"]), np.asarray(batch["weight"])
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), label]
        total, count = total + weight @ losses, count + weight.sum()
    return total / count


@pytest.mark.slow
def test_batch_statistics_are_those_of_every_point():
    how = load_network(Description(f"{__name__}:Normed", (), "digits", 200, False)).evaluation
    images = how.train_batches[0]["image"]
    init = jax.jit(lambda key: Normed().init(key, images, True))
    first, second = (init(jax.random.key(number)) for number in (0, 1))
    state = {"batch_stats": first["batch_stats"]}
    networks = {"a": first["params"], "b": second["params"], "c": first["params"]}
    found = merge(how, networks, state)
    assert [*found.barriers] == ["b"]  # c equals a
    whole = [batch for batch in how.train_batches if batch["weight"].all()]
    assert len(whole) < len(how.train_batches)
    a, b = (arrays(networks[name]) for name in "ab")
    at = lambda t: {name: (1 - t) * a[name] + t * b[name] for name in a}
    values = found.barriers["b"].values["loss"]
    for place in (0, 5, 10):
        expected = loss_by_hand(at(place / 10), how.train_batches, whole)
        assert values[place] == pytest.approx(expected, rel=1e-4)
    mean = loss_by_hand(at(1 / 3), how.held_out_batches, whole)
    assert found.soup.values["loss"] == pytest.approx(mean, rel=1e-4)
    alone = [loss_by_hand(one, how.held_out_batches, whole) for one in (a, b, a)]
    np.testing.assert_allclose(found.soup.alone["loss"], alone, rtol=1e-4)
    assert found.ensemble is None
    assert json.loads(json.dumps(found.as_json()))["soup"]["members"] == ["a", "b", "c"]


@pytest.mark.slow
def test_replicas_and_runs_are_merged(tmp_path, capsys):
    """Means and ensembles of replicas are those of the record that training wrote."""
    config = BASE
    results = [train(config, directory=tmp_path / "rsgd", progress=False)]
    config = BASE.changed(algorithm="sgd", seed=1)
    results.append(train(config, directory=tmp_path / "sgd", progress=False))
    shutil.copytree(tmp_path / "rsgd", tmp_path / "old")
    shutil.rmtree(tmp_path / "old" / "checkpoints")
    runs = [str(tmp_path / name) for name in ("rsgd", "sgd")]
    out = tmp_path / "out"
    assert main(["flatness", *runs, "--trust", "--out", str(out), *QUICK]) == 0
    printed = capsys.readouterr().out
    found = json.loads((out / "flatness.json").read_text())
    replicas, result = found["runs"][0]["replicas"], results[0]
    assert "replicas" not in found["runs"][1]
    assert [*replicas["barriers"]] == ["replica 2"]
    in_percent = lambda fractions: pytest.approx(100 * np.array(fractions), abs=1e-3)
    assert result["test_error"] == in_percent(replicas["soup"]["values"]["error"])
    assert result["replica_test_errors"] == in_percent(replicas["soup"]["alone"]["error"])
    assert result["ensemble_test_error"] == in_percent(replicas["ensemble_error"])

    merged = found["merged"]
    (name, barrier), *_ = merged["barriers"].items()
    assert name.endswith("/sgd")
    assert [one["test_error"] for one in results] == in_percent(merged["soup"]["alone"]["error"])
    assert barrier["loss"] > 2 * max(0.0, replicas["barriers"]["replica 2"]["loss"])
    assert f"The barrier between {name} and " in printed
    assert "The soup of " in printed
    assert f"The ensemble of their predictions: error {merged['ensemble_error']:.4g}" in printed
    assert "| replicas of" in printed

    # Without checkpoints, replicas are unknown. A copy has no barrier.
    runs = [str(tmp_path / name) for name in ("rsgd", "old")]
    assert main(["flatness", *runs, "--trust", "--out", str(out), *QUICK]) == 0
    found = json.loads((out / "flatness.json").read_text())
    assert ["replicas" in one for one in found["runs"]] == [True, False]
    assert f"the replicas of {runs[1]} are not measured" in capsys.readouterr().err
    assert found["merged"]["barriers"] == {}


def numbers():
    """A regression: two sums of three numbers, far from 0."""
    x = np.random.default_rng(0).normal(size=(200, 3))
    y = 100 + 10 * x @ np.array([[1.0, 0], [0, 1], [1, -1]])
    return data.from_arrays((x, y), test=40, task="regression")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["regression", "text"])
def test_files_of_other_kinds_of_networks_are_measured(kind, tmp_path, capsys):
    """Errors are those that are computed by hand from the arrays."""
    if kind == "regression":
        dataset, options = f"{__name__}:numbers", ("hidden=()",)
        network, inputs = models.create("mlp", 2, hidden=()), np.zeros((1, 1, 3, 1))
    else:
        (tmp_path / "abc.txt").write_text("abcabd" * 200)
        dataset = f"text,context=6,test=0.2:{tmp_path / 'abc.txt'}"
        options = ("width=8", "depth=1", "heads=1", "context=6")
        network = models.create("transformer", 256, width=8, depth=1, heads=1, context=6)
        inputs = np.zeros((1, 6), np.int32)
    init = jax.jit(lambda key: network.init(key, inputs, train=False)["params"])
    apply = jax.jit(lambda params, inputs: network.apply({"params": params}, inputs, train=False))
    every = [init(jax.random.key(i)) for i in (0, 1)]
    for number, params in enumerate(every):
        np.savez(tmp_path / f"{number}.npz", **flatten_dict(params, sep="/"))
    files = [str(tmp_path / f"{number}.npz") for number in (0, 1)]
    name = "mlp" if kind == "regression" else "transformer"
    command = ["flatness", "--model", name, "--model-options", *options, "--params", *files]
    command += ["--dataset", dataset, "--examples", "64", "--images", "scaled"]
    assert main([*command, "--out", str(tmp_path / "out"), *QUICK]) == 0
    found = json.loads((tmp_path / "out" / "flatness.json").read_text())

    def error_of(params):
        if kind == "regression":
            split = numbers()
            outputs = np.asarray(apply(params, split.test.image))
            return np.mean(((outputs - split.test.label) / split.train.label.std(0)) ** 2)
        tokens = data.load_text(dataset).test.tokens.astype(np.int32)
        logits = np.asarray(apply(params, tokens[:, :-1]))
        return np.mean(np.argmax(logits, -1) != tokens[:, 1:])

    for params, one in zip(every, found["runs"], strict=True):
        assert one["test_error"] == pytest.approx(100 * float(error_of(params)), rel=1e-3)
    assert found["merged"]["barriers"].keys() == {"1.npz"}
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *every)
    soup = found["merged"]["soup"]["values"]["error"]
    assert soup == pytest.approx(float(error_of(mean)), rel=1e-3)
