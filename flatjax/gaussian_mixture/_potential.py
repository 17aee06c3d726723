r"""The potential of a pattern for one replica, given the shared field.

.. math:: g(h) = \log \int D\eta\, e^{-\beta\, l(h + s \eta)}. \tag{1}

Here h is the part of the field that replicas share, and s^2 the variance of the part that belongs
to one replica, which is integrated out.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flatjax.gaussian_mixture._quadrature import log_cdf, log_density
from flatjax.gaussian_mixture.losses import Loss

# Integrands are followed until they have fallen from their peak by e^-38 = 3e-17. A density with at
# least the curvature of the standard normal one falls by this factor within BOUND.
LOG_NEGLIGIBLE = 38.0
BOUND = float(np.sqrt(2 * LOG_NEGLIGIBLE))
NODES_PER_PANEL = 24
TABLE_SIZE = 1024


class Derivatives(NamedTuple):
    """The potential g and its first two derivatives, elementwise."""

    value: jax.Array
    slope: jax.Array
    curvature: jax.Array


Function = Callable[[jax.Array], Derivatives]


@dataclasses.dataclass(frozen=True)
class Potential:
    """A family of potentials g.

    Attributes:
      at: `at(h, variance, beta)` computes g for any h and scalars s^2 and beta.
      bends: fields near which g changes its shape.
      breakpoints: `breakpoints(c)` returns fields near which the response of the minimum to a
        shared field changes its shape at low temperature. c is the susceptibility of a field.
      concave: whether g is concave for every s and beta.
      closed_form: whether `at` is cheap. If not, g is tabulated before it is integrated.
    """

    at: Callable[[jax.Array, jax.Array, jax.Array], Derivatives]
    bends: tuple[float, ...]
    breakpoints: Callable[[jax.Array], jax.Array]
    concave: bool
    closed_form: bool


def panels(edges: jax.Array, num: int = NODES_PER_PANEL) -> tuple[jax.Array, jax.Array]:
    """Returns Gauss-Legendre nodes and weights between sorted edges.

    Edges have shape (..., k + 1), the results (..., k num).
    """
    legendre, weights = np.polynomial.legendre.leggauss(num)
    middle, half = (edges[..., 1:] + edges[..., :-1]) / 2, (edges[..., 1:] - edges[..., :-1]) / 2
    flat = lambda values: values.reshape(*values.shape[:-2], -1)
    nodes = middle[..., None] + half[..., None] * legendre
    return flat(nodes), flat(half[..., None] * weights)


def reach(drop: Function, longest: jax.Array) -> jax.Array:
    """Returns the distance at which the increasing `drop` reaches `LOG_NEGLIGIBLE`.

    It is `longest` if that never happens.

    It is at most 6% too large, and only says where to integrate.
    """

    def narrow(_, bracket):
        low, high = bracket
        middle = jnp.sqrt(low * high)
        enough = drop(middle) >= LOG_NEGLIGIBLE
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    longest = jnp.asarray(longest)
    return jax.lax.fori_loop(0, 8, narrow, (longest * 1e-6, longest))[1]


def bracketed_root(
    fn: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    low: jax.Array,
    high: jax.Array,
    steps: int = 15,
) -> jax.Array:
    """Finds the zero of an increasing function by Newton steps in a bracket.

    Steps are elementwise and start from the lower end. If the function is concave they never leave
    the bracket.

    Args:
      fn: maps x to (value, derivative).
      low: point where the value is negative, or the root itself.
      high: point where the value is positive, or the root itself.
      steps: number of evaluations.

    Returns:
      The root; an approximation if the steps are few.
    """

    def narrow(_, state):
        low, high, x = state
        value, derivative = fn(x)
        low, high = jnp.where(value < 0, x, low), jnp.where(value < 0, high, x)
        newton = x - value / derivative
        inside = (newton >= low) & (newton <= high)
        return low, high, jnp.where(inside, newton, (low + high) / 2)

    low, high = jnp.broadcast_arrays(low, high)
    return jax.lax.fori_loop(0, steps, narrow, (low, high, low))[2]


def _count_errors(h, variance, beta) -> Derivatives:
    s = jnp.sqrt(variance)
    x = h / s
    log_unweighted = jnp.log(-jnp.expm1(-beta))  # of 1 - e^-beta
    value = jnp.logaddexp(-beta, log_unweighted + log_cdf(x))  # eq. (1)
    mills = jnp.exp(log_unweighted + log_density(x) - value)
    return Derivatives(value, mills / s, -mills * (x + mills) / variance)


@functools.cache
def error_potential(concave: bool) -> Potential:
    """Makes the potential of the number of errors: l(h) = 1 if h < 0, else 0.

    It is concave if beta is infinite.
    """
    # To correct a field below -sqrt(2 c) costs more than an error.
    breakpoints = lambda c: (
        jnp.zeros(1) if concave else jnp.stack([jnp.zeros_like(c), -jnp.sqrt(2 * c)])
    )
    return Potential(_count_errors, (0.0,), breakpoints, concave, closed_form=True)


@functools.cache
def loss_potential(loss: Loss) -> Potential:
    """Makes the potential of a convex loss."""
    bends = tuple(u for u, *_ in loss.kinks) or (0.0,)

    def at(h, variance, beta):
        s = jnp.sqrt(variance)
        log_weight = lambda u, h: -beta * loss.value(u) - (u - h) ** 2 / (2 * variance)
        # Nodes are constants when the integral is differentiated.
        fixed = jax.tree.map(jax.lax.stop_gradient, (h, variance, beta, s))
        u, weight, peak = _loss_nodes(loss, bends, *fixed)
        exponent = log_weight(u, h[..., None])
        shift = jax.lax.stop_gradient(log_weight(peak, h))
        density = weight * jnp.exp(exponent - shift[..., None])
        total = density.sum(-1)
        average = lambda values: (density * values).sum(-1) / total
        mean = average(u - peak[..., None])
        spread = average((u - peak[..., None] - mean[..., None]) ** 2)
        return Derivatives(
            value=shift + jnp.log(total) - jnp.log(2 * np.pi * variance) / 2,  # eq. (1)
            slope=(peak - h + mean) / variance,
            curvature=(spread / variance - 1) / variance,
        )

    breakpoints = loss.breakpoints if loss.kinks else lambda c: jnp.zeros(1)
    return Potential(at, bends, breakpoints, concave=True, closed_form=False)


def _loss_nodes(loss, bends, h, variance, beta, s):
    """Returns nodes and weights around the peak of exp(-beta l(u)) N(u; h, s^2).

    The peak is returned as well.
    """
    peak = loss.prox(h, beta * variance)
    reaction = (peak - h) / variance  # -beta l'(peak)

    sign = jnp.array([-1.0, 1.0])[:, *(None,) * jnp.ndim(h)]

    def drop(r):
        rise = loss.value(peak + sign * r) - loss.value(peak)
        return beta * rise + reaction * sign * r + r**2 / (2 * variance)

    left, right = peak + sign * reach(drop, jnp.broadcast_to(BOUND * s, (2, *jnp.shape(h))))
    inner = [jnp.clip(bend, left, right) for bend in bends]
    edges = jnp.sort(jnp.stack([left, peak, right, *inner], axis=-1), axis=-1)
    return *panels(edges), peak


def tabulate(function: Function, low: jax.Array, high: jax.Array) -> Function:
    """Replaces a function between two fields by its quintic interpolation.

    It interpolates the value and two derivatives.
    """
    step = (high - low) / (TABLE_SIZE - 1)
    table = function(low + step * jnp.arange(TABLE_SIZE))
    rows = jnp.stack([table.value, table.slope * step, table.curvature * step**2 / 2], axis=-1)
    # Coefficients of p(t) = a0 + a1 t + ... + a5 t^5 on each cell, t from 0 to 1.
    (a0, a1, a2), (b0, b1, b2) = rows[:-1].T, rows[1:].T
    value, slope, curvature = b0 - a0 - a1 - a2, b1 - a1 - 2 * a2, b2 - a2
    a3 = 10 * value - 4 * slope + curvature
    a4 = -15 * value + 7 * slope - 2 * curvature
    a5 = 6 * value - 3 * slope + curvature
    coefficients = jnp.stack([a0, a1, a2, a3, a4, a5], axis=-1)

    def interpolate(h):
        position = (h - low) / step
        cell = jnp.clip(jnp.floor(jax.lax.stop_gradient(position)), 0, TABLE_SIZE - 2)
        t = position - cell
        c = jnp.moveaxis(coefficients[cell.astype(int)], -1, 0)
        polynomial = lambda *factors: functools.reduce(lambda p, a: p * t + a, factors)
        return Derivatives(
            value=polynomial(*c[::-1]),
            slope=polynomial(5 * c[5], 4 * c[4], 3 * c[3], 2 * c[2], c[1]) / step,
            curvature=polynomial(20 * c[5], 12 * c[4], 6 * c[3], 2 * c[2]) / step**2,
        )

    return interpolate
