"""Real replicas on a sphere: reference values, limits, an independent free entropy.

The points of a fixture are solved in one call. Most of them are only solved in the slow run.
"""

import jax
import numpy as np
import pytest
from fast import slow
from gaussian_mixture_replicas import (
    STEP,
    UNIT,
    Solved,
    around,
    assert_same,
    by_differences,
    check_row,
    free_entropy,
    row_point,
    unique,
)
from gaussian_mixture_rows import rows

from flatjax.gaussian_mixture import bayes_optimal, erm, losses
from flatjax.gaussian_mixture._replicated import replicated_sphere

LOGISTIC = losses.logistic()
SPHERE_ROWS = rows(4, "err-sphere", "err-sphere beta=inf")
Q0_ALONE = 0.47259274073  # of replicas that are not coupled
TEMPERATURE = {"y": 3.0, "q1": 0.8}
MIDDLE = UNIT | {"y": 3.0, "q1": 0.7}
NEAR = [{"y": 1.0, "delta": 1.0, "alpha": alpha} for alpha in (0.999, 1.0, 1.001)]


@pytest.fixture(scope="module")
def on_sphere():
    """Without errors."""
    points = [point for row in SPHERE_ROWS if 1 < (point := row_point(row))["y"] < np.inf]
    points += [{"y": y, "q1": Q0_ALONE} for y in (1.0, 20.0, 1e4)]
    points += [{"y": 1.0, "q1": q1} for q1 in (0.6, 0.95)]
    points += [{"y": y, "q1": q1} for q1 in (0.6, 0.9) for y in (5e3, 5e6)]
    points += [{"y": y, "q1": 0.98} for y in (7.0, 20.0)]
    points += [{"y": y, "q1": 0.4} for y in (2.0, 100.0)]
    points += around(MIDDLE, ("y", "q1", "alpha"), STEP)
    return Solved(replicated_sphere, unique([UNIT | point for point in points]))


@pytest.fixture(scope="module")
def on_sphere_many():
    """Infinitely many replicas, without errors and with some."""
    points = [point for row in SPHERE_ROWS if (point := row_point(row))["y"] == np.inf]
    points += [{"q1": q1} for q1 in (Q0_ALONE, 0.3, 0.9, 0.97)]
    points = [UNIT | point | {"beta": np.inf} for point in points]
    points += [{"q1": q1, "beta": beta} for beta, q1 in ((1.0, 0.35), (1.0, 0.9))]
    for point in points:
        point.pop("y", None)
    return Solved(replicated_sphere, points, y=np.inf)


@pytest.fixture(scope="module")
def alone():
    """Replicas that are not coupled, with and without errors."""
    points = [point for row in SPHERE_ROWS if (point := row_point(row))["y"] == 1]
    for point in points:
        del point["q1"]
    points = [point | {"beta": np.inf} for point in points]
    points += [{"y": 1.0, "beta": beta} for beta in (4.0, 2.0, 1.0, 0.5, 0.1, 1e-3)]
    points += [point | {"beta": np.inf} for point in [UNIT | {"y": 7.0}, *NEAR]]
    return Solved(replicated_sphere, unique(points))


@pytest.fixture(scope="module")
def at_temperature():
    """With errors."""
    points = [TEMPERATURE | {"beta": beta} for beta in (2.0, 2.0 + 1e-3, 2.0 - 1e-3)]
    points += [{"y": 1.0, "q1": 0.6, "beta": 4.0}]
    points += [{"y": 3.0, "q1": 0.6, "beta": beta} for beta in (20.0, 1e3)]
    points += [{"y": 3.0, "q1": 0.6, "beta": np.inf}]
    return Solved(replicated_sphere, points)


KINDS = {
    "alone": lambda row: row_point(row)["y"] == 1,
    "many": lambda row: row_point(row)["y"] == np.inf,
    "several": lambda row: 1 < row_point(row)["y"] < np.inf,
}
assert sum(any(is_of(row) for is_of in KINDS.values()) for row in SPHERE_ROWS) == 30


