"""What the chapter on the language model says, computed from the records of each seed."""

import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest
import scipy.stats
from pages import rows_below

from experiments.configs.language import STUDY
from experiments.report import store
from experiments.studies.language import run
from experiments.studies.language.page import page
from experiments.studies.language.tuned import read_tuned

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "results" / "language.md"
RECORDS = store.RESULTS / "language"
ARMS = ("AdamW", "AdamW, S steps", "DiLoCo, K=16", "rSGD, K=16")


def fake(arm, seed):
    """A record of one unit, with the fields that the chapter reads."""
    rng = np.random.default_rng([seed, *arm.encode()])
    end = {"step": 1, "tokens": 1, "bits": 3.0}
    flat = {"rise_bits": [0.1, float(rng.uniform())]}
    if arm == "rSGD, K=16":
        end, flat = end | {"relative_distance": 0.25}, flat | {"coefficient": 41.6}
        flat["coefficient_problems"] = ["temperature 0.25 instead of 1: more steps."]
    final = {"bits": float(rng.uniform(2, 3))}
    return {"curve": [end], "flatness": [flat], "final": final, "num_weights": 1_000_000}


def units_in(out):
    """{arm: {seed: unit}} of a directory, read without the code under test."""
    found = {}
    for arm in STUDY.arms:
        files = sorted((out / store.slug(arm)).glob("seed-*.json"))
        units = {int(f.stem.split("-")[1]): json.loads(f.read_text())["value"] for f in files}
        if units:
            found[arm] = units
    return found


def check(text, out, study=STUDY):
    """Compares all tables and differences of a chapter with the records."""
    units = units_in(out)
    bits = {arm: np.array([u["final"]["bits"] for u in own.values()]) for arm, own in units.items()}
    rows = rows_below(text, "| arm")
    assert [row[0] for row in rows] == [*units]
    for arm, steps, shown, *differences in rows:
        assert int(steps) == (4 if STUDY.arms[arm].get("steps") else 1) * STUDY.steps
        mean = f"{round(bits[arm].mean(), 4):.3f}"
        if len(bits[arm]) == 1:
            assert shown == mean
        else:
            sem = bits[arm].std(ddof=1) / np.sqrt(len(bits[arm]))
            # The store of means has four decimals.
            assert shown == f"{mean} ± {round(float(sem), 4):.3f}"
        for cell, reference in zip(differences, ("AdamW", "AdamW, S steps"), strict=True):
            same = {*units[arm]} == {*units.get(reference, ())}
            if not same or arm == reference or len(bits[arm]) < 2:
                continue
            d = bits[arm] - bits[reference]
            half = scipy.stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
            low, high = d.mean() - half, d.mean() + half
            assert cell == f"{d.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
    rows = rows_below(text[text.index("## Messages") :], "| arm")
    for arm, messages, _, distance, rise in rows:
        ends = [unit["curve"][-1] for unit in units[arm].values()]
        rises = [unit["flatness"][-1]["rise_bits"][-1] for unit in units[arm].values()]
        assert rise.split(" ± ")[0] == f"{round(np.mean(rises), 4):.3f}"
        assert (" ± " in rise) == (len(rises) > 1)
        assert bool(distance) == ("relative_distance" in ends[0])
        if arm == "rSGD, K=16":
            assert int(messages) == 4 * STUDY.steps // 16
    flat = [at for own in units.values() for u in own.values() for at in u["flatness"]]
    known = [at["coefficient_problems"] for at in flat if "coefficient" in at]
    rough = [" ".join(problems) for problems in known if problems]
    assert f"{len(rough)} of {len(known)} estimates of the learning coefficient" in text
    reached = max(re.findall(r"temperature ([\d.]+) instead", " ".join(rough)), key=float)
    assert f"temperature of {float(reached):.2f} at most" in text
    check_summary(text.replace("\n  ", " "), units, bits, len(study.units()))


