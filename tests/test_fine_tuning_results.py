"""What the chapter on fine-tuning says, computed from the records of each seed."""

import json
import pathlib
import re

import numpy as np
import pytest
import scipy.stats
from pages import rows_below, shown

from experiments.configs.fine_tuning import STUDY
from experiments.report import store
from experiments.report.statistics import mean_and_sem
from experiments.studies.contest.results import comparisons
from experiments.studies.fine_tuning.run import path_of, read_study
from experiments.studies.spaces import Choice

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "results" / "fine_tuning.md"
TEXT = re.sub(" +", " ", PAGE.read_text())  # cells of tables are filled up with spaces
RECORDS = store.RESULTS / "fine-tuning"
STORED = store.read_json(RECORDS / "fine_tuning.json")
COMPARED = {
    (one["setting"], one["contestant"], one["reference"], one["quantity"]): one
    for one in STORED["comparisons"]
}
each_mode = pytest.mark.parametrize("mode", STUDY.modes)


def lines_of(mode, arm, part):
    """The records of a part, read without the code under test."""
    lines = path_of(RECORDS, mode, arm).read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["part"] == part]


def finished(mode, arm):
    """The records of the test, in the order of their seeds."""
    found = {line["seed"]: line for line in lines_of(mode, arm, "test")}
    assert sorted(found) == STUDY.seeds_of_test
    return [found[seed] for seed in sorted(found)]


def column(mode, arm, name):
    return np.array([record[name] for record in finished(mode, arm)])


def mean_of_finite(values):
    """Mean and standard error with three decimals, without runs that diverged."""
    values = np.array(values, dtype=float)
    return "{:.3f} ± {:.3f}".format(*mean_and_sem(values[np.isfinite(values)]))


def difference(one, other, digits=2):
    """Mean of the paired differences and Student's interval, as in the tables."""
    d = np.round(one - other, 9)
    half = scipy.stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
    low, mean, high = d.mean() - half, d.mean(), d.mean() + half
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def arms_of(mode):
    return [row["contestant"] for row in STORED["outcomes"] if row["setting"] == mode]


@each_mode
def test_errors_of_both_tasks(mode):
    rows = rows_below(TEXT, f"| {mode} | new %")
    assert [row[0] for row in rows] == arms_of(mode)
    for arm, new, to_new, p, old, to_old in rows:
        errors = {name: column(mode, arm, name) for name in ("new_error", "old_error")}
        assert (new, old) == (shown(errors["new_error"]), shown(errors["old_error"]))
        if arm == "AdamW":
            assert (to_new, p, to_old) == ("", "", "")
            continue
        assert to_new == difference(errors["new_error"], column(mode, "AdamW", "new_error"))
        assert to_old == difference(
            errors["old_error"], column(mode, "AdamW", "old_error"), digits=1
        )
        assert p == f"{COMPARED[mode, arm, 'AdamW', 'new_error']['p_corrected']:.2g}"


@each_mode
def test_losses_and_flatness(mode):
    rows = rows_below(TEXT, f"| {mode} | train error %")
    assert [row[0] for row in rows] == arms_of(mode)
    for arm, error, loss, rise, among_all in rows:
        assert error == shown(column(mode, arm, "train_error"))
        assert loss == mean_of_finite(column(mode, arm, "new_loss"))
        rises = [record["energy_loss"][-1] for record in finished(mode, arm)]
        assert rise == mean_of_finite(rises)
        assert among_all == shown(column(mode, arm, "old_error_among_all"))


def test_means_of_replicas():
    rows = rows_below(TEXT, "| LoRA | one replica %")
    assert [row[0] for row in rows] == ["rSGD", "soup", "soup x 3"]
    for arm, alone, products, factors, distance in rows:
        meetings = [record["meeting"] for record in finished("LoRA", arm)]
        assert alone == shown([one["replicas"] for one in meetings])
        assert products == shown(column("LoRA", arm, "new_error"))
        assert factors == shown(column("LoRA", arm, "mean_of_factors_error"))
        assert distance == f"{np.mean([one['distance'] for one in meetings]):.2f}"


@each_mode
def test_choices_are_those_of_the_records(mode):
    header = next(line for line in TEXT.splitlines() if line.startswith(f"| chosen, {mode}"))
    arms = [cell.strip() for cell in header.strip("|").split("|")[1:]]
    table = {cells[0]: cells[1:] for cells in rows_below(TEXT, f"| chosen, {mode}")}
    assert arms == [*STUDY.contestants]
    for i, arm in enumerate(arms):
        tests = finished(mode, arm)
        assert all(one["settings"] == tests[0]["settings"] for one in tests)
        expected = {n.replace("_", " "): f"{x:.3g}" for n, x in tests[0]["settings"].items()}
        expected["candidates"] = str(
            len({r["candidate"] for r in lines_of(mode, arm, "validation")})
        )
        assert {name: cells[i] for name, cells in table.items() if cells[i]} == expected


