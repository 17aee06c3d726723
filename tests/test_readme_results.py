"""README's table of results, recomputed from the records of each run."""

import pathlib

import numpy as np
import pytest
from contest_records import records_in
from pages import rows_below

from experiments.configs.contest import PAPER, STUDY
from experiments.report import store
from experiments.report.statistics import paired_difference
from experiments.studies.reproduce import slots

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
ROWS = {question: answer for question, answer, _ in rows_below(README, "| question | result |")}
FEW_NOISY, NOISY = "MLP, 500, 20% noise", "MLP, 2k, 20% noise"
MIDDLE = "MLP, 2k, clean"
MANY_NOISY, CONV_NOISY = "MLP, 10k, 20% noise", "conv net, 2k, 20% noise"


def row(words):
    (found,) = [answer for question, answer in ROWS.items() if words in question]
    return found


def interval(low, high):
    return f"[{low:+.2f}, {high:+.2f}]"


def difference(values, others):
    mean, ends, _ = paired_difference(values, others)
    return f"{mean:+.2f} {interval(*ends)}"


def errors_in_contest(setting, algorithm):
    records = records_in(store.RESULTS / "contest", setting, algorithm)
    return np.array([records[seed]["test_error"] for seed in sorted(records)])


@pytest.mark.claim("README.md", "98% of 131 test errors are within three standard errors")
def test_theory_and_simulation():
    rows = store.read_json(store.RESULTS / "gaussian-mixture" / "comparison.json")["rows"]
    # z is not stored: it is the distance of the mean from the theory in standard errors.
    pairs = [(r["mean"] - r["theory"], r["sem"]) for r in rows if "test_error" in r["quantity"]]
    within = np.mean([abs(distance) <= 3 * sem for distance, sem in pairs])
    assert f"{within:.0%} of {len(pairs)} test errors" in row("theory and simulation")


@pytest.mark.claim("README.md", "Entropy-SGD does on a small MLP with 500 or 2,000 images")
@pytest.mark.claim("README.md", "20% wrong labels: **better**")
def test_contest():
    errors = errors_in_contest
    to_sgd = lambda name, setting: difference(errors(setting, name), errors(setting, "sgd"))
    few, more = (to_sgd("esgd", setting) for setting in (FEW_NOISY, NOISY))
    found = row("Entropy-SGD beat tuned SGD")
    assert f"**better**, {few} with 500 images and {more} with 2,000" in found
    assert f"**better** with 500 images, {to_sgd('rsgd', FEW_NOISY)}" in row("Does Repl")
    assert f"**worse** with 10,000, {to_sgd('rsgd', MANY_NOISY)}" in row("Does Repl")
    assert f"**worse**, {to_sgd('esgd', CONV_NOISY)}" in found
    assert f"**better** with 2,000 images, {to_sgd('esgd', MIDDLE)}, **not better**" in found
    assert f"conv net: **undecided**, {to_sgd('rsgd', CONV_NOISY)}" in row("Does Repl")
    gains = [(errors(NOISY, name) - errors(NOISY, "esgd")).mean() for name in ("sam", "swa")]
    said = row("beat tuned SAM and SWA")
    assert f"20% wrong labels, by {gains[0]:.2f} and {gains[1]:.2f}" in said
    rows = store.read_json(store.RESULTS / "contest" / "contest.json")["comparisons"]
    ends = {
        (one["setting"], one["contestant"], one["reference"]): one["corrected_interval"]
        for one in rows
        if one["quantity"] == "test_error"
    }
    settings = {setting for setting, *_ in ends}
    clean = [setting for setting in settings if setting.endswith("clean")]
    level = [(name, setting) for name in STUDY.primary for setting in clean]
    level.remove(("esgd", MIDDLE))
    level += [("esgd", MANY_NOISY), ("rsgd", NOISY), ("rsgd", CONV_NOISY)]
    for name, setting in level:
        low, high = ends[setting, name, "sgd"]
        assert low < 0 < high
    assert ends[MANY_NOISY, "rsgd", "sgd"][0] > 0
    assert ends[MIDDLE, "esgd", "sgd"][1] < 0
    assert ends[CONV_NOISY, "esgd", "sgd"][0] > 0
    for setting in settings - {NOISY}:  # one of SAM and SWA is ahead of both or level
        assert all(
            any(ends[setting, name, other][1] > 0 for other in ("sam", "swa"))
            for name in STUDY.primary
        )
    assert all(ends[NOISY, "esgd", other][1] < 0 for other in ("sam", "swa"))


