"""Solves the equations of y real replicas, eq. (1) to (4) of `_replicated`."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from flatjax._float64 import vectorized
from flatjax.gaussian_mixture._fixed_point import fixed_point
from flatjax.gaussian_mixture._mixture import classifier_error
from flatjax.gaussian_mixture._potential import Potential
from flatjax.gaussian_mixture._quadrature import piecewise_grid
from flatjax.gaussian_mixture._replica_average import has_one_peak, tilted_averages

NODES_PER_PANEL = 64  # nodes of the integral over h0, the field common to all copies
CHUNK = 4  # points solved at a time; each has tens of thousands of nodes


class Replicated(NamedTuple):
    r"""Replicas in equilibrium.

    If not converged, all fields except the last two are NaN.

    Attributes:
      m: overlap of a replica with the signal, w . v / N.
      q: squared norm of a replica, `|w|^2 / N`.
      q1: overlap of two replicas, w . w' / N.
      q0: overlap of replicas of two independent copies: squared norm of the thermal mean.
      bias: b, common to all replicas.
      free_entropy: free entropy of one replica: the mean over data of log Z / N y. Z is the average
        of :math:`e^{-\beta \sum l}` over replicas that see no patterns.
      train_loss: mean loss of the training patterns for one replica. It is -d free_entropy / d beta
        / alpha if nothing else depends on beta.
      test_error: error of a replica on a fresh pattern.
      center_test_error: test error of the mean of the y replicas.
      thermal_mean_test_error: test error of the mean of the Gibbs measure.
      residual: residual of the equations, in units of order one.
      converged: whether the residual is within the tolerance, and q1 >= q0.
    """

    m: jax.Array
    q: jax.Array
    q1: jax.Array
    q0: jax.Array
    bias: jax.Array
    free_entropy: jax.Array
    train_loss: jax.Array
    test_error: jax.Array
    center_test_error: jax.Array
    thermal_mean_test_error: jax.Array
    residual: jax.Array
    converged: jax.Array


@functools.partial(jax.jit, static_argnames=("potential", "is_limit", "fit_bias", "tolerance"))
def solve(
    params: dict[str, jax.Array],
    *,
    potential: Potential,
    is_limit: bool,
    fit_bias: bool,
    tolerance: float,
) -> Replicated:
    """Solves the equations.

    Args:
      params: y, beta, alpha, delta and rho. For replicas on a sphere also norm, and q1 if they are
        coupled; otherwise lam and gamma. All are broadcast.
      potential: g.
      is_limit: whether y is infinite.
      fit_bias: whether b is an unknown, or 0.
      tolerance: largest residual of a solution.

    Returns:
      The replicas.
    """
    solver = _solve_sphere if "norm" in params else _solve_coupled
    average = functools.partial(_average, potential=potential, fit_bias=fit_bias)
    static = {"average": average, "is_limit": is_limit, "tolerance": tolerance}
    return vectorized(functools.partial(solver, **static), CHUNK)(**params)


class _Order(NamedTuple):
    """Order parameters."""

    m: jax.Array
    q0: jax.Array
    e: jax.Array  # q - q1
    d: jax.Array  # e + y (q1 - q0)
    bias: jax.Array


class _Averages(NamedTuple):
    """Averages over patterns; f is the force of a pattern on the replicas, given h0."""

    envelope: jax.Array  # 1 / y log E_h e^(y g)
    force: jax.Array
    slope: jax.Array  # df / dh0
    curvature: jax.Array  # <g''>
    force_squared: jax.Array
    bias_force: jax.Array  # E sigma f


# Jitted to be traced once, not by every transformation inside a solution.
@functools.partial(jax.jit, static_argnames=("potential", "fit_bias", "is_coupled"))
def _average(order, beta, *, y, delta, rho, potential, fit_bias, is_coupled=True) -> _Averages:
    """Computes the averages; y is None if it is infinite."""
    scale = jnp.sqrt(delta * order.q0)
    sigma, weight = jnp.zeros(1), jnp.ones(1)  # without a bias all classes are alike
    if fit_bias:
        sigma, weight = jnp.array([1.0, -1.0]), jnp.stack([rho, 1 - rho])
    center = order.m + sigma * order.bias

    def grid_of_class(center):
        bends = (potential.breakpoints(beta * delta * order.d) - center) / scale
        return piecewise_grid(jax.lax.stop_gradient(bends), NODES_PER_PANEL)

    z, density = jax.vmap(grid_of_class)(center)
    given_h0 = tilted_averages(
        potential,
        (center[:, None] + scale * z).ravel(),
        variance=delta * order.e,
        coupling=delta * (order.d - order.e) if is_coupled else None,
        beta=beta,
        y=y,
    )
    values = jnp.stack([*given_h0, given_h0.force**2, given_h0.force]).reshape(-1, *z.shape)
    of_class = jnp.einsum("vcz,cz,c->vc", values, density, weight)
    return _Averages._make([*of_class[:-1].sum(axis=1), of_class[-1] @ sigma])


class _Extremum(NamedTuple):
    order: _Order
    free_entropy: jax.Array  # the part common to sphere and ridge
    train_loss: jax.Array
    residual: jax.Array
    converged: jax.Array


def _extremum(
    overlaps, equations, start, *, average, beta, alpha, delta, is_limit, tolerance
) -> _Extremum:
    """Solves for x, and for m and b.

    Args:
      overlaps: maps x to (q0, e, D).
      equations: maps (averages, alpha^2 (E f)^2 + alpha delta E f^2) to the new x.
      start: first guesses of x and of m / sqrt(q0).
      average: maps (order, beta) to averages.
      beta: inverse temperature.
      alpha: patterns per feature.
      delta: variance of the noise.
      is_limit: whether y is infinite.
      tolerance: largest residual of a solution.
    """
    *first, cosine = start
    fit_bias = average.keywords["fit_bias"]
    start = jnp.stack([jnp.asarray(v, float) for v in [cosine, *first] + [0.0] * fit_bias])

    def unpack(x) -> _Order:
        q0, e, d = overlaps(x[1:])
        bias = x[-1] if fit_bias else jnp.zeros_like(q0)
        return _Order(x[0] * jnp.sqrt(q0), q0, e, d, bias)

    def update(x):
        order = unpack(x)
        now = average(order, beta)
        squared = alpha * (alpha * now.force**2 + delta * now.force_squared)  # q0 / D^2, eq. (2)
        new = [alpha * now.force / jnp.sqrt(squared), *equations(now, squared)]
        if fit_bias:
            # A Newton step for the bias, bounded: it is too long if the force hardly depends on it.
            new.append(order.bias - jnp.clip(now.bias_force / now.slope, -1, 1))
        return jnp.stack(new)

    found = fixed_point(update, start, tolerance=tolerance)
    order = unpack(found.x)
    now, by_beta = jax.jvp(lambda beta: average(order, beta), (beta,), (jnp.ones_like(beta),))
    valid = order.d >= order.e * (1 - 1e-7)
    if is_limit:
        reaction = delta * (order.d - order.e)
        valid &= has_one_peak(average.keywords["potential"], delta * order.e, reaction, beta)
    return _Extremum(
        order,
        (order.q0 - order.m**2) / (2 * order.d) + alpha * now.envelope,
        -by_beta.envelope,
        found.residual,
        found.converged & valid,
    )


def _solve_sphere(
    *, y, beta, alpha, delta, rho, norm, q1=None, average, is_limit, tolerance
) -> Replicated:
    is_coupled = q1 is not None
    share = jnp.zeros_like(y) if is_limit else 1 / y  # of a replica in the center
    # Replicas that are not coupled are independent copies of one replica.
    inverse_y = share if is_coupled else jnp.ones_like(y)
    center_norm = inverse_y * norm + (1 - inverse_y) * (q1 if is_coupled else 0.0)
    average = functools.partial(
        average, y=None if is_limit else y, delta=delta, rho=rho, is_coupled=is_coupled
    )

    def overlaps(x):
        d = jnp.exp(x[0])
        q0 = jnp.maximum(center_norm - inverse_y * d, 1e-12 * center_norm)
        return q0, norm - q1 if is_coupled else d, d

    def equations(now, squared):  # D from eq. (2) and (3)
        del now
        root = jnp.sqrt(inverse_y**2 + 4 * squared * center_norm)
        return [jnp.log(2 * center_norm / (inverse_y + root))]

    d = norm - q1 + q1 / 2 / jnp.maximum(share, 0.5) if is_coupled else norm / 2
    start = [jnp.log(d), 0.6]
    found = _extremum(
        overlaps,
        equations,
        start,
        average=average,
        beta=beta,
        alpha=alpha,
        delta=delta,
        is_limit=is_limit and is_coupled,
        tolerance=tolerance,
    )
    # y log y is 0 at infinite y.
    entropy = inverse_y * jnp.log(found.order.d / center_norm) + xlogy(inverse_y, inverse_y)
    q1 = q1 if is_coupled else found.order.q0
    return _result(found, entropy / 2, norm, q1, share, delta, rho)


def _solve_coupled(
    *, y, beta, alpha, delta, rho, lam, gamma, average, is_limit, tolerance
) -> Replicated:
    share = jnp.zeros_like(y) if is_limit else 1 / y
    average = functools.partial(average, y=None if is_limit else y, delta=delta, rho=rho)
    common, relative = beta * lam, beta * (lam + gamma)  # stiffness of the two kinds of motion

    def overlaps(x):
        d, e, q0 = jnp.exp(x[:3])
        return q0, e, d

    def equations(now, squared):  # D and e from eq. (4), q0 from eq. (2)
        d = 1 / (common - alpha * delta * now.slope)
        e = 1 / (relative - alpha * delta * now.curvature)
        return [jnp.log(d), jnp.log(e), jnp.log(d**2 * squared)]

    d, e = (1 / (stiffness + 0.1 * beta * alpha * delta) for stiffness in (common, relative))
    start = [jnp.log(d), jnp.log(e), jnp.log(0.5), 0.42]
    found = _extremum(
        overlaps,
        equations,
        start,
        average=average,
        beta=beta,
        alpha=alpha,
        delta=delta,
        is_limit=is_limit,
        tolerance=tolerance,
    )
    _, q0, e, d, _ = found.order
    q1 = q0 + share * (d - e)
    q = q1 + e
    entropy = (1 - share) * jnp.log(e * relative) + share * jnp.log(d * common)
    energy = common * q + (relative - common) * (1 - share) * e
    return _result(found, (entropy - energy + 1) / 2, q, q1, share, delta, rho)


def _result(found, free_entropy, q, q1, share, delta, rho) -> Replicated:
    m, q0, _, _, bias = found.order
    error = lambda norm: classifier_error(m, norm, bias, delta, rho)
    values = Replicated(
        m,
        q,
        q1,
        q0,
        bias,
        found.free_entropy + free_entropy,
        found.train_loss,
        error(q),
        error(share * q + (1 - share) * q1),
        error(q0),
        found.residual,
        found.converged,
    )
    shown = [jnp.where(found.converged, value, jnp.nan) for value in values[:-2]]
    return Replicated._make([*shown, *values[-2:]])