@pytest.mark.parametrize("kind", [slow("many"), slow("several"), "alone"])
def test_reference_values(kind, request):
    selected = [row for row in SPHERE_ROWS if KINDS[kind](row)]
    names = {"alone": "alone", "many": "on_sphere_many", "several": "on_sphere"}
    solved = request.getfixturevalue(names[kind])
    without = {"alone": ("q1",), "many": ("y",), "several": ()}[kind]
    for row in selected:
        point = {name: value for name, value in row_point(row).items() if name not in without}
        check_row(row, solved(**point) if kind == "several" else solved(**point, beta=np.inf))


@pytest.mark.slow
def test_replicas_on_a_sphere_are_at_an_extremum_of_the_free_entropy(at_temperature):
    found = at_temperature(**TEMPERATURE, beta=2.0)
    with jax.enable_x64(True):
        functional = lambda m, q0: free_entropy(
            (m, 1.0, 0.8, q0, 0.0), y=3.0, beta=2.0, rho=0.5, **UNIT
        )
        value, slopes = jax.value_and_grad(functional, (0, 1))(*map(float, (found.m, found.q0)))
        value, slopes = float(value), np.array(slopes)
    np.testing.assert_allclose(slopes, 0, atol=1e-7)
    unconstrained = (2 * np.log(0.2) + np.log(1 + 2 * 0.8)) / 2
    assert (value - unconstrained) / 3 == pytest.approx(found.free_entropy, abs=1e-8)


@pytest.mark.slow
def test_at_the_overlap_of_free_replicas_their_number_does_not_matter(on_sphere, alone):
    one = alone(y=1.0, beta=np.inf)
    assert one.q0 == pytest.approx(Q0_ALONE, abs=1e-10)
    for y in (1.0, 20.0, 1e4):
        found = on_sphere(y=y, q1=Q0_ALONE)
        assert_same(found, one, 1e-9, "m", "q0", "test_error", "train_loss")
        # Fewer replicas than all y on the sphere have this overlap, to begin with.
        volume = ((y - 1) * np.log(1 - Q0_ALONE) + np.log(1 + (y - 1) * Q0_ALONE)) / (2 * y)
        assert found.free_entropy + volume == pytest.approx(one.free_entropy, abs=1e-9)
    assert_same(alone(y=7.0, beta=np.inf), one, 0.0)


@pytest.mark.slow
def test_one_replica_has_no_overlap_to_fix(on_sphere, at_temperature, alone):
    for q1 in (0.6, 0.95):
        assert_same(on_sphere(y=1.0, q1=q1), alone(y=1.0, beta=np.inf), 1e-8)
    assert_same(at_temperature(y=1.0, q1=0.6, beta=4.0), alone(y=1.0, beta=4.0), 1e-8)


@pytest.mark.slow
def test_many_replicas_on_a_sphere_approach_infinitely_many(on_sphere, on_sphere_many):
    for q1 in (0.6, 0.9):
        limit = on_sphere_many(q1=q1, beta=np.inf)
        assert_same(on_sphere(y=5e3, q1=q1), limit, 3e-3)
        assert_same(on_sphere(y=5e6, q1=q1), limit, 3e-6)


def test_the_mean_of_hot_replicas_is_bayes_optimal(alone):
    best = bayes_optimal(**UNIT).test_error
    found = [alone(y=1.0, beta=beta) for beta in (4.0, 2.0, 1.0, 0.5, 0.1, 1e-3)]
    errors = [point.thermal_mean_test_error for point in found]
    # Computed by a prototype of these equations.
    np.testing.assert_allclose(errors[:5], [0.2625, 0.2506, 0.2429, 0.24024, 0.23975], atol=5e-5)
    assert errors[-1] == pytest.approx(best, abs=1e-8)
    assert found[-1].test_error == pytest.approx(0.5, abs=1e-3)


