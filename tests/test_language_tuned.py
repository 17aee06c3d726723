"""The tuned arms of the study of a language model: search, runs and tables."""

import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.stats
from pages import rows_below
from test_language import TINY

from experiments.configs.language import ARMS, STUDY
from experiments.report import store
from experiments.studies.language import run, tuned
from experiments.studies.language.description import Tuning
from experiments.studies.language.page import tuned_section, tuned_summary

FEW = ("DiLoCo, K=16", "rSGD, K=16")
ALL = ("AdamW", "AdamW, S steps", "AdamW, batch x 4", *FEW)


def whole_search(axes, bits_of):
    """A search to its end: the choice, and all candidates that it asked for."""
    bits = {}
    while missing := (found := tuned.search(axes, bits)).missing:
        bits |= {key: bits_of(**dict(key)) for key in missing}
    return found, bits


@pytest.mark.parametrize(("best", "tried"), [(2, 3), (4, 4), (64, 8), (1, 4), (0.125, 7)])
def test_grids_grow_until_the_choice_is_inside(best, tried):
    found, bits = whole_search(
        {"rate": (1.0, 2.0, 4.0)}, lambda rate: abs(math.log2(rate) - math.log2(best))
    )
    assert found.choice == (("rate", best),)
    assert len(bits) == len(found.tried["rate"]) == tried
    assert min(found.tried["rate"]) < best < max(found.tried["rate"])


def test_settings_are_searched_in_their_order():
    axes = {"rate": (1.0, 2.0, 4.0), "pull": (0.1, 1.0, 10.0)}
    asked = []

    def bits_of(rate, pull):
        asked.append((rate, pull))
        return (rate - 4) ** 2 + (pull - 0.1) ** 2

    found, _ = whole_search(axes, bits_of)
    assert found.choice == (("rate", 4.0), ("pull", 0.1))
    first = [(rate, 1.0) for rate in (1.0, 2.0, 4.0, 8.0)]
    assert asked[:4] == first
    assert {rate for rate, _ in asked[4:7]} == {4.0}
    assert [*found.tried] == ["rate", "pull"]


def test_settings_are_searched_until_none_changes():
    """The best rate depends on the pull."""
    axes = {"rate": (1.0, 2.0, 4.0), "pull": (1.0, 2.0, 4.0)}

    def bits_of(rate, pull):
        x, y = math.log2(rate), math.log2(pull)
        return 0.1 * (x - y - 1) ** 2 + (y - 3) ** 2

    found, bits = whole_search(axes, bits_of)
    choice = dict(found.choice)
    assert choice == {"rate": 16.0, "pull": 8.0}
    for name, own in found.tried.items():
        assert own == {value: bits[tuple((choice | {name: value}).items())] for value in own}
        assert min(own) < choice[name] == tuned.best_of(own) < max(own)


def test_runs_that_diverge_are_never_chosen():
    found, _ = whole_search({"rate": (1.0, 2.0, 4.0)}, lambda rate: math.nan if rate > 2 else -rate)
    assert found.choice == (("rate", 2.0),)


def test_candidates_see_no_test_data_and_finals_are_fresh():
    key = (("learning_rate", 0.004), ("pull", 0.01))
    part = tuned.candidates_of(STUDY, "rSGD, K=16", [key])
    (arm,) = part.arms
    config = part.config(arm, 200_000)
    assert config.data.evaluate_on == "validation"
    assert config.flat()["learning_rate"] == 0.004
    assert config.flat()["gamma"] == pytest.approx(2.5)
    assert config.flat()["gamma_factor"] == 1e3
    final = tuned.final_of(STUDY, {"rSGD, K=16": tuned.Search(key, [], {})})
    config = final.config("rSGD, K=16", 200_000)
    assert config.data.evaluate_on == "test"
    assert config.flat()["gamma"] == pytest.approx(2.5)
    seeds = [*STUDY.seeds, *STUDY.tuning.seeds, *STUDY.tuning.final_seeds]
    assert len({*seeds}) == len(seeds)
    assert {*STUDY.tuning.axes} == {*STUDY.primary}


def test_the_pull_of_untuned_arms_is_the_middle_of_the_grid():
    arm = ARMS["rSGD, K=16"]
    assert STUDY.base.flat()["learning_rate"] * arm["gamma"] == pytest.approx(
        STUDY.tuning.axes["rSGD, K=16"]["pull"][1]
    )


