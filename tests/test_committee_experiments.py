"""The study of committees: its data, its training, its records and its report."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from fast import slow

from experiments.configs.committee import TASKS
from experiments.report.store import OtherIdentityError
from experiments.studies.committee import run
from experiments.studies.committee.description import (
    CommitteeStudy,
    GradientSolver,
    MessagePassing,
    TwoClasses,
)
from experiments.studies.committee.report import report
from experiments.studies.committee.run import run_study
from experiments.studies.committee.solvers import solve, train
from experiments.studies.committee.task import available, make_patterns
from flatjax.committee import error

DIGITS = TwoClasses("digits", (3, 8), num_train=60, num_validation=60)
KEY = jax.random.key(0)


def test_patterns_are_divided_and_scaled():
    learned, validation, test = make_patterns(DIGITS, 0)
    assert learned.x.shape == (60, 64)
    assert validation.x.shape == (60, 64)
    everything = np.concatenate([part.x for part in (learned, validation, test)])
    assert len(np.unique(everything, axis=0)) > 0.95 * len(everything)
    assert set(learned.y) == {-1.0, 1.0}
    assert np.isfinite(everything).all()
    assert np.all(everything[:, everything.std(axis=0) == 0] == 0)  # pixels that never change
    assert 0.5 < everything.std() < 1.1
    again, *_ = make_patterns(DIGITS, 0)
    other, *_ = make_patterns(DIGITS, 1)
    assert np.array_equal(again.x, learned.x)
    assert not np.array_equal(other.x, learned.x)
    noisy, *_ = make_patterns(dataclasses.replace(DIGITS, label_noise=0.2), 0)
    assert np.array_equal(noisy.x, learned.x)
    assert np.sum(noisy.y != learned.y) == 12
    with pytest.raises(ValueError, match=r"num_train \+ num_validation must be at most 258"):
        make_patterns(dataclasses.replace(DIGITS, num_train=500), 0)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["rsgd", slow("sgd"), slow("esgd")])
def test_gradients_teach_a_committee(algorithm):
    learned, validation, _ = make_patterns(DIGITS, 0)
    replicas = 3 if algorithm == "rsgd" else 1
    solver = GradientSolver(algorithm, epochs=40, batch_size=20, replicas=replicas)
    weights, members = train(solver, 3, learned, KEY)
    assert members.shape == (replicas, 3, 64)
    np.testing.assert_allclose(np.sum(weights**2, axis=1), 64, rtol=1e-5)
    assert error(weights, learned.x, learned.y) <= 1 / 60
    assert error(weights, validation.x, validation.y) < 0.2
    assert np.array_equal(solve(solver, 3, learned, KEY), weights)
    assert not np.array_equal(solve(solver, 3, learned, jax.random.key(1)), weights)


def make_study(**changes):
    changes = {
        "task": DIGITS,
        "num_units": 3,
        "solvers": {
            "SGD fast": GradientSolver(epochs=40, batch_size=20),
            "fBP": MessagePassing(num_replicas=30, num_gammas=10),
        },
        "spaces": {"SGD fast": {"learning_rate": (1e-3, 1.0)}},
        "subsets": (0,),
        "tuning_subsets": (100,),
        "seeds": (0, 1),
        "overlaps": (0.9, 0.8),
        "sampled_overlaps": (0.8,),
        "sigmas": (0.5, 1.0),
        "num_samples": 5,
        "direct_samples": 200,
        "betas": (1.0, 3.0),
        "chain_steps": 50,
    } | changes
    return CommitteeStudy(**changes)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_the_study_goes_on_where_it_was(tmp_path, monkeypatch):
    run_study(make_study(seeds=(0,)), tmp_path, progress=False)
    tried = lines(tmp_path / "tuning.jsonl")
    assert [record["settings"]["learning_rate"] for record in tried] == [1e-3, 1.0]
    assert tried[0]["validation_error"] > tried[1]["validation_error"]
    first = lines(tmp_path / "solutions.jsonl")
    assert [run["solver"] for run in first] == ["SGD fast", "fBP"]

    trained = []
    solve = run.solve
    monkeypatch.setattr(run, "solve", lambda *args: trained.append(args) or solve(*args))
    run_study(make_study(), tmp_path, progress=False)
    assert lines(tmp_path / "solutions.jsonl")[:2] == first
    assert {args[0].learning_rate for args in trained if hasattr(args[0], "learning_rate")} == {1.0}
    assert len(lines(tmp_path / "solutions.jsonl")) == 4
    assert len(lines(tmp_path / "estimators.jsonl")) == 2

    text = report(make_study(), tmp_path)
    assert "| SGD fast " in text
    assert "EP / sampled" in text
    assert (tmp_path / "committee.png").stat().st_size > 10_000
    for found in lines(tmp_path / "solutions.jsonl"):
        assert found["train_error"] < 0.1

    for change in ({"num_samples": 6}, {"num_units": 5}, {"overlaps": (0.9,)}):
        (name,) = change
        with pytest.raises(OtherIdentityError, match=rf"jsonl, line 1 .*{name}: wanted"):
            report(make_study(**change), tmp_path)
        assert np.shape(found["phi"]) == (2,)
        assert np.shape(found["counted_phi"]) == (1,)


def test_where_data_are_missing_it_goes_on_with_digits(monkeypatch, capsys):
    def missing(*_):
        raise FileNotFoundError("install the files")

    monkeypatch.setattr("experiments.studies.committee.task._load", missing)
    assert available(TASKS["fashion_mnist"], TASKS) == TASKS["digits"]
    assert "install the files\nContinuing with digits" in capsys.readouterr().err


def test_nothing_is_reported_before_anything_is_there(tmp_path):
    with pytest.raises(ValueError, match="holds no solution"):
        report(make_study(), tmp_path)
