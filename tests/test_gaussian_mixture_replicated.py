"""Real replicas: reference values, limits, an independent free entropy, what cannot be solved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from gaussian_mixture_rows import rows
from jax.scipy.special import logsumexp

from flatjax.gaussian_mixture import bayes_optimal, erm, losses
from flatjax.gaussian_mixture._potential import error_potential, loss_potential, tabulate
from flatjax.gaussian_mixture._quadrature import log_cdf
from flatjax.gaussian_mixture._replica_average import tilted_averages
from flatjax.gaussian_mixture._replicated import replicated, replicated_sphere

UNIT = {"alpha": 1.0, "delta": 1.0}
LOGISTIC = losses.logistic()
FIELDS = {
    "eps_bar": "center_test_error",
    "eps_bar_cv": "center_test_error",
    "eps_rep": "test_error",
    "eps_rep_cv": "test_error",
}


class Solved:
    """Points solved in one call, which compiles one program, and found by their parameters."""

    def __init__(self, solver, points, **common):
        self.points = [UNIT | point for point in points]
        names = self.points[0].keys()
        columns = {name: np.array([point[name] for point in self.points]) for name in names}
        self.found = solver(**columns, **common)

    def __call__(self, **point):
        """The solution of one of the points."""
        index = self.points.index(UNIT | point)
        return type(self.found)(*(field[index] for field in self.found))


def coupled_point(y, beta, lam, gamma, rho=0.5):
    return {"y": y, "beta": beta, "lam": lam, "gamma": gamma, "rho": rho}


def row_point(row):
    """The point of a row, as `replicated` or `replicated_sphere` want it."""
    params = row["params"]
    point = {"alpha": params["alpha"], "delta": params["Delta"], "y": float(params["y"])}
    if row["name"] == "logistic-gamma":
        return point | {name: params[name] for name in ("beta", "lam", "gamma")} | {"rho": 0.5}
    q1 = params["q1"]  # where J is given it was measured, with an error
    return point | {"q1": q1[0] if isinstance(q1, list) else q1}


def unique(points):
    return [point for i, point in enumerate(points) if point not in points[:i]]


SPHERE_ROWS = rows(4, "err-sphere", "err-sphere beta=inf")
COUPLED_ROWS = rows(4, "logistic-gamma")
Q0_ALONE = 0.47259274073  # of replicas that are not coupled
TEMPERATURE = {"y": 3.0, "q1": 0.8}
MIDDLE = UNIT | {"y": 3.0, "q1": 0.7}
COUPLED_MIDDLE = coupled_point(2.5, 1.0, 0.2, 0.5, 0.3)
STEP = 1e-4
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


@pytest.fixture(scope="module")
def coupled():
    """With the logistic loss."""
    points = [row_point(row) for row in COUPLED_ROWS]
    points += [coupled_point(1.0, beta, 0.1, 0.0, rho) for rho in (0.5, 0.2) for beta in (1e3, 1e4)]
    points += [coupled_point(y, 1e4, 0.1, 0.5) for y in (3.0, 100.0)]
    points += [coupled_point(y, 1.0, 0.1, 0.0) for y in (2.5, 40.0)]
    points += [coupled_point(5e3, 1.0, 0.1, 1.0, rho) for rho in (0.5, 0.2)]
    points += [COUPLED_MIDDLE, *around(COUPLED_MIDDLE, ("y", "gamma", "rho"), STEP)]
    points += [coupled_point(1.0, beta, 0.1, 0.0) for beta in (0.3, 0.1)]
    points += [coupled_point(2000.0, 0.3, 0.1, gamma) for gamma in (0.1, 1.0)]
    return Solved(replicated, unique([UNIT | p for p in points]), loss=LOGISTIC, fit_bias=True)


def check_row(row, found):
    assert found.converged
    value = getattr(found, FIELDS.get(row["quantity"], row["quantity"]), None)
    if row["quantity"] == "qc":  # the norm of the center
        y = row["params"]["y"]
        value = (found.q + (y - 1) * found.q1) / y
    assert abs(value - row["theory"]) < row["tol_theory"], row


def test_reference_values_of_the_sphere(on_sphere, on_sphere_many, alone):
    assert len(SPHERE_ROWS) == 30
    for row in SPHERE_ROWS:
        point = row_point(row)
        if point["q1"] is None:
            del point["q1"]
            check_row(row, alone(**point, beta=np.inf))
        elif point["y"] == np.inf:
            del point["y"]
            check_row(row, on_sphere_many(**point, beta=np.inf))
        else:
            check_row(row, on_sphere(**point))


def test_reference_values_of_the_logistic_loss(coupled):
    assert len(COUPLED_ROWS) == 14
    for row in COUPLED_ROWS:
        check_row(row, coupled(**row_point(row)))


def trapezoid(bound, num):
    nodes = np.linspace(-bound, bound, num)
    weights = np.exp(-(nodes**2) / 2)
    return nodes, np.log(weights / weights.sum())


def free_entropy(order, y, beta, rho, alpha, delta, loss=None):
    """Of a copy, as it is defined, on a grid of three dimensions; without what holds replicas."""
    m, q, q1, q0, bias = order
    e, d = q - q1, q - q1 + y * (q1 - q0)
    entropic = ((y - 1) * jnp.log(e) + jnp.log(d) + y * (q0 - m**2) / d) / 2
    (z0, weight0), (z1, weight1), (eta, weight) = trapezoid(8, 81), trapezoid(12, 121), (0, 0)
    energetic = 0.0
    for sigma, share in ((1, rho), (-1, 1 - rho)):
        shared = m + sigma * bias + jnp.sqrt(delta * q0) * z0[:, None]
        h = shared + jnp.sqrt(delta * (q1 - q0)) * z1
        if loss is None:
            right = jax.scipy.special.ndtr(h / jnp.sqrt(delta * e))
            g = jnp.log(jnp.exp(-beta) + (1 - jnp.exp(-beta)) * right)
        else:
            eta, weight = trapezoid(8, 81)
            u = h[..., None] + jnp.sqrt(delta * e) * eta
            g = logsumexp(-beta * loss.value(u) + weight, axis=-1)
        energetic += share * jnp.exp(weight0) @ logsumexp(y * g + weight1, axis=-1)
    return entropic + alpha * energetic


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


def assert_same(found, expected, tolerance, *names):
    for name in names or ("m", "q0", "test_error", "free_entropy", "train_loss"):
        value, other = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(value, other, rtol=0, atol=tolerance, err_msg=name)


def test_without_coupling_the_number_of_replicas_does_not_matter(coupled, on_sphere, alone):
    one = coupled(**coupled_point(1.0, 1.0, 0.1, 0.0))
    for y in (2.5, 40.0):
        found = coupled(**coupled_point(y, 1.0, 0.1, 0.0))
        assert_same(found, one, 1e-9)
        assert found.q1 == pytest.approx(found.q0, abs=1e-9)
    one = alone(y=1.0, beta=np.inf)
    assert one.q0 == pytest.approx(Q0_ALONE, abs=1e-10)
    for y in (1.0, 20.0, 1e4):
        found = on_sphere(y=y, q1=Q0_ALONE)
        assert_same(found, one, 1e-9, "m", "q0", "test_error", "train_loss")
        # Fewer replicas than all y on the sphere have this overlap, to begin with.
        volume = ((y - 1) * np.log(1 - Q0_ALONE) + np.log(1 + (y - 1) * Q0_ALONE)) / (2 * y)
        assert found.free_entropy + volume == pytest.approx(one.free_entropy, abs=1e-9)
    assert_same(alone(y=7.0, beta=np.inf), one, 0.0)


def test_one_replica_has_no_overlap_to_fix(on_sphere, at_temperature, alone):
    for q1 in (0.6, 0.95):
        assert_same(on_sphere(y=1.0, q1=q1), alone(y=1.0, beta=np.inf), 1e-8)
    assert_same(at_temperature(y=1.0, q1=0.6, beta=4.0), alone(y=1.0, beta=4.0), 1e-8)


def test_many_replicas_on_a_sphere_approach_infinitely_many(on_sphere, on_sphere_many):
    for q1 in (0.6, 0.9):
        limit = on_sphere_many(q1=q1, beta=np.inf)
        assert_same(on_sphere(y=5e3, q1=q1), limit, 3e-3)
        assert_same(on_sphere(y=5e6, q1=q1), limit, 3e-6)


@pytest.fixture(scope="module")
def coupled_many():
    points = [coupled_point(np.inf, 1.0, 0.1, 1.0, rho) for rho in (0.5, 0.2)]
    for point in points:
        del point["y"]
    return Solved(replicated, points, loss=LOGISTIC, y=np.inf, fit_bias=True)


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


def test_the_mean_of_hot_replicas_is_bayes_optimal(alone, coupled):
    best = bayes_optimal(**UNIT).test_error
    found = [alone(y=1.0, beta=beta) for beta in (4.0, 2.0, 1.0, 0.5, 0.1, 1e-3)]
    errors = [point.thermal_mean_test_error for point in found]
    # Computed by a prototype of these equations.
    np.testing.assert_allclose(errors[:5], [0.2625, 0.2506, 0.2429, 0.24024, 0.23975], atol=5e-5)
    assert errors[-1] == pytest.approx(best, abs=1e-8)
    assert found[-1].test_error == pytest.approx(0.5, abs=1e-3)
    hot = [coupled(**coupled_point(1.0, beta, 0.1, 0.0)) for beta in (1.0, 0.3, 0.1)]
    errors = [point.thermal_mean_test_error for point in hot]
    np.testing.assert_allclose(errors, [0.2548, 0.2504, 0.2461], atol=5e-5)


def test_errors_that_cost_much_are_not_made(at_temperature, on_sphere):
    """Where both peaks of the law of a field, and where only the right one, are integrated."""
    without = on_sphere(y=3.0, q1=0.9)
    assert without.train_loss == 0
    for_points = [at_temperature(y=3.0, q1=0.6, beta=beta) for beta in (20.0, 1e3, np.inf)]
    assert 0 < for_points[0].train_loss < 1e-7
    assert_same(for_points[0], for_points[2], 1e-6)
    assert_same(for_points[1], for_points[2], 1e-8)


def test_the_energy_is_the_derivative_of_the_free_entropy(at_temperature):
    middle, above, below = (
        at_temperature(**TEMPERATURE, beta=beta) for beta in (2.0, 2.0 + 1e-3, 2.0 - 1e-3)
    )
    slope = (above.free_entropy - below.free_entropy) / 2e-3
    assert middle.train_loss == pytest.approx(-slope, abs=1e-7)


def test_close_replicas_are_solved(on_sphere, on_sphere_many):
    """The potential has a sharp bend there, and the reaction of many replicas is large."""
    errors = [on_sphere(y=y, q1=0.98).center_test_error for y in (7.0, 20.0)]
    errors.append(on_sphere_many(q1=0.97, beta=np.inf).center_test_error)
    assert np.all(np.diff(errors) < -0.003)


def test_the_logistic_loss_on_a_sphere():
    found = replicated_sphere(y=1.0, beta=[1e3, 1e4], norm=2.0, loss=LOGISTIC, **UNIT)
    limit = erm(LOGISTIC, norm=2.0, **UNIT)
    for name, expected in (("m", limit.m), ("q0", 2.0), ("train_loss", limit.train_loss)):
        distances = np.abs(getattr(found, name) - expected)
        assert distances[1] == pytest.approx(distances[0] / 10, rel=0.02)
        assert distances[1] < 1e-3


def test_smoothed_errors_are_a_convex_loss():
    q1 = np.array([0.95, 0.6, 0.2, 0.01])
    found = erm(losses.probit(), norm=q1 / (1 - q1), **UNIT)
    # Computed by a prototype of these equations.
    np.testing.assert_allclose(found.test_error, [0.2931, 0.2670, 0.2475, 0.2401], atol=5e-5)
    with jax.enable_x64(True):
        omega, c = np.meshgrid(np.linspace(-40, 20, 61), np.geomspace(1e-3, 1e6, 10))
        u = jax.jit(losses.probit().prox)(omega, c)
        force = -jax.jit(jax.vmap(jax.grad(losses.probit().value)))(u.ravel()).reshape(u.shape)
        np.testing.assert_allclose(u - c * force, omega, rtol=1e-9, atol=1e-8)


def test_the_logarithm_of_the_distribution_function():
    x = np.linspace(-40, 9, 2001)
    expected = scipy.special.log_ndtr(x)
    with jax.enable_x64(True):
        found, slope = jax.jit(jax.vmap(jax.value_and_grad(log_cdf)))(x)
    np.testing.assert_allclose(found, expected, rtol=3e-14, atol=1e-15)
    mills = np.exp(-(x**2) / 2 - expected) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(slope, mills, rtol=1e-11)


def test_the_potential_of_the_square_loss_in_closed_form():
    h = np.linspace(-10.0, 10.0, 41)
    potential = loss_potential(losses.square())
    with jax.enable_x64(True):
        at = jax.jit(potential.at)
        for beta in (0.3, 1.0, 30.0):
            for variance in (0.01, 1.0, 100.0):
                stiffness = beta / (1 + beta * variance)
                expected = (
                    -(np.log1p(beta * variance) + stiffness * (1 - h) ** 2) / 2,
                    stiffness * (1 - h),
                    -stiffness * np.ones_like(h),
                )
                for found, value in zip(at(h, variance, beta), expected, strict=True):
                    np.testing.assert_allclose(found, value, rtol=1e-8, atol=1e-9)


def test_a_tabulated_potential_and_its_derivatives():
    """By differences, of values between the nodes of the table."""
    potential = loss_potential(losses.hinge())
    h, step = np.linspace(-19.9, 19.9, 301), 1e-3

    def at(h):
        g = lambda h: potential.at(h, jnp.asarray(0.5), jnp.asarray(4.0))
        return g(h), tabulate(g, jnp.asarray(-20.0), jnp.asarray(20.0))(h)

    with jax.enable_x64(True):
        at = jax.jit(at)
        (below, _), (exact, table), (above, _) = (at(h + sign * step) for sign in (-1, 0, 1))
        values = [np.asarray(g.value) for g in (below, exact, above)]
        for value, expected in zip(table, exact, strict=True):
            np.testing.assert_allclose(value, expected, atol=1e-7)
    np.testing.assert_allclose(exact.slope, (values[2] - values[0]) / (2 * step), atol=2e-5)
    curvature = (values[2] - 2 * values[1] + values[0]) / step**2
    np.testing.assert_allclose(exact.curvature, curvature, atol=2e-5)


@jax.jit
def tilted_with_errors(h0, params):
    return tilted_averages(error_potential(concave=False), h0, **params)


@pytest.mark.parametrize(
    ("beta", "variance", "y", "coupling"),
    [(0.5, 0.5, 7.0, 1.0), (3.0, 0.3, 3.0, 5.0), (40.0, 0.05, 10.0, 2.0), (2.0, 0.2, 1e3, 1.0)],
)
def test_the_law_of_a_field_with_one_peak_or_two(beta, variance, y, coupling):
    h0 = np.linspace(-6.0, 3.0, 10)
    potential = error_potential(concave=False)
    scale = np.sqrt(coupling / y)
    h = np.linspace(h0 - 10 * scale, np.maximum(h0, 0) + 10 * scale + 2, 40001, axis=1)
    with jax.enable_x64(True):
        params = {"beta": beta, "variance": variance, "y": y, "coupling": coupling}
        found = tilted_with_errors(h0, params)
        g = jax.tree.map(np.asarray, potential.at(h, variance, beta))
    exponent = y * g.value - ((h - h0[:, None]) / scale) ** 2 / 2
    highest = exponent.max(axis=1, keepdims=True)
    law = np.exp(exponent - highest)
    total = law.sum(axis=1) * (h[:, 1] - h[:, 0]) / np.sqrt(2 * np.pi) / scale
    law /= law.sum(axis=1, keepdims=True)
    average = lambda values: (law * values).sum(axis=1)
    force = average(g.slope)
    spread = y * average((g.slope - force[:, None]) ** 2)
    expected = ((highest[:, 0] + np.log(total)) / y, force, average(g.curvature) + spread)
    for value, other in zip(found[:3], expected, strict=True):
        np.testing.assert_allclose(value, other, atol=3e-6 * (1 + np.abs(other).max()))


def by_differences(solved, point, names, step):
    """Of all fields, with respect to the named parameters."""
    moved = lambda name, sign: np.array(solved(**point | {name: point[name] + sign * step})[:10])
    return np.stack([(moved(name, 1) - moved(name, -1)) / (2 * step) for name in names], axis=1)


def around(point, names, step):
    """The points that `by_differences` needs."""
    return [point | {name: point[name] + sign * step} for name in names for sign in (1, -1)]


def test_derivatives_on_the_sphere(on_sphere):
    names = ("y", "q1", "alpha")

    def fields(*values):
        return replicated_sphere(**MIDDLE | dict(zip(names, values, strict=True)))[:10]

    with jax.enable_x64(True):
        found = jax.jit(jax.jacfwd(fields, argnums=(0, 1, 2)))(*(MIDDLE[name] for name in names))
    expected = by_differences(on_sphere, MIDDLE, names, STEP)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


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
