"""The search of a contest: halving on cumulative records, ranges that grow, gamma = 0."""

import dataclasses
import itertools

import numpy as np
import pytest

from experiments.configs.contest import COUPLING, STAGES, STUDY
from experiments.engine.placement import OneDevice
from experiments.engine.plan import Plan
from experiments.report.statistics import expected_best
from experiments.studies import runs
from experiments.studies.contest.description import Contestant
from experiments.studies.contest.search import edges_of, search, without_search
from experiments.studies.halving import halve
from experiments.studies.runs import _groups
from experiments.studies.spaces import Choice, log_uniform


def searched(contest, contestant, error_of):
    """Runs a search with errors of a function (settings, seed); the search, and errors in order."""
    errors, rounds = {}, []
    while (found := search(contest, contestant, errors)).missing:
        rounds.append(found.missing)
        for candidate, seed in found.missing:
            assert (candidate, seed) not in errors
            errors[candidate, seed] = error_of(found.candidates[candidate], seed)
    return found, errors, rounds


def distance(**best):
    """An error that is least at the best values, up to noise of the seed and a little more."""

    def error_of(settings, seed):
        parts = [np.log((settings[name] + 1e-12) / value) ** 2 for name, value in best.items()]
        return 20 + sum(parts) + np.random.default_rng(seed).normal(0, 0.1)

    return error_of


def test_the_rounds_are_those_of_the_protocol():
    error_of = distance(learning_rate=0.06, weight_decay=0.01)
    found, errors, rounds = searched(STUDY, "sgd", error_of)
    assert found.extended == []
    assert [len(missing) for missing in rounds] == [32, 15, 10]
    assert {seed for _, seed in rounds[0]} == {0, 1}
    assert {seed for _, seed in rounds[1]} == {2, 3, 4}
    assert {seed for _, seed in rounds[2]} == {5, 6, 7, 8, 9}
    means = [np.mean([errors[c, s] for s in range(2)]) for c in range(16)]
    assert {c for c, _ in rounds[1]} == set(np.argsort(means)[:5])
    finalists = {c for c, _ in rounds[2]}
    best = min(finalists, key=lambda c: np.mean([errors[c, s] for s in range(10)]))
    assert found.chosen == best


def test_a_choice_at_an_edge_extends_its_range_at_most_twice():
    found, _, _ = searched(STUDY, "sgd", distance(learning_rate=0.06, weight_decay=1e6))
    assert found.extended == [("weight_decay", "high")] * 2
    assert len(found.candidates) == 16 + 2 * 4
    first, second = ([c["weight_decay"] for c in found.candidates[a : a + 4]] for a in (16, 20))
    factor = (0.2 / 2e-4) ** (1 / 3)
    assert all(0.2 <= value <= 0.2 * factor for value in first)
    second_factor = (0.2 * factor / 2e-4) ** (1 / 3)
    assert all(0.2 * factor <= value <= 0.2 * factor * second_factor * 1.01 for value in second)
    rates = {c["learning_rate"] for c in found.candidates[16:20]}
    assert max(rates) / min(rates) <= (0.3 / 0.01) ** 0.2 * 1.01  # near the choice
    assert found.chosen >= 20


def test_one_extension_is_enough_where_the_optimum_is_inside_it():
    found, _, _ = searched(STUDY, "sgd", distance(learning_rate=0.06, weight_decay=0.35))
    assert found.extended == [("weight_decay", "high")]
    assert 0.2 <= found.candidates[found.chosen]["weight_decay"] <= 1


@pytest.mark.parametrize("stage", ["main", "paper", "variants", "workers-4"])
def test_runs_accept_all_that_a_search_may_try(stage):
    """A choice at an end of a range extends it, and no run may refuse what is tried there."""
    stage = STAGES[stage]
    stage = dataclasses.replace(
        stage,
        lengths=dict.fromkeys(stage.settings, 1),
        rounds=((stage.trials, 1),),
        edge=0.25,
        extension_trials=2,
    )
    setting = next(iter(stage.settings))
    for label, one in stage.contestants.items():
        config = stage.config(setting, label, "validation")
        ranges = [field for field, part in one.space.items() if not isinstance(part, Choice)]
        for field, sign in itertools.product(ranges, (-1, 1)):
            found, _, _ = searched(stage, label, lambda s, _, f=field, sign=sign: sign * s[f])
            is_last = (field, "high" if sign < 0 else "low") in one.last_ends
            assert any(field == own for own, _ in found.extended) != is_last
            for candidate in found.candidates:
                config.changed(**candidate)


def test_the_lower_end_of_gamma_is_zero():
    error_of = lambda settings, seed: 20 + settings["gamma"] ** 0.1
    found, _, _ = searched(STUDY, "rsgd", error_of)
    zeros = [c for c in found.candidates[16:] if c["gamma"] == 0]
    assert len(zeros) == 4
    assert found.candidates[found.chosen]["gamma"] == 0
    assert found.extended.count(("gamma", "zero")) == 1
    # Where gamma = 0 is not better, it is not tried again.
    worse = lambda settings, seed: error_of(settings, seed) + 5 * (settings["gamma"] == 0)
    found, _, _ = searched(STUDY, "rsgd", worse)
    assert found.extended.count(("gamma", "zero")) == 1
    assert found.candidates[found.chosen]["gamma"] > 0