def check_summary(text, units, bits, planned):
    """Compares the sentences above the tables with the records."""
    done = sum(map(len, units.values()))
    assert (f"{done} of {planned} runs are complete." in text) == (done < planned)
    mean = {arm: f"{values.mean():.2f}" for arm, values in bits.items()}
    if "AdamW, batch x 4" in mean:
        assert f"one worker ends at {mean['AdamW']} bits per byte after 1536 steps" in text
        assert f"every gradient at {mean['AdamW, batch x 4']} after 384" in text
        assert f"One worker alone is at {mean['AdamW, S steps']} after 384." in text
        for arm in ("DiLoCo, K=16", "rSGD, K=16"):
            assert f"**{arm}** ends at {mean[arm]}. The difference to an exchange" in text
            common = sorted({*units[arm]} & {*units["AdamW, batch x 4"]})
            of = lambda name, seeds=common: [units[name][s]["final"]["bits"] for s in seeds]
            d = np.subtract(of(arm), of("AdamW, batch x 4"))
            assert f"an exchange of every gradient is {d.mean():+.3f} [" in text
    for name in ("DiLoCo", "rSGD", "Parle"):
        found = [mean.get(f"{name}, K={k}") for k in (1, 16, 64)]
        if None not in found:
            first, second, third = found
            assert f"{name} has {first}, {second} and {third} bits with a message" in text
    last = lambda unit: unit["flatness"][-1]["rise_bits"][-1]
    rise = {arm: np.mean([last(unit) for unit in own.values()]) for arm, own in units.items()}
    low, *_, high = sorted(rise, key=rise.get)
    assert f"{low} has the smallest rise under noise ({rise[low]:.3f} bits)" in text
    assert f"{high} the largest ({rise[high]:.3f})" in text
    tau = scipy.stats.kendalltau([*rise.values()], [bits[arm].mean() for arm in rise]).statistic
    assert f"Kendall's τ of rise and bits is {tau:+.2f}." in text


def test_the_draft_agrees_with_the_records(tmp_path):
    study = dataclasses.replace(STUDY, arms={arm: STUDY.arms[arm] for arm in ARMS})
    for arm in ARMS:
        for seed in STUDY.seeds:
            identity = run.identity_of(study, arm, seed, 1000) | {"data": {"examples": 1000}}
            path = run.path_of(tmp_path, arm, seed)
            store.cached(path, identity, lambda arm=arm, seed=seed: fake(arm, seed))
    text = page(study, run.read_study(study, tmp_path), read_tuned(study, tmp_path))
    check(text, tmp_path, study)
    with pytest.raises(AssertionError):
        check(text.replace("| rSGD, K=16 ", "| rSGD, K=64 ", 1), tmp_path, study)


def test_the_chapter_agrees_with_the_records():
    text = PAGE.read_text()
    tuned = read_tuned(STUDY, RECORDS)
    assert text == page(STUDY, run.read_study(STUDY, RECORDS), tuned)
    check(text, RECORDS)


def tuned_bits(arm):
    """Final bits of the tuned runs of an arm, by seed."""
    folder = RECORDS / "tuned" / "final" / store.slug(arm)
    units = [json.loads(path.read_text())["value"] for path in sorted(folder.glob("seed-*.json"))]
    assert len(units) == len(STUDY.tuning.final_seeds)
    return np.array([unit["final"]["bits"] for unit in units])


@pytest.mark.claim("experiments/RESULTS.md", "What do few messages cost?")
def test_few_messages_gain_less_than_a_gradient_at_every_step():
    alone = tuned_bits("AdamW, S steps")
    gains = {}
    for arm in ("AdamW, batch x 4", "rSGD, K=16", "DiLoCo, K=16"):
        d = alone - tuned_bits(arm)
        half = scipy.stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
        assert d.mean() > half > 0
        gains[arm] = f"{d.mean():.2f}"
    words = " ".join((store.RESULTS.parent / "RESULTS.md").read_text().split())
    each, rsgd, diloco = gains.values()
    assert f"Replicated-SGD gains {rsgd} bits per byte over one worker alone" in words
    assert f"DiLoCo {diloco}, and an exchange at every step {each}" in words


def test_choices_from_single_runs_are_uncertain():
    units = units_in(RECORDS)
    bits = [np.mean([u["final"]["bits"] for u in units[arm].values()]) for arm in ARMS[2:]]
    assert f"DiLoCo has {bits[0]:.2f} and rSGD {bits[1]:.2f}." in PAGE.read_text()


@pytest.mark.claim("experiments/RESULTS.md", "The tuned Replicated-SGD averages")
def test_the_tuned_replicas_are_averaged_at_each_message():
    """Points of the curve follow a message. A larger pull gives the same bits."""
    folder = RECORDS / "tuned"
    units = [
        json.loads(path.read_text())["value"]
        for path in (folder / "final" / store.slug("rSGD, K=16")).glob("seed-*.json")
    ]
    points = [point for unit in units for point in unit["curve"]]
    assert len(points) == 18
    assert all(point["step"] % 16 == 0 and point["relative_distance"] < 1e-7 for point in points)
    assert "**The tuned rSGD is local SGD.**" in PAGE.read_text()
    ends = [
        json.loads(next(path.glob("*.json")).read_text())["value"]["final"]["bits"]
        for pull in (1, 10)
        for path in folder.glob(f"search/rsgd*learning_rate=0.002-pull={pull}")
    ]
    assert len(ends) == 2
    assert ends[0] == ends[1]
    once = [point["relative_distance"] for point in units_in(RECORDS)["rSGD, K=16"][0]["curve"]]
    assert max(once) > 0.05  # untuned, they are apart