@pytest.mark.slow
def test_searches_and_runs_are_kept_and_continued(tmp_path, capsys):
    own = Tuning({"AdamW, S steps": {"learning_rate": (1e-3, 2e-3)}}, (5,), (6,), validation=0.25)
    study = dataclasses.replace(TINY, tuning=own)
    tuned.run_tuned(study, tmp_path)
    found = tuned.read_tuned(study, tmp_path)
    search = found.searches["AdamW, S steps"]
    assert found
    assert search.choice is not None
    rate = dict(search.choice)["learning_rate"]
    (record,) = found.records["AdamW, S steps"].values()
    (path,) = (tmp_path / "tuned" / "final").rglob("*.json")
    assert json.loads(path.read_text())["identity"]["config"]["learning_rate"] == rate
    assert record["flatness"]
    assert min(search.tried["learning_rate"]) < rate < max(search.tried["learning_rate"])
    capsys.readouterr()
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.json")}
    path.unlink()
    tuned.run_tuned(study, tmp_path)
    assert "AdamW, S steps, seed 6" in capsys.readouterr().out
    after = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.json")}
    assert after.keys() == before.keys()
    assert {file for file in after if after[file] != before[file]} == {path}
    again = tuned.read_tuned(study, tmp_path)
    assert again.searches == found.searches
    assert again.records["AdamW, S steps"][6]["curve"] == record["curve"]


def made_up(study, out):
    """Writes records of all candidates and runs, with bits that are random or near a parabola."""
    rng = np.random.default_rng(0)

    def write(part, folder, bits_of):
        for arm, seed in part.units():
            identity = run.identity_of(part, arm, seed, 1000) | {"data": {"examples": 1000}}
            value = {"final": {"bits": bits_of(arm)}}
            path = run.path_of(out / "tuned" / folder, arm, seed)
            store.cached(path, identity, lambda value=value: value)

    searches = {}
    for arm, axes in study.tuning.axes.items():
        bits = {}
        while missing := (search := tuned.search(axes, bits)).missing:
            made = {key: 3 + sum(math.log(v / 0.01) ** 2 for _, v in key) for key in missing}
            names = {tuned.label(arm, key): value for key, value in made.items()}
            write(tuned.candidates_of(study, arm, missing), "search", names.__getitem__)
            bits |= made
        searches[arm] = search
    write(tuned.final_of(study, searches), "final", lambda arm: float(rng.uniform(2, 3)))


def check(text, units):
    """Compares the sentences and the table of the tuned arms with records."""
    bits = {arm: [unit["final"]["bits"] for unit in own.values()] for arm, own in units.items()}

    def minus(arm, reference):
        d = np.subtract(bits[arm], bits[reference])
        half = scipy.stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
        return f"{d.mean():+.3f} [{d.mean() - half:+.3f}, {d.mean() + half:+.3f}]"

    mean = {arm: f"{np.mean(values):.2f}" for arm, values in bits.items()}
    text = text.replace("\n  ", " ")
    assert f"one worker ends at {mean['AdamW']} bits per byte after 1536 steps" in text
    assert f"after 384 at {mean['AdamW, S steps']}." in text
    assert f"every gradient end at {mean['AdamW, batch x 4']} after 384." in text
    for arm in FEW:
        lost, gained = minus(arm, "AdamW, batch x 4"), minus(arm, "AdamW, S steps")
        expected = f"**{arm}** ends at {mean[arm]}. The difference to an exchange of every gradient"
        assert f"{expected} is {lost}, and to one worker alone (S steps) {gained}." in text
    rows = rows_below(text, "| arm              | seeds")
    assert [row[0] for row in rows] == [*ALL]
    for arm, count, shown, lost, gained in rows:
        sem = np.std(bits[arm], ddof=1) / np.sqrt(len(bits[arm]))
        # Means have four decimals before they are shown.
        expected = f"{round(np.mean(bits[arm]), 4):.3f} ± {round(sem, 4):.3f}"
        assert (int(count), shown) == (len(bits[arm]), expected)
        assert lost == ("" if arm == "AdamW, batch x 4" else minus(arm, "AdamW, batch x 4"))
        assert gained == ("" if arm == "AdamW, S steps" else minus(arm, "AdamW, S steps"))


def test_the_section_agrees_with_the_records(tmp_path):
    made_up(STUDY, tmp_path)
    found = tuned.read_tuned(STUDY, tmp_path)
    lines = tuned_summary(STUDY, found)
    text = "\n\n".join([*tuned_section(STUDY, found), *lines, ""])
    check(text, found.records)
    rows = rows_below(text, "| arm              | setting")
    own = found.searches["rSGD, K=16"].tried["pull"]
    shown = ", ".join(f"{own[value]:.2f}" for value in sorted(own))
    assert [row[:5] for row in rows if row[0] == "rSGD, K=16"] == [
        ["rSGD, K=16", "learning rate", "0.001", "0.016", "0.008"],
        ["rSGD, K=16", "pull", "0.0001", "0.1", "0.01"],
    ]
    assert rows[-1][-1] == shown
    assert {row[0] for row in rows} == {*ALL}
    assert "not complete" not in text
    del found.records["AdamW"][20]
    assert tuned_summary(STUDY, found) == []
    text = "\n\n".join(tuned_section(STUDY, found)).replace("\n", " ")
    assert "5 of 5 searches have ended, and 14 of 15 runs with chosen settings." in text


def test_without_records_there_is_no_section(tmp_path):
    found = tuned.read_tuned(STUDY, tmp_path)
    assert not found
    assert tuned_section(STUDY, found) == []
