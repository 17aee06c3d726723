"""Real replicas that are coupled: reference values, limits, an independent free entropy."""

import jax
import numpy as np
import pytest
from gaussian_mixture_replicas import (
    STEP,
    UNIT,
    Solved,
    around,
    assert_same,
    by_differences,
    check_row,
    coupled_point,
    free_entropy,
    row_point,
    unique,
)
from gaussian_mixture_rows import rows

from flatjax.gaussian_mixture import erm, losses
from flatjax.gaussian_mixture._replicated import replicated

LOGISTIC = losses.logistic()
COUPLED_ROWS = rows(4, "logistic-gamma")
COUPLED_MIDDLE = coupled_point(2.5, 1.0, 0.2, 0.5, 0.3)


@pytest.fixture(scope="module")
def coupled():
    """With the logistic loss."""
    points = [coupled_point(1.0, beta, 0.1, 0.0, rho) for rho in (0.5, 0.2) for beta in (1e3, 1e4)]
    points += [coupled_point(y, 1e4, 0.1, 0.5) for y in (3.0, 100.0)]
    points += [coupled_point(y, 1.0, 0.1, 0.0) for y in (1.0, 2.5, 40.0)]
    points += [coupled_point(5e3, 1.0, 0.1, 1.0, rho) for rho in (0.5, 0.2)]
    points += [COUPLED_MIDDLE, *around(COUPLED_MIDDLE, ("y", "gamma", "rho"), STEP)]
    points += [coupled_point(1.0, beta, 0.1, 0.0) for beta in (0.3, 0.1)]
    points += [coupled_point(2000.0, 0.3, 0.1, gamma) for gamma in (0.1, 1.0)]
    return Solved(replicated, unique([UNIT | p for p in points]), loss=LOGISTIC, fit_bias=True)


@pytest.fixture(scope="module")
def coupled_many():
    points = [coupled_point(np.inf, 1.0, 0.1, 1.0, rho) for rho in (0.5, 0.2)]
    for point in points:
        del point["y"]
    return Solved(replicated, points, loss=LOGISTIC, y=np.inf, fit_bias=True)


@pytest.mark.slow
def test_reference_values_of_the_logistic_loss():
    assert len(COUPLED_ROWS) == 14
    points = unique([row_point(row) for row in COUPLED_ROWS])
    solved = Solved(replicated, points, loss=LOGISTIC, fit_bias=True)
    for row in COUPLED_ROWS:
        check_row(row, solved(**row_point(row)))


@pytest.mark.slow
def test_replicas_with_a_coupling_are_at_an_extremum_of_the_free_entropy(coupled):
    y, beta, lam, gamma, rho = 2.5, 1.0, 0.2, 0.5, 0.3
    found = coupled(**coupled_point(y, beta, lam, gamma, rho))

    def functional(order):
        _, q, q1, *_ = order
        held = beta * (y * lam * q + (y - 1) * gamma * (q - q1)) / 2
        return free_entropy(order, y, beta, rho, **UNIT, loss=LOGISTIC) - held

    with jax.enable_x64(True):
        value, slopes = jax.value_and_grad(functional)([float(value) for value in found[:5]])
        value, slopes = float(value), np.array(slopes)
    np.testing.assert_allclose(slopes, 0, atol=1e-7)
    prior = -((y - 1) * np.log(beta * (lam + gamma)) + np.log(beta * lam) + y) / 2
    assert (value - prior) / y == pytest.approx(found.free_entropy, abs=1e-8)


