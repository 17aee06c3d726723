"""Rank correlations against SciPy, by hand, and where they mean nothing."""

import itertools

import numpy as np
import pytest
import scipy.stats

from flatjax.flatness import kendall_tau, rank_solutions


@pytest.mark.parametrize("seed", range(5))
def test_tau_is_scipys(seed):
    rng = np.random.default_rng(seed)
    measure, error = rng.integers(0, 8, (2, 30))  # with ties
    expected = scipy.stats.kendalltau(measure, error).statistic
    assert kendall_tau(measure, error) == pytest.approx(expected, rel=1e-12)
    assert kendall_tau(np.exp(measure), error) == pytest.approx(expected, rel=1e-12)


def test_infinite_measures_are_the_largest():
    assert kendall_tau([1.0, np.inf, 2.0], [1, 3, 2]) == 1
    assert np.isnan(kendall_tau([1.0, 1.0], [1, 2]))


def factorial(**levels):
    values = np.array(list(itertools.product(*levels.values())))
    return dict(zip(levels, values.T, strict=True))


def test_groups_by_hand():
    """Tau of each group, by SciPy, where a group agrees in all other factors."""
    rng = np.random.default_rng(0)
    factors = factorial(rate=[1, 2, 3], decay=[0, 1], seed=[0, 1])
    seeds = factors.pop("seed")
    measure, error = rng.random((2, len(seeds)))
    found = rank_solutions(measure, error, factors, num_bootstrap=10)

    def by_hand(name, other):
        taus = []
        for value in np.unique(factors[other]):
            members = np.flatnonzero(factors[other] == value)
            concordant = pairs = 0
            for i, j in itertools.combinations(members, 2):
                if factors[name][i] != factors[name][j]:
                    concordant += np.sign(measure[i] - measure[j]) * np.sign(error[i] - error[j])
                    pairs += 1
            taus.append(concordant / pairs)
        return np.mean(taus)

    expected = {"rate": by_hand("rate", "decay"), "decay": by_hand("decay", "rate")}
    assert found.by_factor == pytest.approx(expected)
    assert found.granulated == pytest.approx(np.mean(list(expected.values())))
    assert found.num_solutions == 12


def test_a_measure_that_sees_one_factor_only():
    factors = factorial(width=[1, 2, 3], rate=[1, 2, 3])
    error = factors["width"] + 0.1 * factors["rate"]
    found = rank_solutions(factors["width"] - 0.1 * factors["rate"], error, factors)
    assert found.tau > 0.4
    assert found.by_factor == {"width": 1.0, "rate": -1.0}
    assert found.granulated == 0


def test_a_factor_that_never_differs_alone_is_left_out():
    factors = {"a": [1, 1, 2, 2], "b": [1, 1, 2, 2], "c": [0, 1, 0, 1]}
    found = rank_solutions([1, 2, 3, 4], [1, 2, 3, 4], factors, num_bootstrap=10)
    assert np.isnan(found.by_factor["a"])
    assert found.granulated == 1
    assert np.isnan(rank_solutions([1, 2, 3], [1, 2, 3]).granulated)


@pytest.mark.parametrize(
    "values", [["b", "a", "b", "a"], [None, 0.1, None, 0.1], [(1, 2), (1, 3), (1, 2), (1, 3)]]
)
def test_values_of_a_factor_need_no_order(values):
    found = rank_solutions([1, 2, 3, 4], [2, 1, 3, 4], {"a": values, "b": [1, 1, 2, 2]})
    assert found.by_factor == {"a": 0.0, "b": 1.0}


@pytest.mark.slow
def test_intervals_cover():
    """Nine in ten 90% intervals hold the true tau of a correlated normal pair."""
    rho, covered = 0.5, 0
    truth = 2 / np.pi * np.arcsin(rho)
    for seed in range(100):
        x, z = np.random.default_rng(seed).standard_normal((2, 60))
        y = rho * x + np.sqrt(1 - rho**2) * z
        low, high = rank_solutions(x, y, num_bootstrap=200, confidence=0.9, seed=seed).interval
        covered += low < truth < high
    assert 82 <= covered <= 97


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0, 3.0], [1.0, 2.0]), "one length"),
        (([1.0, np.nan, 3.0], [1.0, 2.0, 3.0]), "measure must not hold NaN"),
        (([1.0, 2.0, 3.0], [1.0, 2.0, np.nan]), "error must not hold NaN"),
        (([1.0, 2.0], [1.0, 2.0]), "at least three"),
        (([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], {"a": [1, 2]}), "factors\\['a'\\] must have 3"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        rank_solutions(*arguments)
