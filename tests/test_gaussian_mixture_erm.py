"""Empirical risk minimisation: reference values, limits, derivatives, and what cannot be solved."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast import only, slow
from gaussian_mixture_rows import rows

from flatjax.gaussian_mixture import bayes_optimal, erm, losses, max_margin

FIELDS = {
    "eps": "test_error",
    "q": "q",
    "m": "m",
    "lam": "lam",
    "loss": "train_loss",
    "train_err": "train_error",
}


def solve_rows(loss, selected):
    """One solution for each row, in one call."""
    column = lambda name: np.array([row["params"][name] for row in selected])
    given = {"norm": column("q")} if "q" in selected[0]["params"] else {"lam": column("lam")}
    found = erm(loss, alpha=column("alpha"), delta=column("Delta"), rho=column("rho"), **given)
    assert found.converged.all()
    return [getattr(found, FIELDS[row["quantity"]])[i] for i, row in enumerate(selected)]


def check_rows(loss, selected):
    expected = [row["theory"] for row in selected]
    tolerance = [row["tol_theory"] for row in selected]
    assert np.all(np.abs(np.subtract(solve_rows(loss, selected), expected)) < tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["square", slow("logistic")])
def test_reference_values(name):
    check_rows(getattr(losses, name)(), rows(2, name))


def test_reference_values_at_fixed_norm():
    check_rows(losses.logistic(), rows(2, "logistic fixed norm"))


@pytest.mark.slow
def test_reference_values_of_the_hinge():
    """They were integrated on a grid of 721 nodes that does not know of the kink.

    On that grid they come out; the error of the grid, up to 2e-4 in q, is larger than their
    tolerance, and ours is not.
    """
    selected = rows(2, "hinge")
    check_rows(dataclasses.replace(losses.hinge(), kinks=(), num_nodes=721), selected)
    fine = dataclasses.replace(losses.hinge(), kinks=(), num_nodes=5761)
    exact = solve_rows(losses.hinge(), selected)
    np.testing.assert_allclose(exact, solve_rows(fine, selected), rtol=5e-6)
    assert np.max(np.abs(np.subtract(exact, [row["theory"] for row in selected]))) > 1e-4


def test_the_square_loss_in_closed_form():
    alpha, delta, lam = 1.3, 0.7, 0.2
    v = np.roots([lam * delta, lam + alpha * delta - delta, -1]).max()
    k = alpha * v / (1 + delta * v)
    m, c = k / (1 + k), alpha * delta * v**2 / (1 + delta * v) ** 2
    found = erm(losses.square(), alpha=alpha, delta=delta, lam=lam)
    expected = [v, m, (m**2 + c * (1 - m) ** 2) / (1 - c * delta)]
    np.testing.assert_allclose([found.susceptibility, found.m, found.q], expected, rtol=1e-8)


TWINS = {
    "logistic": lambda: losses.convex(lambda u: jax.nn.softplus(-u)),
    "hinge": lambda: losses.convex(lambda u: jnp.maximum(0.0, 1 - u), kinks=[1.0]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", only(["logistic"], TWINS))
def test_any_convex_loss(name):
    """The same losses, known by their values only."""
    params = {"alpha": 2.0, "delta": 1.0, "lam": 0.1, "rho": 0.3}
    expected, found = erm(getattr(losses, name)(), **params), erm(TWINS[name](), **params)
    np.testing.assert_allclose(found[:8], expected[:8], rtol=1e-6)


each_loss_if_slow = pytest.mark.parametrize("name", ["square", slow("logistic"), slow("hinge")])


@pytest.mark.slow
@each_loss_if_slow
def test_much_ridge_is_bayes_optimal_where_classes_are_balanced(name):
    best = bayes_optimal(alpha=1.0, delta=1.0).test_error
    errors = erm(getattr(losses, name)(), alpha=1.0, delta=1.0, lam=[1.0, 1e2, 1e4]).test_error
    assert np.all(np.diff(errors) < 1e-12)
    assert errors[-1] == pytest.approx(best, abs=1e-6)
    # Unbalanced, the classifier only sees the larger class.
    unbalanced = erm(getattr(losses, name)(), alpha=1.0, delta=1.0, rho=0.2, lam=1e2)
    assert unbalanced.test_error == pytest.approx(0.2, abs=1e-6)


@pytest.mark.slow
def test_the_linear_loss_is_the_hebb_rule():
    found = erm(losses.linear(), alpha=1.5, delta=0.8, lam=[0.1, 3.0])
    best = bayes_optimal(alpha=1.5, delta=0.8).test_error
    np.testing.assert_allclose(found.test_error, best, rtol=1e-9)
    np.testing.assert_allclose(found.m, 1.5 / np.array([0.1, 3.0]), rtol=1e-8)


@pytest.mark.parametrize("rho", [slow(0.5), 0.2])
def test_little_ridge_is_the_largest_margin(rho):
    limit = max_margin(alpha=1.0, delta=0.5, rho=rho)
    found = erm(losses.hinge(), alpha=1.0, delta=0.5, lam=1e-5, rho=rho)
    assert 1 / np.sqrt(found.q) == pytest.approx(limit.margin, rel=1e-5)
    assert found.test_error == pytest.approx(limit.test_error, abs=1e-6)
    assert found.train_error == 0


@pytest.mark.slow
def test_norm_and_ridge_are_two_sides_of_one_solution():
    params = {"alpha": 1.2, "delta": 0.9, "rho": 0.3}
    by_ridge = erm(losses.logistic(), lam=0.05, **params)
    by_norm = erm(losses.logistic(), norm=by_ridge.q, **params)
    np.testing.assert_allclose(by_norm[:8], by_ridge[:8], rtol=1e-6)


@pytest.mark.parametrize("name", ["logistic", "hinge"])  # the square has a prox in closed form
@pytest.mark.slow
def test_derivatives_are_those_of_the_solution(name):
    loss = getattr(losses, name)()
    fields = lambda lam, delta: erm(
        loss, alpha=2.0, delta=delta, lam=lam, rho=0.2, tolerance=1e-12
    )[:8]
    with jax.enable_x64(True):
        found = jax.jacfwd(fields, argnums=(0, 1))(0.3, 1.0)
    step = 1e-5
    lams, deltas = 0.3 + step * np.array([1, -1, 0, 0]), 1 + step * np.array([0, 0, 1, -1])
    near = np.array(fields(lams, deltas))
    expected = np.stack([near[:, 0] - near[:, 1], near[:, 2] - near[:, 3]], axis=1) / (2 * step)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_works_under_transformations_without_x64():
    error = lambda lam: erm(losses.square(), alpha=2.0, delta=1.0, lam=lam).test_error
    lams = np.array([0.1, 1.0])
    expected = error(lams)
    assert isinstance(expected, np.ndarray)
    assert expected.dtype == np.float64
    assert not jax.config.jax_enable_x64
    np.testing.assert_allclose(jax.vmap(error)(lams), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(error)(1.0), expected[1], rtol=1e-6)
    slope = jax.jit(jax.vmap(jax.grad(error)))(lams)
    np.testing.assert_allclose(slope[1], (error(1 + 1e-4) - error(1 - 1e-4)) / 2e-4, rtol=1e-4)


@pytest.mark.slow
def test_the_optimal_ridge_is_where_the_gradient_vanishes():
    def error(log_lam, rho=0.2):
        return erm(
            losses.logistic(), alpha=2.0, delta=0.5, lam=jnp.exp(log_lam), rho=rho
        ).test_error

    with jax.enable_x64(True):
        log_lam = jnp.asarray(-2.0)
        first, second = jax.jit(jax.grad(error)), jax.jit(jax.jacfwd(jax.jacrev(error)))
        for _ in range(8):
            log_lam -= first(log_lam) / second(log_lam)
        assert abs(first(log_lam)) < 1e-7
        assert error(float(log_lam) + np.array([-0.2, 0.0, 0.2])).argmin() == 1


@pytest.mark.slow
def test_a_grid_is_solved_at_once():
    alpha, lam = np.geomspace(0.1, 10, 7)[:, None], np.geomspace(0.01, 10, 9)
    found = erm(losses.logistic(), alpha=alpha, delta=1.0, lam=lam, tolerance=1e-8)
    assert found.test_error.shape == (7, 9)
    assert found.converged.all()
    assert found.residual.max() <= 1e-8
    one = erm(losses.logistic(), alpha=alpha[3, 0], delta=1.0, lam=lam[4], tolerance=1e-8)
    assert one.test_error == pytest.approx(found.test_error[3, 4], abs=1e-7)


@pytest.mark.slow
def test_what_has_no_solution_is_not_given_one():
    # With a free bias the linear loss falls forever where the classes are not balanced.
    found = erm(losses.linear(), alpha=1.0, delta=1.0, lam=1.0, rho=0.3)
    assert not found.converged
    assert np.isnan(found[:8]).all()
    # Nor is there an answer to a question with a NaN, traced or not.
    traced = jax.jit(lambda lam: erm(losses.square(), alpha=1.0, delta=1.0, lam=lam))(np.nan)
    assert not traced.converged
    assert np.isnan(traced.test_error)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"delta": -1.0}, "delta must be positive"),
        ({"lam": [1.0, np.nan]}, "lam must be positive and finite, got nan"),
        ({"rho": 1.0}, "rho must be strictly between 0 and 1"),
        ({"lam": None}, "exactly one of lam and norm"),
        ({"norm": 1.0}, "exactly one of lam and norm"),
        ({"lam": None, "norm": np.inf}, "norm must be positive"),
    ],
)
def test_refuses_parameters_out_of_range(changes, message):
    params = {"alpha": 1.0, "delta": 1.0, "lam": 1.0} | changes
    with pytest.raises(ValueError, match=message):
        erm(losses.square(), **params)
    for wrong in ("1", True):
        with pytest.raises(TypeError, match="alpha must be real numbers"):
            erm(losses.square(), alpha=wrong, delta=1.0, lam=1.0)


def test_refuses_losses_that_are_not_convex():
    with pytest.raises(ValueError, match="convex"):
        losses.convex(jnp.sin)
    with pytest.raises(ValueError, match="finite"):
        losses.convex(lambda u: jnp.sqrt(u))
