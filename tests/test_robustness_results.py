"""What the chapter on robustness says, computed from the records of each network."""

import json
import pathlib

import numpy as np
import pytest
from contest_records import noisy_contest
from pages import rows_below, shown

from experiments.configs.robustness import STUDY
from experiments.report import store
from experiments.report.ranking import Tau
from experiments.report.statistics import mean_and_sem
from experiments.studies.robustness.description import OUTCOMES, PREDICTORS
from experiments.studies.robustness.report import is_used, rank_group
from experiments.studies.robustness.run import read_study
from experiments.studies.solutions import path_of
from flatjax.flatness import kendall_tau

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "results" / "robustness.md"
TEXT = PAGE.read_text()
WORDS = " ".join(TEXT.split())
RECORDS = store.RESULTS / "robustness"
STORED = store.read_json(RECORDS / "robustness.json")
NOISY, CLEAN = STUDY.groups
ALGORITHMS = ("sgd", "sam", "swa", "rsgd", "esgd")


def lines_of(group):
    """{algorithm: records} of a group, read without the code under test."""
    return {
        name: [json.loads(line) for line in path_of(RECORDS, group, name).read_text().splitlines()]
        for name in ALGORITHMS
    }


def used_of(group):
    """The solutions that take part in the ranks."""
    return [r for own in lines_of(group).values() for r in own if is_used(r, STUDY.collapsed)]


# --- the algorithms -------------------------------------------------------------------------------


def at_the_choice(algorithm):
    records = [r for r in lines_of(NOISY)[algorithm] if set(r["factors"].values()) == {1.0}]
    assert sorted(record["seed"] for record in records) == list(range(3000, 3006))
    return records


def rises_of(algorithm):
    names = ("4 bits, tensor", "3 bits, tensor", "70% pruned", "90% pruned")
    records = at_the_choice(algorithm)
    return [
        *(shown(noisy_contest(algorithm, name)[1]) for name in names),
        shown([record["rises"]["100 steps"]["error"] for record in records]),
        shown([record["second_task"]["100 steps"] for record in records]),
    ]


def test_rises_of_the_algorithms():
    table = rows_below(TEXT, "| algorithm | 4 bits ")
    assert table == [[algorithm, *rises_of(algorithm)] for algorithm in ALGORITHMS]


PREDICTOR_COLUMNS = {
    "local energy %": "local_energy",
    "SAM sharpness": "sam",
    "coefficient λ": "learning_coefficient",
    "norm": "norm",
    "outliers": "outliers",
}


def predictors_of(algorithm):
    records = at_the_choice(algorithm)
    columns = [[r["predictors"][name] for r in records] for name in PREDICTOR_COLUMNS.values()]
    digits = (2, 4, 1, 2, 2)
    return [
        f"{mean:.{d}f} ± {sem:.{d}f}"
        for (mean, sem), d in zip(map(mean_and_sem, columns), digits, strict=True)
    ]


def test_predictors_of_the_algorithms():
    table = rows_below(TEXT, "| algorithm | local energy % ")
    assert table == [[algorithm, *predictors_of(algorithm)] for algorithm in ALGORITHMS]


def test_larger_weights_move_less():
    moved = lambda name: np.mean([r["moved"]["100 steps"] for r in at_the_choice(name)])
    esgd, rsgd, sgd = (f"{100 * moved(name):.0f}%" for name in ("esgd", "rsgd", "sgd"))
    assert f"by {esgd} and {rsgd} of their norm, and SGD's by {sgd}" in WORDS
    mean = lambda name, read: np.mean([read(record) for record in at_the_choice(name)])
    forgotten = {
        name: mean(name, lambda r: r["rises"]["100 steps"]["error"]) for name in ALGORITHMS
    }
    assert sorted(forgotten, key=forgotten.get)[:2] == ["esgd", "rsgd"]
    taus = []
    for group in (NOISY, CLEAN):
        records = used_of(group)
        change = [r["moved"]["100 steps"] for r in records]
        taus.append(kendall_tau(change, [r["rises"]["100 steps"]["error"] for r in records]))
    assert f"(τ = {taus[0]:+.2f} and {taus[1]:+.2f})" in WORDS
    outliers = {name: mean(name, lambda r: r["predictors"]["outliers"]) for name in ALGORITHMS}
    few, many = min(outliers, key=outliers.get), max(outliers, key=outliers.get)
    assert (few, many) == ("esgd", "sam")
    ratio = lambda name: f"{outliers[name]:.2f} is a ratio of {np.exp(outliers[name]):.1f}"
    assert f"Entropy-SGD's {ratio('esgd')}, and SAM's {ratio('sam')}" in WORDS


