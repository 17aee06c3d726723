"""Figures of the contest's report, recomputed from the per-seed records that are stored."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import scipy.stats
from contest_records import records_in
from made_up_contest import FAKE, LENGTHS, SETTINGS, Writer, outcomes_of, report_in

from experiments import __main__ as command_line
from experiments.configs import contest as configs
from experiments.configs.contest import STUDY
from experiments.report import store
from experiments.report.statistics import holm, holm_levels
from experiments.studies.contest import run
from experiments.studies.contest.report import reach_table, read_contest, report
from experiments.studies.contest.results import reaches

STORED = store.RESULTS / "contest"


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    return report_in(tmp_path_factory.mktemp("contest"))


@pytest.fixture(params=["made up", "stored"])
def reported(request, fake):
    """The reports, and the records that they must come from."""
    return fake if request.param == "made up" else STORED


def test_every_difference_comes_from_the_records(reported):
    rows = json.loads((reported / "contest.json").read_text())["comparisons"]
    assert rows
    for row in rows:
        own = records_in(reported, row["setting"], row["contestant"])
        others = records_in(reported, row["setting"], row["reference"])
        assert sorted(own) == sorted(others)
        assert min(own) >= 1000
        assert len(own) == row["seeds"]
        d = np.array([own[s][row["quantity"]] - others[s][row["quantity"]] for s in sorted(own)])
        assert row["difference"] == pytest.approx(d.mean(), abs=1e-6)
        if np.ptp(d) < 1e-9:
            continue
        half = scipy.stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
        assert row["interval"] == pytest.approx([d.mean() - half, d.mean() + half], abs=1e-6)
        assert row["p"] == pytest.approx(scipy.stats.ttest_1samp(d, 0).pvalue, rel=1e-4)


def test_every_correction_is_holms_over_its_family(reported):
    rows = json.loads((reported / "contest.json").read_text())["comparisons"]
    for family in {row["family"] for row in rows}:
        own = [row for row in rows if row["family"] == family]
        size = 20 if family == "primary" else own[0]["family_size"]
        assert size >= len(own)  # more, where the loss of a run that diverged is not known
        p = np.append([row["p"] for row in own], np.ones(size - len(own)))
        np.testing.assert_allclose([r["p_corrected"] for r in own], holm(p)[: len(own)], rtol=1e-6)
        for row in own:  # coloured exactly where the correction rejects
            low, high = row["corrected_interval"]
            assert (not low <= 0 <= high) == (row["p_corrected"] <= 0.05)
    primary = [row for row in rows if row["family"] == "primary"]
    assert {row["contestant"] for row in primary} <= {"esgd", "rsgd"}
    assert {(row["reference"], row["quantity"]) for row in primary} == {("sgd", "test_error")}


def test_every_outcome_comes_from_the_records(reported):
    rows = json.loads((reported / "contest.json").read_text())["outcomes"]
    for row in rows:
        records = list(records_in(reported, row["setting"], row["contestant"]).values())
        for name in ("test_error", "test_loss", "scaled_loss", "calibration_error"):
            values = [record[name] for record in records]
            if None in values:  # a run diverged
                assert row[name] is None
                continue
            mean, sem = row[name]
            assert mean == pytest.approx(np.mean(values), abs=1e-4)
            assert sem == pytest.approx(np.std(values, ddof=1) / np.sqrt(len(values)), abs=1e-4)
        for change, found in row.get("rises", {}).items():
            values = [record["rises"][change]["error"] for record in records]
            assert found["error"][0] == pytest.approx(np.mean(values), abs=1e-4)


def test_errors_of_random_candidates_come_from_the_records(reported):
    rows = json.loads((reported / "contest.json").read_text())["outcomes"]
    trials, seeds = (FAKE.trials, 1) if reported != STORED else (STUDY.trials, 2)
    for row in rows:
        if ", " in row["contestant"]:
            continue
        path = run.path_of(reported, row["setting"], row["contestant"])
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        error = {(r["candidate"], r["seed"]): r.get("validation_error") for r in lines}
        means = [np.mean([error[one, seed] for seed in range(seeds)]) for one in range(trials)]
        assert row["random"]["median"] == pytest.approx(np.median(means), abs=1e-4)
        pairs = [min(a, b) for i, a in enumerate(means) for b in means[:i]]
        assert row["random"]["best of 2"] == pytest.approx(np.mean(pairs), abs=1e-4)


def test_a_stage_without_a_search_is_reported(fake, tmp_path):
    shutil.copytree(fake, tmp_path / "contest")
    out = tmp_path / "contest"
    stage = dataclasses.replace(
        configs.COUPLING,
        **{
            name: getattr(FAKE, name)
            for name in ("lengths", "test_seeds", "base", "trials", "rounds")
        },
    )
    for setting in LENGTHS:
        parent = run.read_records(FAKE, setting, "rsgd", out)[0]
        writer = Writer(stage, setting, "rsgd gamma 0", out)
        writer.candidates = [parent.candidates[parent.chosen] | {"gamma": 0.0}]
        for seed in stage.seeds_of_test(setting):
            writer.write("test", 0, seed, outcomes_of(20.0 + seed / 1000, 5.0))
    report(stage, read_contest(stage, out), out)
    rows = json.loads((out / "coupling.json").read_text())["comparisons"]
    found = [row for row in rows if row["contestant"] == "rsgd gamma 0"]
    assert {row["reference"] for row in found} == {"sgd", "rsgd"}
    assert not any(row["family"] == "primary" for row in rows)
    assert (out / "coupling-forest.png").exists()


def test_the_tables_say_what_the_records_say(fake):
    text = (fake / "contest.md").read_text()
    rows = json.loads((fake / "contest.json").read_text())["comparisons"]
    first = next(row for row in rows if row["family"] == "primary")
    assert f"{first['difference']:+.2f} [" in text
    assert "> 0.5" in text  # noise beyond the grid
    assert text.count("## ") == 7
    assert (fake / "map.png").stat().st_size > 10_000


def test_a_run_that_diverged_has_an_error_and_no_other_number(fake, tmp_path):
    shutil.copytree(fake, tmp_path, dirs_exist_ok=True)
    path = run.path_of(tmp_path, SETTINGS[0], "rsgd")
    *others, last = store.read_lines(path)
    kept = ("part", "candidate", "seed", "settings", "config", "data", "gradient_evaluations")
    qualities = ("test_loss", "scaled_loss", "temperature", "calibration_error", "brier_score")
    last = {name: last[name] for name in kept} | dict.fromkeys(qualities) | {"test_error": 100.0}
    store.write_lines(path, [*others, last])
    text = report(FAKE, read_contest(FAKE, tmp_path), tmp_path)
    found = store.read_json(tmp_path / "contest.json")
    (row,) = [
        one
        for one in found["outcomes"]
        if (one["setting"], one["contestant"]) == (SETTINGS[0], "rsgd")
    ]
    errors = [record["test_error"] for record in records_in(tmp_path, SETTINGS[0], "rsgd").values()]
    assert row["test_error"][0] == pytest.approx(np.mean(errors), abs=1e-4)
    assert row["diverged"] == 1
    assert row["test_loss"] is None
    assert "tolerance" not in row
    assert "(1 diverged)" in text
    page = (tmp_path / "page.md").read_text()
    assert "nan" not in text + page
    assert f"| {np.mean(errors):.2f} *" in page
    assert page.count("*") == 1
    of = lambda rows, quantity: [
        one
        for one in rows
        if one["setting"] == SETTINGS[0] and one["quantity"] == quantity
        if one["reference"] == "sgd"
    ]
    names = lambda quantity: {one["contestant"] for one in of(found["comparisons"], quantity)}
    assert names("test_error") - names("test_loss") == {"rsgd"}
    before = json.loads((fake / "contest.json").read_text())["comparisons"]
    sizes = {one["family_size"] for one in of(found["comparisons"], "test_loss")}
    assert sizes == {one["family_size"] for one in of(before, "test_loss")}


def test_who_reaches_a_reference_is_tested_against_the_margin(fake):
    """All others are tested together, what was recorded along the baseline's runs too."""
    stage = dataclasses.replace(FAKE, references=("sam",), margin=0.3)
    rows = reaches(stage, read_contest(stage, fake))
    for setting in SETTINGS:
        own = {row["contestant"]: row for row in rows if row["setting"] == setting}
        assert set(own) == {"sgd", "swa", "rsgd", "esgd", "sgd, ema", "sgd, stopped early"}
        error_of = lambda name, at=setting: np.array(
            [record["test_error"] for _, record in sorted(records_in(fake, at, name).items())]
        )
        p = []
        for name, row in own.items():
            gap = error_of(name) - error_of("sam")
            assert row["difference"] == pytest.approx(gap.mean())
            t = (gap.mean() - 0.3) / (gap.std(ddof=1) / np.sqrt(len(gap)))
            p.append(scipy.stats.t.cdf(t, len(gap) - 1))
        np.testing.assert_allclose([row["p"] for row in own.values()], p, rtol=1e-6)
        for row, corrected in zip(own.values(), holm(p), strict=True):
            assert row["p_corrected"] == pytest.approx(corrected)
            assert row["reaches"] == (corrected < 0.05)
    assert {row["reaches"] for row in rows} == {True, False}
    assert reach_table(rows).count("| yes") == sum(row["reaches"] for row in rows)
    assert reach_table(reaches(FAKE, read_contest(FAKE, fake))) == ""


