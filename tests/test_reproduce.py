"""The rows of the paper's table: their settings, a reduced run, the list with its states."""

import dataclasses
import importlib
import json
import re

import numpy as np
import pytest
from fast import only

from experiments import __main__ as command_line
from experiments.commands import reproduce as command
from experiments.configs.comparisons import study_of
from experiments.configs.deep import ROWS, row_of
from experiments.report import store
from experiments.studies.reproduce import costs, report, slots
from experiments.studies.reproduce.run import reproduce
from flatjax import models
from flatjax.models._network import Network, make_network


@pytest.mark.parametrize("name", ROWS)
def test_rows_compare_at_equal_gradients_whole_and_reduced(name):
    row = row_of(name)
    assert set(row.reported) <= set(row.runs)
    for study in (row, row.reduced("digits")):
        for label, config in study.configs().items():
            factor = int(label.split(" x ")[1]) if " x " in label else 1
            np.testing.assert_allclose(config.epochs, factor * study.base.epochs)
    for label, grid in row.grids.items():
        for candidate in study_of(name).candidates(label):
            study_of(name).configs()[label].changed(**candidate)
        for field, values in grid.items():  # what was chosen is one of the candidates
            assert row.configs()[label].flat()[field] in values
    header = importable(name).__doc__
    assert f"python -m experiments reproduce {name}" in header
    for label, value in row.reported.items():
        assert f"{label} {value}" in " ".join(header.split())


def importable(name):
    return importlib.import_module(f"experiments.configs.deep.{name.replace('-', '_')}")


@pytest.mark.parametrize("name", only(["cifar10-resnet18", "cifar10-resnet110"], ROWS))
def test_reduced_networks_are_small_members_of_the_family(name):
    base = row_of(name).reduced("digits").base
    network = make_network(base.network.model, base.network.model_options, 10, (32, 32, 3))
    whole = models.create(base.network.model, 10)
    assert type(network.module) is type(whole)


@pytest.mark.parametrize("name", ROWS)
def test_variants_as_published_have_the_force_and_the_decay_of_the_paper(name):
    row = row_of(name)
    if not row.reported:
        return
    published = row.with_runs(["rSGD, as published"]).configs()["rSGD, as published"]
    nominal = row.configs()["rSGD"]
    assert not published.algorithm.decoupled
    assert nominal.algorithm.decoupled
    decays = (published.optimizer.weight_decay, nominal.optimizer.weight_decay)
    np.testing.assert_allclose(decays[0], published.num_replicas * decays[1])
    assert row.baseline_of("rSGD, as published") == row.reported["rSGD"]
    assert "as published" in importable(name).__doc__
    assert "ours:" in importable(name).__doc__


def test_resnet18_is_trained_without_augmentation_and_variants_are_asked_for():
    row = row_of("cifar10-resnet18")
    assert row.base.data.augment == ()
    augmented = row.with_runs(["SGD, flip and crop"]).configs()["SGD, flip and crop"]
    assert augmented.data.augment == ("flip", "crop")
    assert augmented.optimizer.schedule == "cosine"
    assert "SGD, flip and crop" not in row.configs()
    with pytest.raises(ValueError, match="only must hold labels"):
        row.with_runs(["SGD, twice"])


def test_an_unknown_row_is_refused(capsys):
    with pytest.raises(ValueError, match="cifar10-resnet18"):
        row_of("cifar10-resnet19")
    assert command_line.main(["reproduce"]) == 1
    assert "--table" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cifar10-smallconvnet", "cifar10-resnet18"])
def test_rows_run_from_a_folder_of_images_within_a_time_limit(name, monkeypatch):
    calls = []
    record = lambda study, out, **options: calls.append((study, options)) or 0
    monkeypatch.setattr(command, "reproduce", record)
    options = ["--dataset", "folder:images", "--only", "SGD", "--time-limit", "9m"]
    assert command_line.main(["reproduce", name, *options]) == 0
    ((study, options),) = calls
    (config,) = study.configs().values()
    assert config == row_of(name).configs()["SGD"].changed(dataset="folder:images")
    assert study.seeds == row_of(name).seeds
    assert 500 < options["limit"].left <= 540


