"""Solvers: the Gaussian of coupled replicas, limits of their number, and that they solve."""

import jax
import numpy as np
import pytest
from test_committee_amp import instance

from flatjax._float64 import in_float64
from flatjax.committee import error
from flatjax.committee._amp import amp
from flatjax.committee._constraints import constrained
from flatjax.committee._focusing import (
    belief_propagation,
    default_gamma,
    focusing_bp,
    replicated,
)

PROBLEM = {"num_patterns": 150, "num_inputs": 100, "num_units": 3}
coupled = in_float64(jax.jit(replicated))
REPLICAS = [1, 30, 1e9, np.inf]


def sums():
    rng = np.random.default_rng(0)
    return rng.uniform(-0.5, 2.0, (3, 10)), rng.standard_normal((3, 10)), np.zeros(3)


@pytest.mark.parametrize("num_replicas", [2, 5])
def test_replicas_are_marginals_of_a_star(num_replicas):
    """Replicas and their center are jointly Gaussian: its covariance says what a message may."""
    gamma = 0.7
    a, b, start = sums()
    found = coupled(a, b, start, gamma, 1 - 1 / num_replicas)
    np.testing.assert_allclose(np.mean(found.variance + found.mean**2, axis=1), 1, rtol=1e-12)
    for k, i in ((0, 0), (2, 7)):
        alone = found.norm_multiplier[k] + a[k, i]
        precision = np.diag([alone + gamma] * num_replicas + [num_replicas * gamma])
        precision[-1, :-1] = precision[:-1, -1] = -gamma
        covariance = np.linalg.inv(precision)
        assert found.variance[k, i] == pytest.approx(covariance[0, 0], rel=1e-12)
        mean = covariance @ np.append(np.full(num_replicas, b[k, i]), 0.0)
        assert found.mean[k, i] == pytest.approx(mean[0], rel=1e-12)


def test_limits_of_the_number_of_replicas():
    a, b, start = sums()
    one = coupled(a, b, start, 0.7, 0.0)
    free = in_float64(jax.jit(constrained))(a, b, None, None, start)
    for ours, theirs in zip(one, free, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    limit = coupled(a, b, start, 0.7, 1.0)
    many = coupled(a, b, start, 0.7, 1 - 1e-9)
    np.testing.assert_allclose(limit.mean, many.mean, rtol=1e-7)
    np.testing.assert_allclose(
        limit.variance, 1 / (limit.norm_multiplier[:, None] + a + 0.7), rtol=1e-12
    )


@pytest.fixture(scope="module")
def focused():
    x, y, _ = instance(0, *PROBLEM.values())
    solve = lambda replicas: focusing_bp(
        x, y, jax.random.key(0), num_units=3, num_replicas=replicas
    )
    return x, y, {replicas: solve(replicas) for replicas in REPLICAS}


@pytest.mark.slow
def test_replicas_find_solutions(focused):
    x, y, found = focused
    for replicas in REPLICAS[1:]:
        result = found[replicas]
        assert error(result.weights, x, y) == result.train_error == 0
        assert result.train_errors.shape == result.residuals.shape == result.gamma.shape == (60,)
        assert result.train_errors[0] > 0.05
        np.testing.assert_allclose(np.sum(result.weights**2, axis=1), 100, rtol=1e-12)
    np.testing.assert_allclose(found[np.inf].weights, found[1e9].weights, atol=0.01)
    # The coupling brings replicas together, the more the more there are.
    spread = [found[replicas].variance.mean() for replicas in REPLICAS]
    assert spread[0] > 2 * spread[1] > 4 * spread[3]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [np.full(60, 30.0), lambda index: 30])