@pytest.mark.slow
def test_errors_that_cost_much_are_not_made(at_temperature, on_sphere):
    """Where both peaks of the law of a field, and where only the right one, are integrated."""
    without = on_sphere(y=3.0, q1=0.9)
    assert without.train_loss == 0
    for_points = [at_temperature(y=3.0, q1=0.6, beta=beta) for beta in (20.0, 1e3, np.inf)]
    assert 0 < for_points[0].train_loss < 1e-7
    assert_same(for_points[0], for_points[2], 1e-6)
    assert_same(for_points[1], for_points[2], 1e-8)


@pytest.mark.slow
def test_the_energy_is_the_derivative_of_the_free_entropy(at_temperature):
    middle, above, below = (
        at_temperature(**TEMPERATURE, beta=beta) for beta in (2.0, 2.0 + 1e-3, 2.0 - 1e-3)
    )
    slope = (above.free_entropy - below.free_entropy) / 2e-3
    assert middle.train_loss == pytest.approx(-slope, abs=1e-7)


@pytest.mark.slow
def test_close_replicas_are_solved(on_sphere, on_sphere_many):
    """The potential has a sharp bend there, and the reaction of many replicas is large."""
    errors = [on_sphere(y=y, q1=0.98).center_test_error for y in (7.0, 20.0)]
    errors.append(on_sphere_many(q1=0.97, beta=np.inf).center_test_error)
    assert np.all(np.diff(errors) < -0.003)


@pytest.mark.slow
def test_the_logistic_loss_on_a_sphere():
    found = replicated_sphere(y=1.0, beta=[1e3, 1e4], norm=2.0, loss=LOGISTIC, **UNIT)
    limit = erm(LOGISTIC, norm=2.0, **UNIT)
    for name, expected in (("m", limit.m), ("q0", 2.0), ("train_loss", limit.train_loss)):
        distances = np.abs(getattr(found, name) - expected)
        assert distances[1] == pytest.approx(distances[0] / 10, rel=0.02)
        assert distances[1] < 1e-3


@pytest.mark.slow
def test_derivatives_on_the_sphere(on_sphere):
    names = ("y", "q1", "alpha")

    def fields(*values):
        return replicated_sphere(**MIDDLE | dict(zip(names, values, strict=True)))[:10]

    with jax.enable_x64(True):
        found = jax.jit(jax.jacfwd(fields, argnums=(0, 1, 2)))(*(MIDDLE[name] for name in names))
    expected = by_differences(on_sphere, MIDDLE, names, STEP)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_works_under_transformations_without_x64(alone):
    error = lambda alpha: replicated_sphere(y=1.0, alpha=alpha, delta=1.0).thermal_mean_test_error
    assert not jax.config.jax_enable_x64
    value, slope = map(np.float64, jax.jit(jax.value_and_grad(error))(1.0))
    below, exact, above = (
        alone(**NEAR[index] | {"beta": np.inf}).thermal_mean_test_error for index in range(3)
    )
    assert exact.dtype == np.float64
    assert value == pytest.approx(exact, rel=1e-6)
    assert slope == pytest.approx((above - below) / 2e-3, rel=1e-4)


@pytest.mark.slow
def test_what_has_no_solution_is_not_given_one(on_sphere, on_sphere_many):
    apart = [on_sphere(y=y, q1=0.4) for y in (2.0, 100.0)]  # q1 < q0
    apart.append(on_sphere_many(q1=0.3, beta=np.inf))
    # A pattern would jump between wrong and right.
    apart.append(on_sphere_many(q1=0.9, beta=1.0))
    for found in apart:
        assert not found.converged
        assert np.isnan(found[:10]).all()
    assert on_sphere_many(q1=0.35, beta=1.0).converged


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"y": 0.5}, "y must be at least 1, got 0.5"),
        ({"y": [2.0, np.inf]}, "y must be finite everywhere or infinite everywhere"),
        ({"q1": 1.0}, "q1 must be below norm"),
        ({"q1": -0.1}, "q1 must be positive"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"beta": np.inf, "loss": LOGISTIC}, "beta must be positive"),
        ({"norm": np.nan}, "norm must be positive"),
    ],
)
def test_the_sphere_refuses_parameters_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        replicated_sphere(**UNIT | {"y": 3.0, "q1": 0.5} | changes)
