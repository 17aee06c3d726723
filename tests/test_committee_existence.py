"""Message passing does not converge to weights without errors where there are none."""

import functools
import itertools

import numpy as np
import pytest
import scipy.optimize
from fast import only, slow
from test_committee_amp import instance

from flatjax.committee import amp, belief_propagation, expectation_propagation
from flatjax.committee._marginals import is_seen

SOLVERS = {
    "amp": amp,
    "expectation_propagation": expectation_propagation,
    "belief_propagation": functools.partial(belief_propagation, key=0, damping=0.8),
}


def contradictory(num, sign=1):
    """The first pattern once more with another label, or its negative with the same."""
    x, y, teacher = instance(0, num - 1, 20, 3)
    return np.vstack([x, sign * x[:1]]), [*y, -sign * y[0]], teacher


@pytest.mark.slow
@pytest.mark.parametrize("sign", [-1, 1])
def test_contradictions_leave_nothing(sign):
    x, y, teacher = contradictory(12, sign)
    found = amp(x, y, reference=teacher, overlap=0.7)
    assert np.isnan(found.phi)
    assert not found.converged
    assert np.all(np.isfinite(found.mean))


@pytest.mark.parametrize("solver", only(["amp"], SOLVERS))
@pytest.mark.parametrize("max_iterations", [500, slow(5000)])
def test_three_patterns_that_cancel_leave_nothing(solver, max_iterations):
    """At 120 degrees: no two of them exclude each other, and their messages add up to 0."""
    angles = 2 * np.pi * np.arange(3) / 3
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert not SOLVERS[solver](x, np.ones(3), max_iterations=max_iterations).converged


@pytest.mark.parametrize(
    ("solver", "factor", "num_units"),
    only([("amp", 2.0, 1)], itertools.product(SOLVERS, [2.0, 3.7], [1, 3])),
)
def test_contradictions_of_any_length(solver, factor, num_units):
    x, y, _ = instance(0, 4, 20, 1)
    x, y = np.vstack([x, factor * x[:1]]), np.append(y, -y[0])
    found = SOLVERS[solver](x, y, num_units=num_units)
    assert not found.converged
    assert np.isnan(getattr(found, "phi", np.nan))


def separable(x, y):
    """Whether a perceptron can classify the patterns: by a linear program."""
    return scipy.optimize.linprog(
        np.zeros(x.shape[1]), -(y[:, None] * x), -np.ones(len(y)), bounds=(None, None)
    ).success


@pytest.mark.parametrize(
    ("solver", "num_inputs"),
    only([("amp", 2)], itertools.product(SOLVERS, [2, 12])),
)
def test_random_perceptrons_converge_only_where_there_are_any(solver, num_inputs):
    rng = np.random.default_rng(num_inputs)
    num_patterns, outcomes = 2 * num_inputs, []
    for _ in range(30):
        x, y = rng.standard_normal((num_patterns, num_inputs)), rng.choice([-1, 1], num_patterns)
        found = SOLVERS[solver](x, y)
        outcomes.append((bool(found.converged), separable(x, y)))
        if found.converged:
            assert getattr(found, "phi", -1.0) < 0
    assert (True, False) not in outcomes
    assert {(True, True), (False, False)} <= set(outcomes)


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.slow
def test_random_perceptrons_of_few_inputs_against_counting(around):
    """Where they converge there are such weights; numbers are those of the docstring of `amp`."""
    rng, num, overlap = np.random.default_rng(0), 5, 0.8
    for _ in range(15):
        x, y = rng.standard_normal((6, num)), rng.choice([-1, 1], 6)
        z, given = rng.standard_normal((100_000, num)), {}
        if around:
            axis = rng.standard_normal(num)
            axis /= np.linalg.norm(axis)
            given = {"reference": axis[None], "overlap": overlap}
            y = np.where(rng.random(6) < 0.2, y, np.sign(x @ axis))
            z -= (z @ axis)[:, None] * axis
            z *= np.sqrt(1 - overlap**2) / np.linalg.norm(z, axis=1, keepdims=True)
            z += overlap * axis
        share = np.mean(np.all((z @ x.T) * y > 0, axis=1))
        for solver in (amp, expectation_propagation):
            found = solver(x, y, **given)
            if found.converged:
                assert share > 0 or found.phi * num < -8
                if share > 1e-4:
                    assert abs(found.phi - np.log(share) / num) < (1.0 if around else 0.15)


def exist_in_the_plane(x, y, num_units):
    """Whether there are committees without errors of two inputs, by all their classifications."""
    normals = np.arctan2(x[:, 1], x[:, 0])
    borders = np.sort(np.concatenate([normals - np.pi / 2, normals + np.pi / 2]) % (2 * np.pi))
    angles = (borders + np.append(borders[1:], borders[0] + 2 * np.pi)) / 2
    votes = np.sign(np.stack([np.cos(angles), np.sin(angles)], axis=1) @ x.T)
    rows = itertools.combinations_with_replacement(range(len(votes)), num_units)
    return bool((votes[np.array(list(rows))].sum(axis=1) * y > 0).all(axis=1).any())


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["amp", "expectation_propagation"])
def test_random_committees_converge_only_where_there_are_any(solver):
    rng, outcomes = np.random.default_rng(0), []
    for _ in range(12):
        x, y = rng.standard_normal((7, 2)), rng.choice([-1, 1], 7)
        found = SOLVERS[solver](x, y, num_units=3)
        outcomes.append((bool(found.converged), exist_in_the_plane(x, y, 3)))
    assert (True, False) not in outcomes
    assert {(True, True), (False, False)} <= set(outcomes)


def test_shares_that_draws_show_or_do_not():
    """Of a half-space, and of none; rare ones are not drawn."""
    draw = lambda rng, count: rng.standard_normal((count, 1, 2))
    x = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert is_seen(np.log(0.5), draw, 2, x[:1], np.ones(1))
    assert not is_seen(np.log(0.5), draw, 2, x, np.ones(2))
    assert not is_seen(-13.0, draw, 2, x, np.ones(2))
    assert is_seen(-15.0, draw, 2, x, np.ones(2))
    assert is_seen(-np.inf, draw, 2, x, np.ones(2))
