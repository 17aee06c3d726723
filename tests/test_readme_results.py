"""README's table of results, recomputed from the records of each run."""

import pathlib

import numpy as np
import pytest
from contest_records import records_in
from pages import rows_below

from experiments.configs.contest import STUDY
from experiments.report import store
from experiments.report.statistics import paired_difference
from experiments.studies.reproduce import slots

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
ROWS = {question: answer for question, answer, _ in rows_below(README, "| question | result |")}
SETTING = "MLP, 2k, 20% noise"


def row(words):
    (found,) = [answer for question, answer in ROWS.items() if words in question]
    return found


def interval(low, high):
    return f"[{low:+.2f}, {high:+.2f}]"


def difference(values, others):
    mean, ends, _ = paired_difference(values, others)
    return f"{mean:+.2f} {interval(*ends)}"


def errors_in_contest(algorithm):
    records = records_in(store.RESULTS / "contest", SETTING, algorithm)
    return np.array([records[seed]["test_error"] for seed in sorted(records)])


@pytest.mark.claim("README.md", "98% of 131 test errors are within three standard errors")
def test_theory_and_simulation():
    rows = store.read_json(store.RESULTS / "gaussian-mixture" / "comparison.json")["rows"]
    # z is not stored: it is the distance of the mean from the theory in standard errors.
    pairs = [(r["mean"] - r["theory"], r["sem"]) for r in rows if "test_error" in r["quantity"]]
    within = np.mean([abs(distance) <= 3 * sem for distance, sem in pairs])
    assert f"{within:.0%} of {len(pairs)} test errors" in row("theory and simulation")


@pytest.mark.claim("README.md", "and better than SAM by")
def test_contest():
    esgd, sgd = errors_in_contest("esgd"), errors_in_contest("sgd")
    said = row("Entropy-SGD beat tuned SGD")
    assert f"**better**, {difference(esgd, sgd)}" in said
    gains = [(errors_in_contest(name) - esgd).mean() for name in ("sam", "swa")]
    assert f"better than SAM by {gains[0]:.2f} and SWA by {gains[1]:.2f}" in said
    assert f"**level** in error, {difference(errors_in_contest('rsgd'), sgd)}" in row("Does Repl")
    outcomes = store.read_json(store.RESULTS / "contest" / "contest.json")["outcomes"]
    complete = {row["setting"] for row in outcomes if row["contestant"] in STUDY.primary}
    assert complete == {SETTING}
    assert "One of its ten settings is complete" in README


@pytest.mark.claim("README.md", "library's defaults, untuned, on CIFAR-10")
def test_cifar10():
    errors = {
        label: np.array(
            [r["test_error"] for r in slots.best_record("cifar10-smallconvnet", label)["runs"]]
        )
        for label in ("SGD", "eSGD", "rSGD")
    }
    found = [difference(errors[label], errors["SGD"]) for label in ("eSGD", "rSGD")]
    said = row("CIFAR-10")
    assert f"Entropy-SGD {found[0]}, Replicated-SGD {found[1]}" in said


@pytest.mark.claim("README.md", "local energy in three tasks of three")
def test_flatness():
    path = store.RESULTS / "flatness-study" / "flatness_study.json"
    rankings = store.read_json(path)["rankings"]
    local = [ranking["local_energy"] for ranking in rankings.values()]
    shown = [f"{one['granulated']:+.2f} {interval(*one['granulated_interval'])}" for one in local]
    assert f"τ = {shown[0]}, {shown[1]} and {shown[2]}" in row("predicts the test error")
    assert len(local) == 3
    assert all(one["granulated_interval"][0] > 0 for one in local)
