"""The mixture, closed forms, margins, proximal operators; simulations where they are cheap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from fast import slow
from gaussian_mixture_rows import rows

from flatjax import gaussian_mixture as gm
from flatjax.gaussian_mixture import losses
from flatjax.gaussian_mixture._quadrature import gaussian_grid, piecewise_grid

SETTINGS = [(1.0, 1.0, 0.5), (2.0, 0.5, 0.2), (5.0, 0.3, 0.1)]


def columns(settings):
    return dict(zip(("alpha", "delta", "rho"), np.transpose(settings), strict=True))


def test_reference_values():
    constructors = {"hebb0": gm.hebb, "cent": gm.centroid}
    for row in rows(1):
        p = row["params"]
        found = constructors[row["name"]](alpha=p["alpha"], delta=p["Delta"], rho=p["rho"])
        assert found.test_error == pytest.approx(row["theory"], abs=row["tol_theory"])


def test_bayes_is_the_hebb_rule_with_the_right_bias():
    params = columns(SETTINGS)
    best = gm.bayes_optimal(**params).test_error
    np.testing.assert_allclose(gm.hebb(**params, fit_bias=True).test_error, best, rtol=1e-12)
    assert np.all(gm.hebb(**params).test_error[1:] > best[1:] + 1e-4)
    assert np.all(gm.centroid(**params, fit_bias=True).test_error[1:] > best[1:])
    # No bias is better than the one of the log-odds, for these weights.
    estimator = gm.bayes_optimal(**params)
    for change in (-0.05, 0.05):
        error = gm.generalization_error(
            estimator.m,
            estimator.q,
            estimator.bias + change,
            delta=params["delta"],
            rho=params["rho"],
        )
        assert np.all(error > best)


def test_much_data_is_an_oracle():
    best = gm.oracle(delta=0.7, rho=0.3).test_error
    found = gm.bayes_optimal(alpha=1e9, delta=0.7, rho=0.3).test_error
    assert found == pytest.approx(best, rel=1e-8)


def test_the_sample_is_that_of_the_model():
    drawn = gm.sample(jax.random.key(0), 400, alpha=5.0, delta=0.3, rho=0.2)
    x, label, signal = map(np.asarray, (drawn.x, drawn.label, drawn.signal))
    assert x.shape == (2000, 400)
    assert np.sum(signal**2) == pytest.approx(400, rel=1e-5)
    assert np.mean(label == 1) == pytest.approx(0.2, abs=4 * np.sqrt(0.16 / 2000))
    noise = x - label[:, None] * signal / 20.0
    assert np.var(noise) == pytest.approx(0.3, rel=0.01)
    assert np.mean(noise) == pytest.approx(0, abs=4 * np.sqrt(0.3 / 8e5))


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "delta", "rho"), [SETTINGS[0], SETTINGS[2]])
def test_simulated_estimators(alpha, delta, rho):
    """Hebb and centroid of 20 samples, N = 500: within four standard errors of the theory."""

    def errors(key):
        drawn = gm.sample(key, 500, alpha=alpha, delta=delta, rho=rho)
        up, down = drawn.label == 1, drawn.label == -1
        scale = np.sqrt(500)
        hebb = scale * jnp.mean(drawn.label[:, None] * drawn.x, axis=0)
        mean = lambda members: members @ drawn.x / members.sum()
        weights = scale * (mean(up) - mean(down)) / 2
        bias = -(jnp.sum(mean(up) ** 2) - jnp.sum(mean(down) ** 2)) / 4
        error = lambda w, b: gm.generalization_error(
            *gm.overlaps(w, drawn.signal), b, delta=delta, rho=rho
        )
        return error(hebb, 0.0), error(weights, bias)

    found = np.array([errors(key) for key in jax.random.split(jax.random.key(1), 20)])
    params = {"alpha": alpha, "delta": delta, "rho": rho}
    expected = [gm.hebb(**params).test_error, gm.centroid(**params).test_error]
    sem = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    assert np.all(np.abs(found.mean(axis=0) - expected) < 4 * sem + 1e-3)


@pytest.mark.slow
def test_the_error_formula_counts_errors():
    drawn = gm.sample(jax.random.key(2), 50, alpha=2000.0, delta=0.8, rho=0.3)
    weights = drawn.signal + jax.random.normal(jax.random.key(3), (50,))
    fields = drawn.x @ weights / np.sqrt(50) + 0.4
    counted = np.mean(np.sign(fields) != drawn.label)
    expected = gm.generalization_error(*gm.overlaps(weights, drawn.signal), 0.4, delta=0.8, rho=0.3)
    assert counted == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 1e5))


# --- margins ----------------------------------------------------------------------------------


def test_the_largest_margin_of_the_reference():
    (row,) = rows(2, "max margin")
    p = row["params"]
    found = gm.max_margin(alpha=p["alpha"], delta=p["Delta"])
    assert found.test_error == pytest.approx(row["theory"], abs=row["tol_theory"])


@pytest.mark.slow
@pytest.mark.parametrize("rho", [slow(0.5), 0.2])
def test_the_margin_vanishes_at_the_threshold(rho):
    threshold = gm.separability_threshold(delta=1.0, rho=rho)
    found = gm.max_margin(alpha=threshold * np.array([0.99, 0.9999, 1.01]), delta=1.0, rho=rho)
    np.testing.assert_array_equal(found.converged, [True, True, False])
    assert 0 < found.margin[1] < found.margin[0] < 0.02
    assert np.isnan([found.margin[2], found.test_error[2]]).all()


def test_the_threshold_minimises_its_definition():
    def inverse_alpha(x, delta=0.8, rho=0.3):
        m, bias = np.tanh(x[0]), x[1]
        total = 0.0
        for sigma, weight in ((1, rho), (-1, 1 - rho)):
            k = (m + sigma * bias) / np.sqrt(delta)
            tail, density = scipy.stats.norm.sf(k), scipy.stats.norm.pdf(k)
            total += weight * delta * ((1 + k**2) * tail - k * density)
        return total / (delta * (1 - m**2))

    best = scipy.optimize.minimize(inverse_alpha, [0.5, 0.0], tol=1e-12).fun
    assert gm.separability_threshold(delta=0.8, rho=0.3) == pytest.approx(1 / best, rel=1e-6)


def test_pure_noise_is_separable_up_to_two_patterns_a_feature():
    assert gm.separability_threshold(delta=1e6) == pytest.approx(2.0, abs=1e-5)


# --- parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [1e-6, 0.1, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("name", ["square", "linear", "logistic", "hinge"])
def test_proximal_operators_minimise(name, c):
    loss = getattr(losses, name)()
    with jax.enable_x64(True):
        omega = jnp.concatenate([jnp.linspace(-50.0, 50.0, 101), -jnp.array([1e3, c, c / 2])])
        u = loss.prox(omega, c)
        objective = lambda u: (u - omega) ** 2 / (2 * c) + loss.value(u)
        for step in (-1e-3, 1e-3):
            assert np.all(objective(u + step) >= objective(u))
        if name != "hinge":
            slope = jax.vmap(jax.grad(loss.value))(u)
            np.testing.assert_allclose(u - omega, -c * slope, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_a_numerical_proximal_operator_stays_at_a_kink():
    with jax.enable_x64(True):
        twin = losses.convex(lambda u: jnp.maximum(0.0, 1 - u), kinks=[1.0])
        omega = jnp.linspace(-9.0, 9.0, 37)
        np.testing.assert_allclose(
            twin.prox(omega, 2.0), losses.hinge().prox(omega, 2.0), atol=1e-12
        )
    np.testing.assert_allclose(twin.kinks, [[1.0, -1.0, 0.0]])


def test_quadrature():
    with jax.enable_x64(True):
        nodes, weights = gaussian_grid()
        assert np.dot(weights, np.cos(nodes)) == pytest.approx(np.exp(-0.5), abs=1e-14)
        nodes, weights = piecewise_grid(jnp.array([0.3, -20.0]))
        assert jnp.dot(weights, nodes > 0.3) == pytest.approx(scipy.stats.norm.sf(0.3), abs=1e-13)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gm.bayes_optimal(alpha=-1.0, delta=1.0), "alpha must be positive"),
        (lambda: gm.oracle(delta=np.inf), "delta must be positive and finite"),
        (lambda: gm.generalization_error(1.0, 1.0, delta=1.0, rho=0.0), "rho must be strictly"),
        (lambda: gm.generalization_error(1.0, -1.0, delta=1.0), "q must be >= 0, got -1"),
        (lambda: gm.generalization_error(1.0, [1.0, -2.0], delta=1.0), "q must be >= 0"),
        (lambda: gm.max_margin(alpha=[1.0, 0.0], delta=1.0), "alpha must be positive"),
        (lambda: gm.bayes_optimal(alpha=[], delta=1.0), r"alpha must not be empty, got shape \(0,"),
        (
            lambda: gm.erm(gm.losses.square(), alpha=[], delta=1.0, lam=1.0),
            "alpha must not be empty",
        ),
        (lambda: gm.sample(jax.random.key(0), 10, alpha=0.01, delta=1.0), "at least one pattern"),
        (lambda: gm.sample(jax.random.key(0), 0, alpha=1.0, delta=1.0), "num_features"),
    ],
)
def test_refuses_parameters_out_of_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()