def test_a_constant_schedule_is_a_number(focused, schedule):
    x, y, found = focused
    again = focusing_bp(x, y, jax.random.key(0), num_units=3, num_replicas=schedule)
    for ours, theirs in zip(again, found[30], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_replicas_may_become_more(focused):
    """From one, whose means leave errors, to as many as leave none."""
    x, y, found = focused
    rising = np.geomspace(1, 1e4, 60)
    result = focusing_bp(x, y, jax.random.key(0), num_units=3, num_replicas=rising)
    np.testing.assert_array_equal(result.num_replicas, rising)
    assert result.train_error == 0
    assert result.train_errors[0] == found[1].train_errors[0]
    assert result.variance.mean() < found[1].variance.mean() / 5
    stepwise = focusing_bp(
        x, y, jax.random.key(0), num_units=3, num_replicas=lambda t: 1 if t < 30 else np.inf
    )
    np.testing.assert_array_equal(stepwise.train_errors[:30], found[1].train_errors[:30])
    assert stepwise.train_error == 0


def test_units_are_as_different_as_their_start():
    """Where one unit alone would do: a coupling that is large at once keeps them so."""
    x, _, teacher = instance(0, *PROBLEM.values())
    y, gamma = np.sign(x @ teacher[0]), np.geomspace(10, 300, 60)
    overlaps = []
    for start in (0.1, 3.0):
        found = focusing_bp(x, y, jax.random.key(0), num_units=3, gamma=gamma, start=start)
        assert found.train_error == 0
        overlaps.append(np.corrcoef(found.weights)[np.triu_indices(3, 1)].mean())
    assert overlaps[0] > 0.99
    assert overlaps[1] < 0.6


@pytest.mark.slow
def test_one_replica_is_belief_propagation(focused):
    x, y, found = focused
    result = belief_propagation(x, y, jax.random.key(0), num_units=3)
    assert result.converged
    np.testing.assert_allclose(found[1].weights, result.weights, atol=1e-3)
    assert result.train_error == pytest.approx(float(error(result.weights, x, y)))


def test_belief_propagation_of_a_perceptron_is_amp():
    x, y, _ = instance(1, 50, 100, 1)
    found = belief_propagation(x, y, jax.random.key(0))
    mean = amp(x, y).mean
    np.testing.assert_allclose(found.weights, mean / np.sqrt(np.mean(mean**2)), atol=1e-4)


@pytest.mark.slow
def test_surroundings_are_wider_than_around_a_narrow_solution(focused):
    """Around the teacher there are fewer solutions than around where replicas were led."""
    x, y, found = focused
    teacher = instance(0, *PROBLEM.values())[2]
    references = np.stack([found[30].weights, teacher])
    around = amp(x, y, reference=references, overlap=0.9)
    assert around.converged.all()
    assert around.phi[0] > 0.5 * around.phi[1]


@pytest.mark.slow
def test_schedule():
    x, y, _ = instance(0, 12, 20, 1)
    found = focusing_bp(x, y, 3, gamma=[0.1, 1.0, 10.0], iterations_per_gamma=4, num_replicas=5)
    assert found.train_errors.shape == (3,)
    again = focusing_bp(
        x, y, jax.random.key(3), gamma=[0.1, 1.0, 10.0], iterations_per_gamma=4, num_replicas=5
    )
    np.testing.assert_array_equal(found.weights, again.weights)
    gamma = default_gamma()
    assert (len(gamma), gamma[0], gamma[-1]) == (60, 0.02, 300.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_replicas": 0.5}, "num_replicas must be"),
        ({"num_replicas": [2, 3]}, r"num_replicas must be .* shape \(60,\)"),
        ({"num_replicas": lambda index: index}, "num_replicas must be"),
        ({"num_replicas": np.nan}, "num_replicas must be"),
        ({"start": 0.0}, "start must be"),
        ({"gamma": [0.1, -1.0]}, "gamma must be"),
        ({"gamma": 0.1}, "gamma must be"),
        ({"iterations_per_gamma": 0}, "iterations_per_gamma must be"),
        ({"damping": 1.0}, "damping must be"),
        ({"num_units": 2}, "num_units must be odd"),
    ],
)
def test_errors_name_the_argument(change, message):
    with pytest.raises(ValueError, match=message):
        focusing_bp(np.eye(3), [1, -1, 1], jax.random.key(0), **change)


def test_a_key_is_a_key():
    with pytest.raises(TypeError, match="key must be"):
        belief_propagation(np.eye(3), [1, -1, 1], "seed")