# --- taus -----------------------------------------------------------------------------------------

PREDICTED = {
    "local_energy": "local energy",
    "sam": "SAM sharpness",
    "learning_coefficient": "coefficient λ",
    "norm": "norm",
    "outliers": "outliers",
    "asam": "adaptive",
    "train_loss": "training loss",
    "narrowness": "small margins",
}
# Columns of the tables of taus, in the order of the outcomes.
COLUMNS = ("4 bits", "3 bits", "channel", "clipped", "70%", "90%", "rel.", "abs.", "tuned")
SHOWN = ("local_energy", "learning_coefficient", "outliers")
KINDS = {"all": "τ", "partial": "given"}


def stored(group, kind, predictor, outcome):
    return Tau(**STORED["taus"][group][kind][predictor][outcome])


def cells(group, kind, predictor):
    return [stored(group, kind, predictor, outcome).shown() for outcome in OUTCOMES]


def interval_cell(group, kind, predictor, outcome):
    tau = stored(group, kind, predictor, outcome)
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(tau.value, *tau.interval)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", [NOISY, CLEAN])
def test_tables_of_taus(group, kind):
    assert list(PREDICTED) == list(PREDICTORS)
    table = rows_below(TEXT, f"| {KINDS[kind]}, {group.removeprefix('20% ')} ")
    assert table == [[label, *cells(group, kind, name)] for name, label in PREDICTED.items()]


def test_intervals():
    for group in (NOISY, CLEAN):
        table = rows_below(TEXT, f"| rise, {group} ")
        for outcome, *found in table:
            assert found == [interval_cell(group, "all", name, outcome) for name in SHOWN]
        assert [row[0] for row in table] == list(OUTCOMES)


@pytest.mark.parametrize("group", [NOISY, CLEAN])
def test_stored_taus_are_kendalls_of_the_records(group):
    records = used_of(group)
    assert len(records) == STORED["solutions"][group]["used"]
    for predictor in PREDICTORS:
        values = [record["predictors"][predictor] for record in records]
        for outcome in OUTCOMES:
            rises = [record["rises"][outcome]["error"] for record in records]
            tau = stored(group, "all", predictor, outcome).value
            assert tau == pytest.approx(kendall_tau(values, rises))


@pytest.mark.slow
@pytest.mark.parametrize("group", [NOISY, CLEAN])
def test_stored_taus_follow_from_the_records(group):
    found = rank_group(read_study(STUDY, RECORDS)[group], STUDY.collapsed)
    for kind, taus in found.items():
        for predictor, row in taus.items():
            for outcome, tau in row.items():
                one = stored(group, kind, predictor, outcome)
                np.testing.assert_allclose(tau[0], one.value)
                np.testing.assert_allclose(tau.interval, one.interval)
                assert tau.is_clear == one.is_clear


# --- sentences ------------------------------------------------------------------------------------


def both(kind, predictor, outcome):
    """The coefficients of the two groups, as the page joins them."""
    noisy, clean = (stored(group, kind, predictor, outcome).value for group in (NOISY, CLEAN))
    return f"{noisy:+.2f} and {clean:+.2f}"


def is_clear(kind, predictor, outcome):
    return [stored(group, kind, predictor, outcome).is_clear for group in (NOISY, CLEAN)]


FLATNESS = ("local_energy", "sam", "learning_coefficient")
PLANNED = (*FLATNESS, "norm", "outliers")