@pytest.mark.slow
def test_stored_comparisons_follow_from_the_records():
    again = comparisons(STUDY, read_study(STUDY, RECORDS), STUDY.modes, ("new_error", "old_error"))
    assert len(again) == len(STORED["comparisons"])
    for one, other in zip(again, STORED["comparisons"], strict=True):
        for name in ("contestant", "reference", "quantity", "family"):
            assert one[name] == other[name]
        np.testing.assert_allclose(one["difference"], other["difference"])
        np.testing.assert_allclose(one["p_corrected"], other["p_corrected"])


def lost(mode, arm):
    return (column(mode, arm, "old_error") - column(mode, arm, "pretrained_old_error")).mean()


def gain(mode, arm):
    return (column(mode, arm, "new_error") - column(mode, "AdamW", "new_error")).mean()


def test_summary():
    words = " ".join(TEXT.split())
    last, low_rank = STUDY.modes
    for mode, arm in ((last, "rSGD"), (last, "eSGD"), (low_rank, "eSGD")):
        assert COMPARED[mode, arm, "AdamW", "new_error"]["p_corrected"] > 0.3
    assert (
        f"level with it ({gain(last, 'rSGD'):+.2f} and {gain(last, 'eSGD'):+.2f} points)" in words
    )
    assert f"Entropy-SGD is level with AdamW ({gain(low_rank, 'eSGD'):+.2f} points)" in words
    p = COMPARED[low_rank, "rSGD", "AdamW", "new_error"]["p_corrected"]
    worse = f"worse by {gain(low_rank, 'rSGD'):.2f} points (corrected p = {p:.2g})"
    assert worse in words
    assert (
        f"AdamW loses {lost(last, 'AdamW'):.1f} points with the last layers and "
        f"{lost(low_rank, 'AdamW'):.1f} with LoRA, Replicated-SGD {lost(last, 'rSGD'):.1f} and "
        f"{lost(low_rank, 'rSGD'):.1f}."
    ) in words
    new = {mode: column(mode, "AdamW", "new_error").mean() for mode in STUDY.modes}
    assert f"is {new[low_rank]:.2f}% with LoRA and {new[last]:.2f}% with the last" in words
    soup = {
        name: column(low_rank, "soup", name).mean()
        for name in ("mean_of_factors_error", "new_error")
    }
    assert f"an error of {soup['mean_of_factors_error']:.1f}%" in words
    assert f"of their products {soup['new_error']:.1f}%" in words
    np.testing.assert_allclose(
        column(low_rank, "rSGD", "mean_of_factors_error"), column(low_rank, "rSGD", "new_error")
    )


def test_no_algorithm_beats_the_baseline_on_new_classes():
    rows = [one for one in COMPARED.values() if one["quantity"] == "new_error"]
    of_baseline = [one for one in rows if one["reference"] == "AdamW"]
    assert len(of_baseline) == 14
    assert not [one for one in of_baseline if one["difference"] < 0 and one["p_corrected"] < 0.05]


@pytest.mark.claim("docs/finetuning.md", "a smaller learning rate keeps more")
@each_mode
def test_smaller_learning_rates_lose_less(mode):
    for arm in STUDY.contestants:
        errors = {}
        for line in lines_of(mode, arm, "validation"):
            errors.setdefault(line["settings"]["learning_rate"], []).append(line["old_error"])
        rates = sorted(errors)
        tau = scipy.stats.kendalltau(rates, [np.mean(errors[rate]) for rate in rates]).statistic
        assert tau > 0.5, (arm, tau)


def test_the_run_that_diverged():
    words = " ".join(TEXT.split())
    diverged = {
        (mode, arm): sum(record["new_loss"] is None for record in finished(mode, arm))
        for mode in STUDY.modes
        for arm in arms_of(mode)
    }
    assert {which for which, number in diverged.items() if number} == {("LoRA", "SGD")}
    ok = [record for record in finished("LoRA", "SGD") if record["new_loss"] is not None]
    assert len(ok) == 11
    new, old = (np.mean([record[name] for record in ok]) for name in ("new_error", "old_error"))
    assert f"11 have errors of {new:.2f}% on the new and {old:.2f}% on the old classes" in words


@each_mode
def test_no_choice_is_at_an_edge(mode):
    for arm in STUDY.contestants:
        tried = [line["settings"] for line in lines_of(mode, arm, "validation")]
        chosen = finished(mode, arm)[0]["settings"]
        for name, part in STUDY.contestants[arm].space.items():
            if isinstance(part, Choice) or chosen[name] == 0:
                continue
            values = [own[name] for own in tried if own[name] > 0]
            low, high = np.log(min(*part, *values)), np.log(max(*part, *values))
            position = (np.log(chosen[name]) - low) / (high - low)
            assert STUDY.edge <= position <= 1 - STUDY.edge, (arm, name, position)
