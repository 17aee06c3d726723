"""What tests of real replicas share: points solved in one call, reference rows, a free entropy."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

UNIT = {"alpha": 1.0, "delta": 1.0}
STEP = 1e-4
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


def check_row(row, found):
    assert found.converged
    value = getattr(found, FIELDS.get(row["quantity"], row["quantity"]), None)
    if row["quantity"] == "qc":  # the norm of the center
        y = row["params"]["y"]
        value = (found.q + (y - 1) * found.q1) / y
    assert abs(value - row["theory"]) < row["tol_theory"], row


def assert_same(found, expected, tolerance, *names):
    for name in names or ("m", "q0", "test_error", "free_entropy", "train_loss"):
        value, other = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(value, other, rtol=0, atol=tolerance, err_msg=name)


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


def by_differences(solved, point, names, step):
    """Of all fields, with respect to the named parameters."""
    moved = lambda name, sign: np.array(solved(**point | {name: point[name] + sign * step})[:10])
    return np.stack([(moved(name, 1) - moved(name, -1)) / (2 * step) for name in names], axis=1)


def around(point, names, step):
    """The points that `by_differences` needs."""
    return [point | {name: point[name] + sign * step} for name in names for sign in (1, -1)]