@pytest.mark.claim("README.md", "the learning coefficient tells what fine-tuning forgets")
@pytest.mark.claim("experiments/RESULTS.md", "The learning coefficient tells how much a network")
def test_summary():
    rounding = stored(NOISY, "all", "outliers", "3 bits, tensor").value
    assert both("all", "outliers", "3 bits, tensor") == f"{rounding:+.2f} and {rounding:+.2f}"
    assert f"at 3 bits (τ = {rounding:+.2f} in both groups of networks)" in WORDS
    assert f"outliers help (τ = {both('all', 'outliers', '90% pruned')})" in WORDS
    forgetting = ("learning_coefficient", "100 steps")
    assert f"how much a network forgets (τ = {both('all', *forgetting)})" in WORDS
    assert f"relative noise does (τ = {both('all', 'local_energy', 'relative noise')})" in WORDS
    for cell in (("outliers", "3 bits, tensor"), ("outliers", "90% pruned"), forgetting):
        assert is_clear("all", *cell) == [True, True]
        assert is_clear("partial", *cell) == [True, True]
    # Local energy is clear for relative noise only, SAM's sharpness nowhere.
    for outcome in OUTCOMES:
        expected = [outcome == "relative noise"] * 2
        assert is_clear("all", "local_energy", outcome) == expected
        assert is_clear("all", "sam", outcome) == [False, False]
        assert is_clear("partial", "sam", outcome) == [False, False]


def test_what_flatness_adds():
    given = stored(NOISY, "partial", "outliers", "3 bits, tensor").value
    assert both("partial", "outliers", "3 bits, tensor") == f"{given:+.2f} and {given:+.2f}"
    assert f"(partial τ of {given:+.2f} in both groups at 3 bits)" in WORDS
    assert f"Adaptive sharpness has {both('all', 'asam', '3 bits, tensor')} there" in WORDS
    for predictor in (*FLATNESS, "asam"):
        for outcome in ("4 bits, tensor", "3 bits, tensor", "3 bits, clipped"):
            assert is_clear("partial", predictor, outcome) == [False, False]
    for predictor in PLANNED:
        assert is_clear("all", predictor, "3 bits, channel") == [False, False]
    for predictor in FLATNESS:
        for outcome in ("70% pruned", "90% pruned"):
            assert is_clear("all", predictor, outcome) == [False, False]


def test_forgetting_and_the_learning_coefficient():
    assert f"({both('within', 'learning_coefficient', '100 steps')}), and given" in WORDS
    assert f"absolute noise ({both('all', 'learning_coefficient', 'absolute noise')})" in WORDS
    partial = []
    for group in (NOISY, CLEAN):
        used = used_of(group)
        coefficient = [r["predictors"]["learning_coefficient"] for r in used]
        rise = [r["rises"]["100 steps"]["error"] for r in used]
        second = [r["second_task"]["100 steps"] for r in used]
        xy, xz, yz = (
            kendall_tau(one, other)
            for one, other in ((coefficient, rise), (coefficient, second), (rise, second))
        )
        partial.append((xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2)))
    assert "error on the second task ({:+.2f} and {:+.2f})".format(*partial) in WORDS


def test_counts():
    noisy, clean = STORED["solutions"][NOISY], STORED["solutions"][CLEAN]
    assert noisy["solutions"] + clean["solutions"] == 100
    assert f"There are {noisy['used']} networks with 20% wrong labels, and {clean['used']}" in WORDS
    problems = [group["coefficients with a problem"] for group in (noisy, clean)]
    assert problems == [noisy["used"], clean["used"]]
    assert f"All {sum(problems)} estimates report a problem" in WORDS
    diverged = [
        (name, record["factors"]["learning_rate"])
        for name, own in lines_of(NOISY).items()
        for record in own
        if record.get("diverged")
    ]
    assert diverged == [("rsgd", 3.0)] * 3 + [("esgd", 3.0)]
    assert not any(r.get("diverged") for own in lines_of(CLEAN).values() for r in own)
    assert "4 of the 70 networks with wrong labels diverged: 3 of Replicated-SGD and 1 of" in WORDS