@pytest.mark.slow
def test_a_reduced_row_runs_restores_and_is_listed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "cifar10-smallconvnet"
    study = row_of(name).reduced("digits")
    options = ("features=(4,)", "hidden=(8,)", "batch_norm=True")
    base = study.base.changed(
        model_options=options,
        train_size=200,
        held_out_size=100,
        epochs=4.0,
        local_energy_examples=100,
    )
    study = dataclasses.replace(study, base=base, runs={"rSGD": {"algorithm": "rsgd"}})
    out = report.default_directory(name, reduced=True)
    assert reproduce(study, out, reduced=True, progress=False) == 0
    found = json.loads((out / "reduced.json").read_text())["rSGD"]
    assert found["restored_test_error"] == found["test_error"]
    assert 0 <= found["test_error_averaged_statistics"] <= 100
    history = json.loads((out / "rsgd" / "seed-0" / "result.json").read_text())["history"]
    assert "test_error_averaged_statistics" in history[0]
    assert "with averaged batch statistics" in capsys.readouterr().out
    assert (out / "batch_statistics.png").stat().st_size > 5_000
    assert command_line.main(["reproduce", "--table"]) == 0
    shown = capsys.readouterr().out.splitlines()
    line = next(line for line in shown if "SmallConvNet" in line and " rSGD " in line)
    assert f"{found['first_loss']:.2f} → {found['last_loss']:.2f}" in line
    assert "15.6 ± 0.3" in line
    lines = sum(len(row_of(name).runs) for name in ROWS)
    lines += sum(
        bool(slots.summary_of(name, one)) for name in ROWS for one in row_of(name).variants
    )
    assert [line.startswith("|") for line in shown[: lines + 3]] == [True] * (lines + 2) + [False]
    assert "- cifar10-resnet18: SGD, as published; rSGD, as published;" in "\n".join(shown)
    assert any("ResNet-18" in line and "waiting" in line for line in shown)


def test_operations_of_a_dense_layer_are_counted():
    # Forward, and backward to the kernel: two products of 2 x 64 x 10 for each image.
    network = Network(models.create("mlp", 10, hidden=()))
    found = costs.flops_per_example(network, (8, 8, 1))
    products = 2 * 2 * 64 * 10
    assert products <= found < 1.2 * products


def test_hours_follow_from_operations():
    found = report.hours(row_of("cifar10-resnet18"), "rSGD x 3", 1e9, gflops=2000.0)
    np.testing.assert_allclose(found, 300 * 50_000 * 1e9 / 2e12 / 3600)


def test_headers_state_the_hours_of_the_table():
    for line in report.table(ROWS, teraflops=20.0).splitlines()[2:]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        title, label, here, there = cells[0], cells[1], cells[3], cells[-1]
        assert here == "waiting" or re.match(r"run here: \d+\.\d\d", here), line
        name = next(name for name in ROWS if row_of(name).title == title)
        stated = re.search(r"hours: +(\S+) a run at 20 TFLOP/s", importable(name).__doc__)
        if name == "fashion-mnist-resnet8":
            assert stated is None  # runs on a CPU
        elif label == "SGD":
            assert float(stated[1]) == float(there), name


def test_hours_on_an_accelerator_are_those_of_a_measured_speed(tmp_path, monkeypatch):
    """A slot's speed of ResNet-18 replaces the assumed 20 TFLOP/s."""
    monkeypatch.setattr(slots, "DIRECTORY", tmp_path)
    speed = {"images a second": 25_000.0, "GFLOP an image": 3.05}
    store.append_line(tmp_path / "speed.jsonl", {"part": "steps, ResNet-18, bfloat16"} | speed)
    rows = {"cifar10-resnet18": row_of("cifar10-resnet18")}
    header, _, first, *_ = report.table(rows).splitlines()
    assert "hours at 76.25 TFLOP/s" in header
    own = costs.read_costs()["cifar10-resnet18"].flops_per_example
    hours = report.hours(rows["cifar10-resnet18"], "SGD", own, gflops=76_250)
    np.testing.assert_allclose(float(first.strip("| ").split("|")[-1]), hours, rtol=0.05)


@pytest.mark.slow
def test_recorded_costs_are_of_these_networks():
    recorded = costs.read_costs()
    assert set(recorded) <= set(ROWS)
    name = "fashion-mnist-resnet8"
    row = row_of(name)
    network = make_network(row.base.network.model, row.base.network.model_options, 10, (28, 28, 1))
    np.testing.assert_allclose(
        costs.flops_per_example(network, (28, 28, 1)), recorded[name].flops_per_example, rtol=0.05
    )
