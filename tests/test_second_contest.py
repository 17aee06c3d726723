"""What the chapter on the second contest says, computed from the records of each seed."""

import itertools
import pathlib

import numpy as np
import pytest
import scipy.stats
from contest_records import records_in
from pages import rows_below

from experiments.configs.contest import STUDY
from experiments.report import store
from experiments.report.statistics import mean_and_sem, with_error
from experiments.studies.contest import results as contest_results
from experiments.studies.contest.run import path_of

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "results" / "second_contest.md"
TEXT = PAGE.read_text()
RECORDS = store.RESULTS / "contest"
SETTING = "MLP, 2k, 20% noise"
STORED = store.read_json(RECORDS / "contest.json")
COMPARED = {
    (one["contestant"], one["reference"], one["quantity"]): one for one in STORED["comparisons"]
}


def records_of(algorithm):
    """The records of the 40 test seeds, or their part that follows an average of SGD's weights."""
    found = records_in(RECORDS, SETTING, algorithm)
    assert sorted(found) == list(range(1000, 1040))
    return [found[seed] for seed in sorted(found)]


def column(algorithm, name="test_error"):
    return np.array([record[name] for record in records_of(algorithm)])


def difference(one, other, digits):
    """Mean of the paired differences and Student's interval, as in the tables."""
    values = one - other
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    low, mean, high = values.mean() - half, values.mean(), values.mean() + half
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def test_differences_in_the_test_error():
    table = rows_below(TEXT, "| algorithm          | test error %")
    sgd, sam = column("sgd"), column("sam")
    for algorithm, error, to_sgd, p, to_sam in table:
        own = column(algorithm)
        assert error == with_error(*mean_and_sem(own), len(own))
        if algorithm != "sgd":
            assert to_sgd == difference(own, sgd, 2)
            assert p == f"{COMPARED[algorithm, 'sgd', 'test_error']['p_corrected']:.2g}"
        is_compared = (algorithm, "sam", "test_error") in COMPARED
        assert to_sam == (difference(own, sam, 2) if is_compared else "")
    assert {cells[0] for cells in table} == {one["contestant"] for one in STORED["outcomes"]}


@pytest.mark.parametrize("name", ["test_loss", "scaled_loss"])
def test_differences_in_the_loss(name):
    table = rows_below(TEXT, f"| algorithm          | {name.replace('_', ' ')}")
    assert len(table) == len(STORED["outcomes"])
    for algorithm, shown, minus in table:
        own = column(algorithm, name)
        mean, error = mean_and_sem(own)
        assert shown == f"{mean:.4f} ± {error:.4f}"
        if algorithm != "sgd":
            assert minus == difference(own, column("sgd", name), 4)


def test_training_errors_and_rises():
    for algorithm, error, energy, *rises in rows_below(TEXT, "| algorithm | train error %"):
        tests = records_of(algorithm)
        names = ("3 bits, tensor", "3 bits, channel", "90% pruned")
        columns = [
            [one["train_error"] for one in tests],
            [one["local_energy"][one["sigma"].index(0.3)] for one in tests],
            *([one["rises"][name]["error"] for one in tests] for name in names),
        ]
        assert [error, energy, *rises] == [with_error(*mean_and_sem(c), 40) for c in columns]


def test_choices_are_those_of_the_records():
    line = next(line for line in TEXT.splitlines() if line.startswith("| chosen"))
    table = {cells[0]: cells[1:] for cells in rows_below(TEXT, "| chosen")}
    for i, algorithm in enumerate(cell.strip() for cell in line.strip("|").split("|")[1:]):
        lines = store.read_lines(path_of(RECORDS, SETTING, algorithm))
        settings = [line["settings"] for line in lines if line["part"] == "test"]
        assert all(one == settings[0] for one in settings)
        expected = {name.replace("_", " "): f"{x:.3g}" for name, x in settings[0].items()}
        number = {line["candidate"] for line in lines if line["part"] == "validation"}
        expected["candidates"] = str(len(number))
        assert {name: cells[i] for name, cells in table.items() if cells[i]} == expected


