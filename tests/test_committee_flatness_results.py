"""What the chapter on committees says of sizes and wrong labels, from records of each solution."""

import functools
import pathlib

import numpy as np
import pytest
from pair_taus import partial_tau_within, tau_within

from experiments.configs.committee_flatness import STUDY
from experiments.report import store
from experiments.studies.committee_flatness.run import path_of

FOLDER = store.RESULTS / "committee-flatness"
PAGE = pathlib.Path(__file__).parents[1] / "docs" / "results" / "committees.md"
TEXT = PAGE.read_text()
WORDS = " ".join(TEXT.split())


@functools.cache
def records_of(cell):
    found = store.read_lines(path_of(FOLDER, cell), must_be_sealed=True)
    keys = {(record["solver"], record["subset"]) for record in found}
    assert len(found) == len(keys) == 180
    return found


@functools.cache
def stored():
    taus = store.read_json(FOLDER / "committee_flatness.json")["taus"]
    return {(tau["patterns"], tau["noise"]): tau for tau in taus}


def in_fullest_range(records):
    """Solutions in the point of training error that holds most of them."""
    errors = sorted(record["train_error"] for record in records)
    inside = lambda low: [r for r in records if low <= r["train_error"] <= low + 1]
    return inside(max(errors, key=lambda low: (len(inside(low)), -low)))


def columns(records):
    read = {
        "energy": lambda r: r["local_energy"][0],
        "test": lambda r: r["test_error"],
        "train": lambda r: r["train_error"],
        "subset": lambda r: r["subset"],
    }
    return {name: [of(record) for record in records] for name, of in read.items()}


@pytest.mark.parametrize("cell", STUDY.cells())
def test_taus_are_those_of_the_records(cell):
    everything = columns(records_of(cell))
    if "matched" in stored()[cell]:
        used = columns(in_fullest_range(records_of(cell)))
        found = tau_within(used["energy"], used["test"], used["subset"])
        assert stored()[cell]["matched"]["value"] == pytest.approx(found)
    given = [everything["train"]]
    pair = everything["energy"], everything["test"]
    if cell[0] == 100:  # all training errors are 0
        assert set(everything["train"]) == {0.0}
        assert np.isnan(stored()[cell]["partial"]["value"])
    else:
        found = partial_tau_within(*pair, given, everything["subset"])
        assert stored()[cell]["partial"]["value"] == pytest.approx(found)


def tau_of(cell, kind="matched"):
    return stored()[cell][kind]["value"]


def cells_that_are_learned():
    return [cell for cell in STUDY.cells() if len(in_fullest_range(records_of(cell))) > 90]


def test_where_nearly_all_committees_learn():
    learned = cells_that_are_learned()
    wanted = [(size, noise) for size in (100, 300) for noise in STUDY.noises] + [(1000, 0.0)]
    assert sorted(learned) == sorted(wanted)
    assert all(len(in_fullest_range(records_of(cell))) >= 168 for cell in learned)
    taus = [tau_of(cell) for cell in learned]
    assert f"τ is between {min(taus):+.2f} and {max(taus):+.2f}" in WORDS
    clear = [tau_of(cell) for cell in learned if stored()[cell]["matched"]["is_clear"]]
    assert (len(clear), max(clear) < 0) == (4, True)
    assert "clearly negative in four cells, and clearly positive in none" in WORDS


@pytest.mark.claim("experiments/RESULTS.md", "in one cell of twelve")
def test_where_flatter_committees_test_better():
    others = [cell for cell in STUDY.cells() if cell not in cells_that_are_learned()]
    assert len(others) == 5
    assert [cell for cell in others if stored()[cell]["matched"]["is_clear"]] == [(3000, 0.1)]
    assert f"flatter ones do test better** (τ = {tau_of((3000, 0.1)):+.2f})" in WORDS
    used = in_fullest_range(records_of((3000, 0.1)))
    assert f"{len(used)} of 180 are matched, with training errors of 13 to 14%" in WORDS
    assert min(r["train_error"] for r in used) > 13
    right, some, more = (tau_of((3000, noise), "partial") for noise in STUDY.noises)
    assert f"the partial τ is {right:+.2f} with right labels, {some:+.2f} with 10%" in WORDS
    assert f"and {more:+.2f} with 20%" in WORDS


def test_the_share_of_entropy_sgd():
    is_of = lambda record, name: record["solver"].startswith(f"{name} ")
    median = lambda cell, name, of: np.median([of(r) for r in records_of(cell) if is_of(r, name)])
    best = 0
    for cell in STUDY.cells():
        for of, order in ((lambda r: r["local_energy"][0], 1), (lambda r: r["test_error"], -1)):
            found = {name: order * median(cell, name, of) for name in STUDY.solvers}
            largest = max(found, key=found.get)
            if order == 1:
                assert largest == "eSGD"
            else:
                best += largest == "eSGD"
    assert best == 9
    assert "lowest median test error in nine" in WORDS
    taus = []
    for cell in STUDY.cells()[:6]:
        used = [r for r in in_fullest_range(records_of(cell)) if not is_of(r, "eSGD")]
        found = columns(used)
        taus.append(tau_within(found["energy"], found["test"], found["subset"]))
    words = f"τ with 100 and 300 patterns is between {min(taus):+.2f} and {max(taus):+.2f}"
    assert words in WORDS
