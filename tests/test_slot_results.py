"""What the chapter on deep networks says of runs on an accelerator, computed from their records."""

import pathlib
import re

import numpy as np
import pytest
import scipy.stats
from pages import rows_below

from experiments.configs.deep import row_of
from experiments.engine.config import TrainConfig
from experiments.report import store
from experiments.slot import queue
from experiments.studies.reproduce import slots

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "results" / "deep_networks.md"
TEXT = PAGE.read_text()
ROW = "cifar10-smallconvnet"
LABELS = ("SGD", "eSGD", "rSGD", "SWA")
RECORDS = store.read_lines(slots.DIRECTORY / "runs.jsonl", must_be_sealed=True)


def errors(label):
    return np.array([run["test_error"] for run in slots.best_record(ROW, label)["runs"]])


def test_table_of_the_small_network():
    expected = [line.split("|") for line in slots.table(ROW, row_of(ROW).reported).splitlines()]
    expected = {cells[1].strip(): [cell.strip() for cell in cells[1:-1]] for cells in expected}
    found = rows_below(TEXT, "| algorithm | seeds |")
    assert [cells[0] for cells in found] == list(LABELS)
    assert found == [expected[label] for label in LABELS]


def test_errors_of_each_seed():
    found = rows_below(TEXT, "| algorithm | 0 ")
    assert found == [[label, *(f"{error:.2f}" for error in errors(label))] for label in LABELS]
    assert [run["seed"] for run in slots.best_record(ROW, "SGD")["runs"]] == [0, 1, 2, 3, 4]


def test_summary_of_the_small_network():
    words = " ".join(TEXT.split())
    means = {label: errors(label).mean() for label in LABELS}
    assert f"SGD has a test error of {means['SGD']:.2f} %" in words
    worse = [means[label] - means["SGD"] for label in ("eSGD", "rSGD")]
    assert f"Entropy-SGD tests worse than SGD there, by {worse[0]:.2f} points" in words
    p = [scipy.stats.ttest_rel(errors(label), errors("SGD")).pvalue for label in ("eSGD", "rSGD")]
    assert p[0] < 0.001
    assert f"is behind by {worse[1]:.2f}, which may be chance (p = {p[1]:.3f})" in words
    assert p[1] > 0.05
    reported = {label: float(value.split()[0]) for label, value in row_of(ROW).reported.items()}
    better = [reported["SGD"] - reported[label] for label in ("eSGD", "rSGD")]
    assert f"that they test better, by {better[0]:.1f} and {better[1]:.1f} points" in words
    paper, its_error = map(float, row_of(ROW).reported["SGD"].split(" ± "))
    own_error = errors("SGD").std(ddof=1) / np.sqrt(len(errors("SGD")))
    assert abs(means["SGD"] - paper) < 2 * np.hypot(its_error, own_error)
    runs = lambda label: slots.best_record(ROW, label)["runs"]
    energy = {label: np.array([run["local_energy"][2] for run in runs(label)]) for label in LABELS}
    for label in ("eSGD", "rSGD"):
        assert scipy.stats.ttest_rel(energy[label], energy["SGD"]).pvalue > 0.05
    assert scipy.stats.ttest_rel(energy["SWA"], energy["SGD"]).pvalue < 0.01
    assert min(LABELS, key=lambda label: energy[label].mean()) == "SWA"
    assert scipy.stats.ttest_rel(errors("SWA"), errors("SGD")).pvalue > 0.05


def test_candidates_of_the_recipe():
    alone = {one["label"]: one["runs"] for one in RECORDS if len(one["runs"]) == 1}
    reported = float(row_of(ROW).reported["SGD"].split()[0])
    found = rows_below(TEXT, "| candidate ")
    for label, error, distance in found:
        value = alone[label][0]["test_error"]
        assert (error, distance) == (f"{value:.2f}", f"{value - reported:+.2f}")
    assert {cells[0] for cells in found} == set(alone)
    assert min(found, key=lambda cells: abs(float(cells[2])))[0] == "SGD"


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["unit"])
def test_runs_have_the_settings_of_their_row(record):
    unit = queue.Unit(record["row"], record["label"], tuple(r["seed"] for r in record["runs"]))
    assert unit.key == record["unit"]
    expected = queue.config_of(unit, record["config"]["dataset"])
    assert TrainConfig.from_json(record["config"]) == expected
    assert record["data"]["train"] == {"examples": 50_000, "crc32": slots.JPEG_IMAGES}
    assert record["device"] == "gpu, NVIDIA H200"


def test_replicas_meet_late():
    points = store.read_lines(slots.DIRECTORY / "curves.jsonl", must_be_sealed=True)
    own = [one for one in points if one["unit"] == f"{ROW}, rSGD, seeds 0-4"]
    first = min(one["done"] for one in own)
    center = next(one for one in own if one["done"] == first and one["seed"] == 0)
    assert center["train_error"] > 89  # chance is 90
    half = [one["distance"] for one in own if one["done"] == 0.5]
    assert len(half) == 5
    assert min(half) > 0.1
    last = [one["distance"] for one in own if one["done"] == 1]
    assert max(last) < 1e-4


def test_times_of_five_seeds():
    seconds = [one["seconds"] for one in RECORDS if one["label"] in LABELS[:3]]
    low, high = re.search(r"took (\d+) to (\d+) s for 100 epochs", " ".join(TEXT.split())).groups()
    together = sorted(seconds)[-3:]
    assert (int(low), int(high)) == (round(together[0]), round(together[-1]))


def test_curves_are_drawn(tmp_path):
    slots.draw_curves(ROW, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5_000
    with pytest.raises(ValueError, match="has been run in a slot"):
        slots.draw_curves("cifar10-resnet18", tmp_path / "other.png")