def test_edges_are_the_outermost_tenths():
    ranges = {"learning_rate": (0.01, 1.0), "gamma": (1e-4, 1.0), "inner_steps": Choice((5, 20))}
    edges = lambda rate, gamma: edges_of(
        STUDY, {"learning_rate": rate, "gamma": gamma, "inner_steps": 5}, ranges
    )
    assert edges(0.0158, 1e-2) == [("learning_rate", "low")]  # log10 = -1.8
    assert edges(0.0159, 0.39) == []
    assert edges(0.64, 0.4) == [("learning_rate", "high"), ("gamma", "high")]
    assert edges(0.1, 2e-4) == [("gamma", "zero")]
    assert edges(0.1, 0.0) == []


def test_ties_are_within_a_standard_error_of_the_paired_difference():
    contest = dataclasses.replace(STUDY, trials=2, rounds=((2, 4),), extensions=0)
    base = np.array([1.0, 5.0, 3.0, 7.0])  # common to both: it cancels

    def ties(difference):
        column = {0: base, 1: base + difference}
        errors = {(c, s): column[c][s] for c in column for s in range(4)}
        return search(contest, "sgd", errors).ties

    assert ties(np.array([1.0, -0.9, 1.0, -0.9])) == [1]
    assert ties(np.array([0.5, 0.4, 0.5, 0.4])) == []


def test_halving_ranks_by_the_seeds_of_the_round():
    errors = {(0, 0): 1.0, (1, 0): 2.0, (0, 1): 9.0, (1, 1): 2.0, (2, 0): 1.5, (2, 1): 1.5}
    # Candidate 2 has more seeds than the first round asks for.
    assert halve(errors, range(3), [(3, 1), (2, 2)]).field == [2, 0]
    with pytest.raises(KeyError):
        errors[0, 2]
    assert halve(errors, range(3), [(3, 1), (2, 3)]).missing == [(0, 2), (2, 2)]


def test_settings_that_shape_a_program_make_programs_of_their_own():
    rates, steps, warmups = (0.1, 0.2, 0.3), (5, 20, 5), (0.0, 0.0, 0.1)
    settings = [
        {"learning_rate": rate, "inner_steps": number}
        for rate, number in zip(rates, steps, strict=True)
    ]
    assert _groups(settings) == {(("inner_steps", 5),): [0, 2], (("inner_steps", 20),): [1]}
    settings = [{"learning_rate": r, "warmup": w} for r, w in zip(rates, warmups, strict=True)]
    assert _groups(settings) == {(("warmup", 0.0),): [0, 1], (("warmup", 0.1),): [2]}
    assert _groups([{"learning_rate": 0.1}]) == {(): [0]}


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_unit_ends_within_twenty_minutes(stage, monkeypatch):
    """Several runs in parallel: at 7 ms a gradient. Runs in turn have a unit each."""
    stage = dataclasses.replace(STAGES[stage], lengths=dict.fromkeys(STAGES[stage].settings, 3))
    for setting, name in itertools.product(stage.settings, stage.contestants):
        config = stage.config(setting, name, "validation")
        plan = Plan(config, None, config.data.train_size, OneDevice())
        assert runs._runs_per_unit(plan) == 1
        with monkeypatch.context() as patch:
            patch.setattr(runs, "train_together", lambda: True)
            size = runs._runs_per_unit(plan)
        assert size * plan.gradient_evaluations * 7e-3 <= 20 * 60


def test_choices_are_equally_likely():
    space = {"rate": (0.1, 1.0), "steps": Choice((5, 20)), "decay": Choice((0.5, 0.75, 0.9))}
    points = log_uniform(space, 120)
    for name in ("steps", "decay"):
        values = [point[name] for point in points]
        counts = [values.count(value) for value in space[name].values]
        assert min(counts) >= 120 / len(counts) - 5
    assert points[:7] == log_uniform(space, 7)


def test_a_contestant_takes_the_choice_of_another_one():
    error_of = distance(learning_rate=0.06, weight_decay=0.01, gamma=0.01)
    parent, _, _ = searched(STUDY, "rsgd", error_of)
    found = without_search(COUPLING.contestants["rsgd gamma 0"], parent)
    assert found.missing == []
    assert found.candidates[found.chosen] == parent.candidates[parent.chosen] | {"gamma": 0.0}
    waiting = search(STUDY, "rsgd", {})
    assert without_search(COUPLING.contestants["rsgd gamma 0"], waiting).chosen is None
    orphan = {"copy": Contestant({"algorithm": "rsgd"}, choice_of="rsgd")}
    with pytest.raises(ValueError, match="algorithms must include 'rsgd'"):
        dataclasses.replace(STUDY, contestants=orphan)


def test_errors_of_the_random_candidates_are_those_before_any_choice():
    found, errors, _ = searched(STUDY, "sgd", distance(learning_rate=0.06, weight_decay=1e6))
    expected = [np.mean([errors[one, seed] for seed in (0, 1)]) for one in range(16)]
    np.testing.assert_allclose(found.first_errors, expected)
    assert search(STUDY, "sgd", {}).first_errors == []


def test_the_expected_best_is_the_mean_over_all_draws():
    values = np.random.default_rng(0).normal(size=7)
    for number in (1, 2, 3, 7):
        draws = [min(draw) for draw in itertools.combinations(values, number)]
        assert expected_best(values, number) == pytest.approx(np.mean(draws))