def test_missing_contestants_count_among_those_who_may_reach(fake):
    """As p = 1: an incomplete stage claims no more than the complete one."""
    stage = dataclasses.replace(FAKE, references=("sam",), margin=0.3)
    results = read_contest(stage, fake)
    del results[SETTINGS[0]]["swa"], results[SETTINGS[1]]
    rows = reaches(stage, results)
    p = [row["p"] for row in rows]
    assert {row["family_size"] for row in rows} == {6}
    assert len(p) == 5
    np.testing.assert_allclose([row["p_corrected"] for row in rows], holm([*p, 1.0])[:-1])


@pytest.mark.slow
def test_incomplete_parts_are_left_out(fake, tmp_path):
    for path in fake.rglob("*.jsonl"):
        copy = tmp_path / path.relative_to(fake)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    cut = run.path_of(tmp_path, SETTINGS[0], "esgd")
    cut.write_text("".join(cut.read_text().splitlines(keepends=True)[:-1]))
    run.path_of(tmp_path, SETTINGS[1], "sgd").unlink()
    found = read_contest(FAKE, tmp_path)
    assert list(found) == [SETTINGS[0]]
    alone = [name for name in FAKE.contestants if name != "sgd"]
    shutil.copytree(tmp_path, tmp_path / "alone")
    for name in alone:  # the baseline has nothing to be compared with
        run.path_of(tmp_path / "alone", SETTINGS[0], name).unlink()
    assert read_contest(FAKE, tmp_path / "alone") == {}
    assert "esgd" not in found[SETTINGS[0]]
    assert "rsgd" in found[SETTINGS[0]]


