"""Rankings of any values: those of SciPy, with the symmetries of ranks; or an error."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st
from properties import NO_COUNTS, NUMBERS_NO_MORE, holds

from flatjax import flatness

values = st.lists(st.integers(0, 4), min_size=3, max_size=12)


def test_tau_is_that_of_scipy():
    def check(measure, seed):
        error = np.random.default_rng(seed).integers(0, 4, size=len(measure))
        expected = scipy.stats.kendalltau(measure, error).statistic
        np.testing.assert_allclose(flatness.kendall_tau(measure, error), expected, atol=1e-12)

    holds(check, 60, measure=values, seed=st.integers(0, 5))


def test_ranking_has_its_symmetries():
    def check(measure, seed):
        rng = np.random.default_rng(seed)
        error, order = rng.integers(0, 4, size=len(measure)), rng.permutation(len(measure))
        factors = {name: rng.integers(0, 2, size=len(measure)) for name in "ab"}
        rank = lambda measure, error, factors: flatness.rank_solutions(
            measure, error, factors, num_bootstrap=20
        )
        found = rank(measure, error, factors)
        # Monotone functions, and another order, change nothing; the opposite order the sign.
        stretched = rank(np.exp(measure), 3 * error - 7, factors)
        shuffled = rank(
            np.array(measure)[order],
            error[order],
            {name: levels[order] for name, levels in factors.items()},
        )
        opposite = rank(-np.array(measure), error, factors)
        for name in ("tau", "granulated"):
            one = getattr(found, name)
            assert np.isnan(one) or -1 <= one <= 1
            np.testing.assert_allclose(getattr(stretched, name), one, atol=1e-12)
            np.testing.assert_allclose(getattr(shuffled, name), one, atol=1e-12)
            np.testing.assert_allclose(getattr(opposite, name), -one, atol=1e-12)

    holds(check, 40, measure=values, seed=st.integers(0, 5))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (([1, 2, 3], [1, 2]), "error"),
        (([[1, 2, 3]], [[1, 2, 3]]), "measure"),
        (([1, 2], [1, 2]), "measure"),
        (([1, 2, np.nan], [1, 2, 3]), "measure"),
        (([1, 2, 3], [1, np.nan, 3]), "error"),
        (([1, 2, 3], [1, 2, 3], {"rate": [1, 2]}), "rate"),
        (([1, 2, "a"], [1, 2, 3]), "measure"),
        ((None, [1, 2, 3]), "measure"),
        (([1, 2, 3j], [1, 2, 3]), "measure"),
    ],
)
def test_what_cannot_be_ranked_is_refused_by_name(arguments, name):
    with pytest.raises((TypeError, ValueError), match=name):
        flatness.rank_solutions(*arguments)


@pytest.mark.parametrize("name", ["num_bootstrap", "confidence"])
def test_bad_bootstraps_are_refused_by_name(name):
    bad = NO_COUNTS if name == "num_bootstrap" else [*NUMBERS_NO_MORE, 0.0, 1.0]
    for value in bad:
        with pytest.raises((TypeError, ValueError), match=name):
            flatness.rank_solutions([1, 2, 3], [1, 2, 3], **{name: value})