@pytest.mark.claim("docs/choosing.md", "Entropy-SGD also depended least on its")
def test_errors_of_random_settings():
    text = TEXT[TEXT.index("## How much do the settings matter?") :]
    stored = {row["contestant"]: row.get("random") for row in STORED["outcomes"]}
    table = rows_below(text, "| algorithm")
    assert [cells[0] for cells in table] == ["sgd", "sam", "swa", "rsgd", "esgd"]
    for algorithm, *cells in table:
        lines = store.read_lines(path_of(RECORDS, SETTING, algorithm))
        error = {(r["candidate"], r["seed"]): r.get("validation_error") for r in lines}
        means = [np.mean([error[one, seed] for seed in (0, 1)]) for one in range(16)]
        best = [np.mean([min(d) for d in itertools.combinations(means, n)]) for n in (2, 4, 8)]
        expected = [*np.quantile(means, (0.25, 0.5, 0.75)), *best]
        assert [float(cell) for cell in cells] == pytest.approx(expected, abs=0.006)
        assert list(stored[algorithm].values()) == pytest.approx(expected, abs=1e-4)
    assert stored["esgd"]["best of 4"] < stored["sgd"]["best of 8"]
    for name in ("median", "upper quartile", "best of 2", "best of 4", "best of 8"):
        assert min(stored, key=lambda one: (stored[one] or {name: np.inf})[name]) == "esgd"
    medians = [f"{stored[name]['median']:.2f}%" for name in ("esgd", "sgd")]
    assert f"settings is {medians[0]}, and SGD's is {medians[1]}" in " ".join(TEXT.split())


def test_replicas_without_a_coupling():
    records = records_in(RECORDS, SETTING, "rsgd gamma 0")
    assert sorted(records) == list(range(1000, 1040))
    chosen = records_of("rsgd")[0]["settings"]
    assert all(r["settings"] == chosen | {"gamma": 0.0} for r in records.values())
    alone = np.mean([record["test_error"] for record in records.values()])
    said = f"error of their mean is {alone:.2f}%, against {column('rsgd').mean():.2f}%"
    assert said in " ".join(TEXT.split())


@pytest.mark.slow
def test_stored_comparisons_follow_from_the_records():
    found = contest_results.read_contest(STUDY, RECORDS)
    again = contest_results.comparisons(STUDY, found, STUDY.settings)
    assert len(again) == len(STORED["comparisons"])
    for one, other in zip(again, STORED["comparisons"], strict=True):
        assert {n: one[n] for n in ("contestant", "reference", "quantity")} == {
            n: other[n] for n in ("contestant", "reference", "quantity")
        }
        np.testing.assert_allclose(one["difference"], other["difference"])
        np.testing.assert_allclose(one["p_corrected"], other["p_corrected"])


@pytest.mark.claim("docs/choosing.md", "Entropy-SGD was ahead of tuned SGD, SAM and SWA")
def test_summary():
    words = " ".join(TEXT.split())
    sgd = column("sgd")
    names = ("swa", "sam", "rsgd", "esgd", "sgd, ema")
    gain = {name: -(column(name) - sgd).mean() for name in names}
    means = f"{column('esgd').mean():.2f}% against {sgd.mean():.2f}%"
    p = {name: COMPARED[name, "sgd", "test_error"]["p_corrected"] for name in ("esgd", "rsgd")}
    assert f"{means}, with corrected p = {p['esgd']:.2g}" in words
    ahead = [-(column("esgd") - column(name)).mean() for name in ("sam", "swa")]
    assert f"than SAM, by {ahead[0]:.2f} points, and than SWA, by {ahead[1]:.2f} points" in words
    assert f"better than SGD, by {gain['swa']:.2f} and {gain['sam']:.2f} points" in words
    for reference in ("sgd", "sam", "swa"):
        one = COMPARED["esgd", reference, "test_error"]
        assert one["difference"] < 0
        assert one["p_corrected"] < 0.05
    loss = (column("sgd", "test_loss") - column("rsgd", "test_loss")).mean()
    assert f"level with SGD ({-gain['rsgd']:+.2f} points)" in words
    assert p["rsgd"] == 1
    assert f"Its test loss is lower by {loss:.3f}" in words
    behind = [COMPARED["rsgd", name, "test_error"] for name in ("sam", "swa")]
    by = [f"{one['difference']:.2f}" for one in behind]
    assert all(one["p_corrected"] < 0.05 for one in behind)
    assert f"It is worse than SAM and SWA, by {by[0]} and {by[1]} points" in words
    assert f"(EMA) gains {gain['sgd, ema']:.2f} points" in words
    least = STORED["least_detectable"][SETTING]
    assert f"this setting can detect is {least:.2f} points" in words