@pytest.mark.claim("README.md", "With wrong labels and one weight decay for all, as in the paper")
@pytest.mark.claim("README.md", "at one weight decay for all, as in the paper")
def test_fixed_weight_decay():
    found = row("at one weight decay for all")
    clean, noisy, noisier = PAPER.settings
    to = lambda other, name, setting: difference(
        errors_in_contest(setting, name), errors_in_contest(setting, other)
    )
    by = {(name, s): to("sgd", name, s) for name in PAPER.primary for s in PAPER.settings}
    said = f"Replicated-SGD {by['rsgd', noisier]}, Entropy-SGD {by['esgd', noisier]}"
    assert f"40% wrong labels: both **better**, {said}" in found
    assert f"20%: both **better**, {by['rsgd', noisy]} and {by['esgd', noisy]}" in found
    assert f"Entropy-SGD **better**, {by['esgd', clean]}" in found
    small = [to("sgd, small rates", name, noisier).split()[0] for name in ("rsgd", "esgd")]
    assert " and ".join(small).replace("-", "") + " with 40%" in found
    rows = store.read_json(store.RESULTS / "contest" / "paper.json")["comparisons"]
    ends = {
        (one["setting"], one["contestant"]): one["corrected_interval"]
        for one in rows
        if one["family"] == "primary"
    }
    assert len(ends) == 6
    published = to("sgd", "esgd, as published", noisier)
    assert float(published.split()[0]) > 5
    (row_of_published,) = [
        one
        for one in rows
        if (one["setting"], one["contestant"]) == (noisier, "esgd, as published")
        if (one["quantity"], one["reference"]) == ("test_error", "sgd")
    ]
    assert row_of_published["corrected_interval"][0] > 0
    assert "In the paper's own form, Entropy-SGD is **worse** with 40% wrong labels" in found
    low, high = ends.pop((clean, "rsgd"))
    assert low < 0 < high
    assert all(high < 0 for _, high in ends.values())


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
    assert f"Entropy-SGD **worse**, {found[0]}, Replicated-SGD **undecided**, {found[1]}" in said


@pytest.mark.claim("README.md", "local energy in three tasks of three")
def test_flatness():
    path = store.RESULTS / "flatness-study" / "flatness_study.json"
    rankings = store.read_json(path)["rankings"]
    local = [ranking["local_energy"] for ranking in rankings.values()]
    shown = [f"{one['granulated']:+.2f} {interval(*one['granulated_interval'])}" for one in local]
    assert f"τ = {shown[0]}, {shown[1]} and {shown[2]}" in row("predicts the test error")
    assert len(local) == 3
    assert all(one["granulated_interval"][0] > 0 for one in local)
    path = store.RESULTS / "matched-flatness" / "matched_flatness.json"
    taus = store.read_json(path)["taus"]
    matched = {name: found["within"]["local_energy"]["test_error"] for name, found in taus.items()}
    conv_net = matched["conv net"]
    found = f"τ = {conv_net['value']:+.2f} {interval(*conv_net['interval'])}, and not on MLPs"
    assert found in row("predicts the test error")
    assert [name for name, tau in matched.items() if tau["is_clear"]] == [
        "conv net",
        "conv net, batch norm",
    ]
