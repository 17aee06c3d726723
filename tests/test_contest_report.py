"""Figures of the contest's report, recomputed from the per-seed records that are stored."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import scipy.stats
from contest_records import records_in
from matplotlib.textpath import TextPath
from pages import rows_below

from experiments import __main__ as command_line
from experiments.configs import contest as configs
from experiments.configs.contest import STUDY
from experiments.report import plots, store
from experiments.report.statistics import holm, holm_levels
from experiments.studies.contest import run
from experiments.studies.contest.map import LABEL_WIDTH
from experiments.studies.contest.page import contestant_tables, short_name
from experiments.studies.contest.report import reach_table, read_contest, report, summary
from experiments.studies.contest.results import comparisons, reaches
from experiments.studies.contest.search import search

STORED = store.RESULTS / "contest"
SETTINGS = ("MLP, 500, clean", "conv net, 2k, 20% noise")
LENGTHS = dict(zip(SETTINGS, (3, 1), strict=True))
FAKE = dataclasses.replace(STUDY, lengths=LENGTHS, test_seeds={"mlp": 6, "small_convnet": 4})
FAKE = dataclasses.replace(
    FAKE, base=STUDY.base.changed(dataset="digits"), trials=4, rounds=((4, 1), (2, 2))
)


class Writer:
    """Writes records of one setting and contestant as runs would, without training."""

    def __init__(self, contest, setting, name, out):
        self.contest, self.setting, self.name = contest, setting, name
        self.path = run.path_of(out, setting, name)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.errors, self.candidates = {}, []

    def write(self, part, candidate, seed, outcomes):
        """Adds the record of one run."""
        config = run.config_of(self.contest, self.setting, self.name, part).to_json()
        keys = {"part": part, "candidate": candidate, "seed": seed}
        about = {"settings": self.candidates[candidate], "config": config}
        about |= {"data": run._data(self.contest), "gradient_evaluations": 1}
        store.append_line(self.path, keys | outcomes | about)

    def search(self, error_of):
        """Adds the records of a search with these errors of the seeds; what it chose."""
        while (found := search(self.contest, self.name, self.errors)).missing:
            self.candidates = found.candidates
            new = {(candidate, seed): error_of(seed) for candidate, seed in found.missing}
            for (candidate, seed), error in new.items():
                self.write("validation", candidate, seed, {"validation_error": error})
            self.errors |= new
        return found.chosen


def outcomes_of(error, rise):
    quality = dict.fromkeys(("calibration_error", "brier_score", "temperature"), 1.0)
    quality |= {"test_error": error, "test_loss": error / 40, "scaled_loss": 0.5}
    flat = {"train_error": 1.0, "train_loss": 0.1, "local_energy": [1.0, 2.0, 3.0, 4.0]}
    rises = {"3 bits, tensor": {"error": rise, "loss": 0.2}}
    besides = {"ema": quality, "stopped early": quality}
    more = {"rises": rises, "tolerance": {"1": 0.1, "5": None}, "besides": besides}
    return quality | flat | more


def write_contest(contest, out):
    """Records of a whole contest; the later a contestant comes, the better it is."""
    rng = np.random.default_rng(0)
    for setting in contest.lengths:
        hard = rng.normal(20, 2, 2000)  # of each seed, common to all contestants
        for shift, name in enumerate(contest.contestants):
            writer = Writer(contest, setting, name, out)
            chosen = writer.search(lambda seed, hard=hard: hard[seed] + rng.normal(0, 1))
            for seed in contest.seeds_of_test(setting):
                error = hard[seed] - 0.2 * shift + rng.normal(0, 0.3)
                writer.write("test", chosen, seed, outcomes_of(error, rng.normal(5, 1)))


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    out = tmp_path_factory.mktemp("contest")
    write_contest(FAKE, out)
    report(FAKE, read_contest(FAKE, out), out)
    return out


@pytest.fixture(params=["made up", "stored"])
def reported(request, fake):
    """The reports, and the records that they must come from."""
    out = fake if request.param == "made up" else STORED
    if not (out / "contest.json").exists():
        pytest.skip("no contest is recorded in the repository yet")
    return out


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


def test_tables_of_a_page_have_a_row_for_each_setting(fake):
    text = (fake / "page.md").read_text() + "\n"
    under = lambda title: rows_below(text[text.index(f"## {title}\n") :], "| setting")

    def column(setting, name, key="test_error"):
        return np.array([r[key] for _, r in sorted(records_in(fake, setting, name).items())])

    def difference(setting, name, other, factor, digits, key="test_error"):
        d = factor * (column(setting, name, key) - column(setting, other, key))
        half = scipy.stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
        return f"{d.mean():+.{digits}f}", f"{half:.{digits}f}", d.mean() - half

    assert [cells[0] for cells in under("Test error %")] == list(SETTINGS)
    for setting, *means, least in under("Test error %"):
        names = ("sgd", "sam", "swa", "rsgd", "esgd", "sgd, ema", "sgd, stopped early")
        assert means == [f"{column(setting, name).mean():.2f}" for name in names]
        assert float(least) > 0
    for setting, esgd, _, rsgd, _ in under("Primary"):
        for name, cell in (("esgd", esgd), ("rsgd", rsgd)):
            mean, _, low = difference(setting, name, "sgd", 1, 2)
            assert cell.startswith(f"{mean} [{low:+.2f}, ")
    for setting, *cells in under("Test error minus other references"):
        pairs = [("esgd", "sam"), ("rsgd", "sam"), ("esgd", "swa"), ("rsgd", "swa")]
        shown = [difference(setting, *pair, 1, 2) for pair in pairs]
        assert cells == [f"{mean} ± {half}" for mean, half, _ in shown]
    for setting, *cells in under("Test loss × 100 minus SGD"):
        mean, half, _ = difference(setting, "sam", "sgd", 100, 1, "test_loss")
        assert cells[0] == f"{mean} ± {half}"
    for setting, *cells in under("Rise of the test error, 3 bits, tensor"):
        rises = [
            r["rises"]["3 bits, tensor"]["error"] for r in records_in(fake, setting, "sgd").values()
        ]
        assert cells[0].startswith(f"{np.mean(rises):.1f} ± ")
    assert {cells[1] for cells in under("Chosen settings")} == {"SGD", "SAM", "SWA", "rSGD", "eSGD"}


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


def test_labels_of_settings_end_before_the_cells():
    inches = [
        TextPath((0, 0), label, size=plots.SMALLEST).get_extents().width / 72
        for label in STUDY.settings
    ]
    assert max(inches) < LABEL_WIDTH


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


def test_the_page_of_a_later_stage_has_a_row_for_each_contestant(fake):
    stage = dataclasses.replace(FAKE, references=("sam",), margin=0.3)
    results = read_contest(stage, fake)
    rows = comparisons(stage, results, stage.settings)
    outcomes = [
        summary(stage, setting, name, part)
        for setting, parts in results.items()
        for name, part in parts.items()
    ]
    reached = reaches(stage, results)
    tables = contestant_tables(stage, rows, outcomes, reached)
    assert set(tables) == {*SETTINGS, "Chosen settings"}
    header, _, *lines = tables[SETTINGS[0]].splitlines()
    cells = lambda line: [cell.strip() for cell in line.split("|")[1:-1]]
    expected = ["algorithm", "error %", "minus SGD", "p", "minus SAM", "messages", "reaches"]
    assert cells(header) == expected
    own = {name: cells for name, *cells in map(cells, lines)}
    assert list(own) == ["SGD", "SAM", "SWA", "rSGD", "eSGD", "ema", "stopped"]
    errors = {
        name: np.array([r["test_error"] for r in records_in(fake, SETTINGS[0], name).values()])
        for name in ("sgd", "sam", "esgd")
    }
    gaps = [errors["esgd"] - errors[name] for name in ("sgd", "sam")]
    half = [scipy.stats.t.ppf(0.975, 5) * gap.std(ddof=1) / np.sqrt(6) for gap in gaps]
    shown = [f"{gap.mean():+.2f} ± {one:.2f}" for gap, one in zip(gaps, half, strict=True)]
    verdict = next(
        row["reaches"]
        for row in reached
        if (row["setting"], row["contestant"]) == (SETTINGS[0], "esgd")
    )
    mean = f"{errors['esgd'].mean():.2f}"
    (p,) = [
        row["p_corrected"]
        for row in rows
        if (row["setting"], row["contestant"], row["family"]) == (SETTINGS[0], "esgd", "primary")
    ]
    shown.insert(1, f"{p:.2g}")
    assert own["eSGD"] == [mean, *shown, "0", "yes" if verdict else "no"]
    stage = dataclasses.replace(stage, primary=())
    header, _, *lines = contestant_tables(stage, rows, outcomes)[SETTINGS[0]].splitlines()
    del shown[1]
    assert cells(header)[-1] == "energy"
    own = {name: cells for name, *cells in map(cells, lines)}
    assert own["eSGD"] == [mean, *shown, "3.00"]
    assert own["ema"][-1] == ""


@pytest.mark.parametrize(
    ("stage", "name", "expected"),
    [
        ("workers-16", "parle, y=16, K=64", "Parle, K=64"),
        ("workers-16", "local sgd, y=16, K=16", "local SGD, K=16"),
        ("workers-4", "sgd, batch x 4", "SGD, batch x 4"),
        ("workers-4", "sgd, batch x 4, ema", "ema"),
        ("coupling", "rsgd gamma 0", "rSGD gamma 0"),
        ("main", "sgd, stopped early", "stopped"),
    ],
)
def test_short_names(stage, name, expected):
    assert short_name(configs.STAGES[stage], name) == expected


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
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(
        "warning: rsgd: in 2 of 3 runs replicas have not met (distance 0.7, center 16 %, "
    )
    assert warning.endswith(f"They belong to: {SETTINGS[1]} (2).")
