"""What the chapter on committees says, computed from the records of each solution."""

import pathlib

import numpy as np
import pytest
from pages import rows_below

from experiments.report import store
from experiments.report.statistics import mean_and_sem, with_error
from flatjax.flatness import kendall_tau

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "results" / "committees.md"
TEXT = PAGE.read_text()
WORDS = " ".join(TEXT.split())
RECORDS = store.read_lines(store.RESULTS / "committee" / "solutions.jsonl")
SUBSETS = sorted({record["subset"] for record in RECORDS})
SOLVERS = list(dict.fromkeys(record["solver"] for record in RECORDS))
# Positions of the distances 0.1, 0.2 and 0.4, and of the strengths 0.5 and 1 of the noise.
OVERLAPS = RECORDS[0]["identity"]["sampled_overlaps"]
SIGMAS = RECORDS[0]["identity"]["sigmas"]
LEAST_HITS = 50


def of_solver(name, *, only_solved=False):
    own = [record for record in RECORDS if record["solver"] == name]
    return [record for record in own if record["train_error"] == 0 or not only_solved]


def errors_by_subset(name):
    return np.array(
        [
            np.mean([100 * r["test_error"] for r in of_solver(name) if r["subset"] == subset])
            for subset in SUBSETS
        ]
    )


def sharpness(record, distance):
    at = OVERLAPS.index(round(1 - distance, 2))
    return -record["counted_phi"][at] if record["hits"][at] >= LEAST_HITS else np.nan


def energy(record, sigma):
    return record["local_energy"][SIGMAS.index(sigma)]


def test_errors_of_the_algorithms():
    table = rows_below(TEXT, "| algorithm  | solved |")
    assert sorted(cells[0] for cells in table) == sorted(SOLVERS)
    first = errors_by_subset("SGD fast")
    for name, solved, train_error, error, minus, overlap, _ in table:
        own, errors = of_solver(name), errors_by_subset(name)
        assert solved == f"{len(of_solver(name, only_solved=True))}/{len(own)}"
        assert train_error == f"{100 * np.mean([r['train_error'] for r in own]):.2f}"
        assert error == with_error(*mean_and_sem(errors), len(errors))
        if name != "SGD fast":
            difference = mean_and_sem(errors - first)
            assert minus == with_error(*difference, len(errors), sign="+")
        assert overlap == f"{np.mean([r['unit_overlap'] for r in own]):.2f}"


def test_where_focusing_finds_the_flattest_solutions():
    flattest = {}
    for distance in (0.1, 0.2, 0.4):
        means = {
            name: np.mean([sharpness(record, distance) for record in solved])
            for name in SOLVERS
            if (solved := of_solver(name, only_solved=True))
        }
        counted = {name: mean for name, mean in means.items() if np.isfinite(mean)}
        flattest[distance] = sorted(counted, key=lambda name: counted[name])
    assert flattest[0.2][0] == flattest[0.4][0] == "fBP"
    assert flattest[0.1][:3] == ["fBP rising", "rSGD fast", "fBP"]
    assert "finds the flattest solutions at d = 0.2 and 0.4" in WORDS
    assert "At d = 0.1, fBP rising and rSGD fast are flatter" in WORDS


def test_units_of_focusing_belief_propagation():
    alike = [
        subset
        for subset in SUBSETS
        if all(r["unit_overlap"] > 0.999 for r in of_solver("fBP") if r["subset"] == subset)
    ]
    assert len(alike) == 3
    assert "On three of five subsets all nine units are alike" in WORDS
    overlaps = [r["unit_overlap"] for r in of_solver("fBP rising")]
    assert f"(overlap {min(overlaps):.2f} to {max(overlaps):.2f})" in WORDS


def taus(measure, other, *, without=()):
    """Kendall's tau of each subset, among the solutions without training error."""
    found = []
    for subset in SUBSETS:
        own = [r for r in RECORDS if r["subset"] == subset and r["train_error"] == 0]
        own = [r for r in own if r["solver"] not in without]
        pairs = np.array([(measure(r), other(r)) for r in own])
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        found.append(kendall_tau(*pairs.T))
    return found


MEASURES = {
    "-Φ(d=0.1)": lambda r: sharpness(r, 0.1),
    "-Φ(d=0.2)": lambda r: sharpness(r, 0.2),
    "-Φ(d=0.4)": lambda r: sharpness(r, 0.4),
    "δE(σ=0.5)": lambda r: energy(r, 0.5),
    "δE(σ=1)": lambda r: energy(r, 1.0),
}


@pytest.mark.claim("experiments/RESULTS.md", "Do flatter solutions test better if flatness")
def test_flatter_solutions_do_not_test_better():
    table = {cells[0]: cells[1:] for cells in rows_below(TEXT, "|           | -Φ(d=0.1)")}
    to_error = {}
    for name, measure in MEASURES.items():
        to_error[name] = taus(measure, lambda r: r["test_error"])
        mean = mean_and_sem(to_error[name])
        assert table[name][-1] == with_error(*mean, len(SUBSETS), sign="+")
    close = [np.mean(to_error[name]) for name in MEASURES if name != "-Φ(d=0.4)"]
    assert f"test error is {max(close):.2f} to {min(close):.2f}" in WORDS
    sharp = ("SGD 0.3", "rSGD 0.3", "eSGD fast", "eSGD slow")
    rest = [
        np.mean(taus(MEASURES[name], lambda r: r["test_error"], without=sharp))
        for name in MEASURES
        if name != "-Φ(d=0.4)"
    ]
    assert f"Entropy-SGD it is {min(rest):.2f} to {max(rest):+.2f}" in WORDS
    between = [
        np.mean(taus(MEASURES[phi], MEASURES[rise]))
        for phi in ("-Φ(d=0.1)", "-Φ(d=0.2)")
        for rise in ("δE(σ=0.5)", "δE(σ=1)")
    ]
    assert f"two measures is {min(between):.2f} to {max(between):.2f}" in WORDS