def test_the_levels_of_holm_reject_what_holm_rejects():
    rng = np.random.default_rng(1)
    for _ in range(50):
        p = rng.uniform(0, 0.06, 6) ** rng.integers(1, 4)
        np.testing.assert_array_equal(p <= holm_levels(p), holm(p) <= 0.05)


def test_replicas_that_have_not_met_are_warned_of_once(fake, tmp_path, monkeypatch, capsys):
    """The records of most runs are older than meetings."""
    shutil.copytree(fake, tmp_path, dirs_exist_ok=True)
    path = run.path_of(tmp_path, SETTINGS[1], "rsgd")
    records = store.read_lines(path)
    meetings = {"center": 16.0, "replicas": 8.0}, {"center": 8.5, "replicas": 8.0}
    for record, meeting in zip(records[-3:], (*meetings, meetings[0]), strict=True):
        record["meeting"] = meeting | {"distance": 0.7}
    store.write_lines(path, records)
    monkeypatch.setitem(configs.SMALLS, "main", FAKE)
    arguments = ["contest", "--small", "--report-only", "--out", str(tmp_path)]
    assert command_line.main(arguments) == 0
    lines = capsys.readouterr().err.splitlines()
    (warning,) = [line for line in lines if line.startswith("warning")]
    assert warning.startswith(
        "warning: rsgd: in 2 of 3 runs replicas have not met (distance 0.7, center 16 %, "
    )
    assert warning.endswith(f"They belong to: {SETTINGS[1]} (2).")