@pytest.mark.slow
def test_at_low_temperature_all_replicas_are_at_the_minimum(coupled):
    limit = erm(LOGISTIC, lam=0.1, rho=[0.5, 0.2], fit_bias=True, **UNIT)
    for index, rho in enumerate((0.5, 0.2)):
        far, near = (coupled(**coupled_point(1.0, beta, 0.1, 0.0, rho)) for beta in (1e3, 1e4))
        for name in ("m", "q", "q0", "q1", "bias", "train_loss", "thermal_mean_test_error"):
            expected = getattr(limit, {"q0": "q", "q1": "q"}.get(name, name), limit.test_error)
            distances = [abs(getattr(found, name) - expected[index]) for found in (far, near)]
            # Proportional to the temperature.
            assert distances[1] < 2e-3, name
            assert distances[1] == pytest.approx(distances[0] / 10, rel=0.02, abs=1e-9), name
    minimum = erm(LOGISTIC, lam=0.1, **UNIT)
    for y in (3.0, 100.0):
        found = coupled(**coupled_point(y, 1e4, 0.1, 0.5))
        assert found.m == pytest.approx(minimum.m, abs=1e-4)
        assert found.q == pytest.approx(minimum.q, abs=1e-3)


@pytest.mark.slow
def test_without_coupling_the_number_of_replicas_does_not_matter(coupled):
    one = coupled(**coupled_point(1.0, 1.0, 0.1, 0.0))
    for y in (2.5, 40.0):
        found = coupled(**coupled_point(y, 1.0, 0.1, 0.0))
        assert_same(found, one, 1e-9)
        assert found.q1 == pytest.approx(found.q0, abs=1e-9)


@pytest.mark.slow
def test_many_coupled_replicas_approach_infinitely_many(coupled, coupled_many):
    for rho in (0.5, 0.2):
        point = coupled_point(5e3, 1.0, 0.1, 1.0, rho)
        found = coupled(**point)
        del point["y"]
        limit = coupled_many(**point)
        assert limit.q1 == limit.q0
        assert limit.center_test_error == limit.thermal_mean_test_error
        assert_same(found, limit, 3e-3 if rho == 0.5 else 6e-3, "q", "q1", "q0", "m", "bias")
        assert_same(found, limit, 2e-4, "free_entropy", "train_loss", "center_test_error")


@pytest.mark.slow
def test_reference_values_of_entropy_sgd(coupled):
    """They stand for infinitely many replicas, but are those of 2000."""
    selected = rows(5, "Entropy-SGD")
    assert len(selected) == 10
    for row in selected:
        beta, lam, gamma = (row["params"][name] for name in ("beta", "lam", "gamma"))
        if row["quantity"] == "erm_cv":
            value = erm(LOGISTIC, lam=lam, **UNIT).test_error
            assert value == pytest.approx(row["theory"], abs=row["tol_theory"])
        else:
            check_row(row, coupled(**coupled_point(2000.0, beta, lam, gamma)))


@pytest.mark.slow
def test_the_mean_of_hot_replicas_improves(coupled):
    hot = [coupled(**coupled_point(1.0, beta, 0.1, 0.0)) for beta in (1.0, 0.3, 0.1)]
    errors = [point.thermal_mean_test_error for point in hot]
    np.testing.assert_allclose(errors, [0.2548, 0.2504, 0.2461], atol=5e-5)


@pytest.mark.slow
def test_derivatives_with_a_coupling(coupled):
    names = ("y", "gamma", "rho")

    def fields(*values):
        point = UNIT | COUPLED_MIDDLE | dict(zip(names, values, strict=True))
        return replicated(LOGISTIC, **point, fit_bias=True)[:5]

    values = [COUPLED_MIDDLE[name] for name in names]
    with jax.enable_x64(True):
        found = jax.jit(jax.jacfwd(fields, argnums=(0, 1, 2)))(*values)
    expected = by_differences(coupled, COUPLED_MIDDLE, names, STEP)[:5]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": -1.0}, "gamma must be finite and not negative"),
        ({"lam": 0.0}, "lam must be positive"),
        ({"beta": np.inf}, "beta must be positive and finite"),
        ({"y": np.nan}, "y must be at least 1"),
    ],
)
def test_a_coupling_refuses_parameters_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        replicated(LOGISTIC, **UNIT | {"y": 3.0, "beta": 1.0, "lam": 0.1} | changes)
    with pytest.raises(TypeError, match="y must be real numbers"):
        replicated(LOGISTIC, y="3", beta=1.0, lam=0.1, **UNIT)
