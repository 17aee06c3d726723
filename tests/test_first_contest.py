"""The contest: fair candidates, paired statistics, resumed where it was stopped."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.stats

from experiments.configs.first_contest import SMALL, STUDY
from experiments.engine.config import TrainConfig
from experiments.report import store
from experiments.report.statistics import holm
from experiments.studies.first_contest import report, run
from experiments.studies.first_contest.description import Contest

TINY = Contest(
    base=TrainConfig.of(
        dataset="digits",
        batch_size=32,
        train_size=100,
        epochs=2,
        validation=0.2,
        sigmas=(0.3,),
        local_energy_samples=2,
        local_energy_examples=50,
    ),
    settings={"MLP, 20% noise": {"label_noise": 0.2}, "MLP, clean": {}},
    spaces={"sgd": {"learning_rate": (0.01, 1.0)}, "swa": {"learning_rate": (0.01, 1.0)}},
    trials=2,
    tuning_seeds=(0,),
    test_seeds=(10, 11),
    sigma=0.3,
)


@pytest.mark.slow
def test_it_runs_and_goes_on_where_it_was(tmp_path, monkeypatch):
    one = dataclasses.replace(TINY, settings={"MLP, 20% noise": {"label_noise": 0.2}})
    results = run.run_contest(one, tmp_path, progress=False)
    path = tmp_path / "mlp-20-noise" / "swa"
    tuning = json.loads((path / "tuning.json").read_text())["value"]
    errors = [row["validation_error"][0] for row in tuning]
    assert errors == sorted(errors)
    found = results["MLP, 20% noise"]["swa"]
    assert found["settings"] == tuning[0]["settings"]
    assert [run["seed"] for run in found["runs"]] == [10, 11]

    text = report.report(one, results, tmp_path)
    assert "swa" in text
    assert (tmp_path / "contest.png").stat().st_size > 1000
    # A contest of more trials, or of more epochs, is another one.
    for change in ({"trials": 3}, {"base": dataclasses.replace(TINY.base, epochs=3)}):
        other = dataclasses.replace(one, **change)
        field = "candidates" if "trials" in change else r"config\.epochs: wanted 3, found 2"
        with pytest.raises(store.OtherIdentityError, match=rf"sgd/tuning\.json .*{field}"):
            run.read_contest(other, tmp_path)
        with pytest.raises(store.OtherIdentityError, match=field):
            run.run_contest(other, tmp_path, progress=False)
    # Nothing is left to do but what is missing.
    assert run.read_contest(TINY, tmp_path) == results
    monkeypatch.setattr(run, "_tune", None)
    (path / "test.json").unlink()
    assert run.run_contest(one, tmp_path, progress=False) == results


def fake(errors):
    runs = [
        {
            "seed": seed,
            "test_error": error,
            "train_error": 1.0,
            "sigma": [0.3],
            "local_energy": [2.0],
        }
        for seed, error in enumerate(errors)
    ]
    return {"settings": {}, "gradient_evaluations": 1, "runs": runs}


def test_statistics_are_paired_and_corrected():
    rng = np.random.default_rng(0)
    sgd = rng.normal(20, 3, 10)
    better, same = sgd - 0.5 + rng.normal(0, 0.2, 10), sgd + rng.normal(0, 0.2, 10)
    results = {"a": {"sgd": fake(sgd), "esgd": fake(better), "rsgd": fake(same)}}
    _, first, second = report.summarize(TINY, results)
    test = scipy.stats.ttest_1samp(better - sgd, 0)
    assert first["p"] == pytest.approx(test.pvalue)
    assert first["p_holm"] == pytest.approx(2 * test.pvalue)
    assert first["interval"] == pytest.approx(list(test.confidence_interval()), abs=1e-4)
    assert first["difference"] == pytest.approx(np.mean(better - sgd), abs=1e-4)
    assert first["p_holm"] < 0.01 < second["p_holm"]


def test_variants_are_compared_with_sam_too_and_corrected_among_themselves():
    rng = np.random.default_rng(0)
    sgd = rng.normal(20, 3, 10)
    sam, esgd, pull = (sgd + shift + rng.normal(0, 0.2, 10) for shift in (-0.5, -0.1, -0.7))
    errors = {"sgd": sgd, "sam": sam, "esgd": esgd, "rsgd, pull": pull}
    results = {"a": {name: fake(values) for name, values in errors.items()}}
    variants = {"rsgd, pull": {"algorithm": "rsgd", "decoupled": True}}
    found = report.summarize(
        dataclasses.replace(TINY, variants=variants, against=("sam",)), results
    )
    rows = {row["algorithm"]: row for row in found}
    assert rows["rsgd, pull"]["base"] == "rsgd"
    assert rows["rsgd, pull"]["p_holm"] == rows["rsgd, pull"]["p"]  # alone in its family
    assert rows["sam"]["p_holm"] == pytest.approx(2 * rows["sam"]["p"])
    test = scipy.stats.ttest_1samp(pull - sam, 0).confidence_interval()
    expected = [np.mean(pull - sam), *test]
    assert rows["rsgd, pull"]["against"]["sam"] == pytest.approx(expected, abs=1e-4)
    assert rows["sam"]["against"] == {}
    assert "to sam" in report.table(found, 0.3)


def test_meetings_are_those_of_the_tested_runs():
    old, new = fake([1.0, 2.0]), fake([1.0])
    new["runs"][0]["meeting"] = meeting = {"center": 9.0, "replicas": 2.0, "distance": 0.5}
    found = report.meetings({"a": {"rsgd": old, "sgd": fake([1.0])}, "b": {"rsgd": new}})
    assert found == {"rsgd": [("a", None), ("a", None), ("b", meeting)], "sgd": [("a", None)]}


def test_more_trials_hold_the_fewer():
    more = dataclasses.replace(TINY, trials_of={"sgd": 7})
    assert more.candidates("sgd")[: TINY.trials] == TINY.candidates("sgd")
    assert len(more.candidates("sgd")) == 7


def test_holm_rejects_what_the_procedure_rejects():
    p = np.array([0.011, 0.02, 0.3, 0.012, 0.5])
    corrected = holm(p)
    # Step down: the smallest against 5 tests, the next against 4, ...
    level, rejected = 0.05, np.zeros(5, bool)
    for rank, index in enumerate(np.argsort(p)):
        if p[index] > level / (5 - rank):
            break
        rejected[index] = True
    np.testing.assert_array_equal(corrected <= level, rejected)
    assert np.all(corrected >= p)


def test_all_algorithms_have_the_same_number_of_trials():
    assert set(STUDY.variants) < set(STUDY.spaces)
    assert set(SMALL.spaces) == set(STUDY.spaces) - set(STUDY.variants)
    assert not set(STUDY.tuning_seeds) & set(STUDY.test_seeds)
    for algorithm, space in STUDY.spaces.items():
        candidates = STUDY.candidates(algorithm)
        assert len(candidates) == (48 if algorithm == "sgd, 48 trials" else STUDY.trials)
        assert candidates == STUDY.candidates(algorithm)
        for name, (low, high) in space.items():
            values = np.log([candidate[name] for candidate in candidates])
            assert np.log(low) <= values.min() <= values.max() <= np.log(high)
            # Spread over the whole range, not clumped.
            assert np.ptp(values) > 0.7 * np.log(high / low)
        for setting in STUDY.settings:
            config = STUDY.config(setting, algorithm, "test")
            assert config.algorithm.name == STUDY.algorithm_of(algorithm)
