"""The suite of benchmarks runs, and its record is what the tables and the picture are made of."""

import pathlib
import re

import numpy as np
import pytest

from experiments.benchmarks import __main__ as suite
from experiments.benchmarks import convolution, initialization, steps, suite_figure
from experiments.benchmarks.race import race
from experiments.configs.deep import row_of
from experiments.report.store import read_json

SITUATIONS = ("alone", "loop", "replicas")
RECORDS = suite.Suite().out.parent
PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "results" / "speed.md").read_text()


@pytest.mark.slow
def test_steps_are_timed_against_each_other(monkeypatch):
    monkeypatch.setitem(steps.MODELS, "mlp", steps.MODELS["mlp"]._replace(units=2))
    found = steps.Steps(models=("mlp",), batch_size=2, rounds=1, replicas=2, inner_steps=2)
    measured = found.measure()["mlp"]
    assert "Parle y=2, a gradient each / 2 plain" in measured["ratios"]
    assert all(ratio > 0 for ratio in measured["ratios"].values())
    assert all(seconds > 0 for seconds in measured["compile_seconds"].values())
    assert set(measured["compile_seconds"]) <= set(measured["milliseconds"])
    lines = steps.table({"mlp": measured}).splitlines()
    assert len(lines) == sum(map(len, measured.values())) + 3 * 2 + 2


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match=r"models must be of .* got \['vgg'\]"):
        steps.Steps(models=("vgg",))


def test_layers_are_timed_in_all_situations(monkeypatch):
    monkeypatch.setattr(convolution, "LAYERS", ((6, 2, 3, 2, 3),))
    rows = convolution.Convolution(batch_size=2, rounds=1).measure()
    situations = {f"{who}, {what}" for who in ("XLA", "flatjax") for what in SITUATIONS}
    assert set(rows[0]["seconds"]) == situations
    assert "| 6 x 6" in convolution.table(rows)


def test_the_record_is_whole(tmp_path):
    found = read_json(suite.Suite().out)
    assert set(found) == {"steps", "local-energy", "convolution"}
    text = suite.tables(found)
    for name in ("rSGD y=3: JAX / PyTorch", "local energy / forward passes", "256 to 512"):
        assert name in text
    suite_figure.draw(found, tmp_path / "suite.png")
    assert (tmp_path / "suite.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["suite", "suite_zen5"])
def test_tables_of_the_page_are_those_of_the_records(name):
    found = {part: one["found"] for part, one in read_json(RECORDS / f"{name}.json").items()}
    steps_of_both = steps.table(found["steps"]).split("\n\n")
    assert all(table in PAGE for table in steps_of_both)
    local = found["local-energy"]
    for ratio in local["mlp"]["ratios"]:
        cells = " | ".join(f"{one['ratios'][ratio]:.2f}" for one in local.values())
        assert re.search(rf"{re.escape(ratio)} *\| {re.escape(cells)}", PAGE)
    assert all(table in PAGE for table in convolution.table(found["convolution"]).split("\n\n"))


@pytest.mark.parametrize("name", ["", "_zen5"])
def test_ratios_with_memory_kept_are_those_of_the_records(name):
    found = read_json(RECORDS / f"steps_with_memory_kept{name}.json")["steps"]["found"]
    kept = {f"{model}, memory kept": one for model, one in found.items()}
    assert steps.table(kept).split("\n\n")[0] in PAGE


def test_claims_of_the_page_hold_in_the_records():
    """Both machines count where the page says so."""
    both = [
        read_json(RECORDS / f"{name}.json")["steps"]["found"] for name in ("suite", "suite_zen5")
    ]
    ratio = lambda network, name: [found[network]["ratios"][name] for found in both]
    for network in ("small_convnet", "resnet18"):
        assert max(ratio(network, "rSGD y=3 / 3 plain")) < 1
    assert max(ratio("mlp", "plain: JAX / PyTorch")) < 1
    assert min(ratio("resnet18", "plain: JAX / PyTorch")) > 1
    kept = read_json(RECORDS / "steps_with_memory_kept_zen5.json")["steps"]["found"]
    assert kept["small_convnet"]["ratios"]["plain: JAX / PyTorch"] <= 1


def test_the_first_round_of_a_race_does_not_count():
    calls = []
    times = race({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == 4 * ["a", "b"]
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}
    assert np.all(times["a"] >= 0)


@pytest.mark.slow
def test_the_initialisation_of_a_run_is_timed():
    base = row_of("cifar10-smallconvnet").base.changed(model="mlp", model_options=("hidden=(3,)",))
    found = initialization.measure(base)
    assert tuple(found) == initialization.TIMES
    assert all(seconds >= 0 for seconds in found.values())


def test_the_table_of_initialisations_is_that_of_the_record():
    record = read_json(initialization.Initialization().out)["found"]
    assert initialization.table(record) in PAGE
    assert record["cifar10-pyramidnet"]["compile"] < 30
