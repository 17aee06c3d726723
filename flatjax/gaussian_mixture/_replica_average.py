r"""Averages over the field of a pattern, weighted by y replicas.

The field has three parts. The first, :math:`h_0`, is common to all copies. The second is common to
the y replicas of a copy. The third belongs to a single replica, and the potential g has integrated
it out. Given :math:`h_0`, the sum h of the first two parts has the law

.. math::
  P(h \mid h_0) \propto e^{y\, g(h)}\, \mathcal{N}(h;\, h_0,\, c / y). \tag{1}
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flatjax.gaussian_mixture._potential import (
    BOUND,
    Function,
    Potential,
    bracketed_root,
    panels,
    reach,
    tabulate,
)

SMALLEST_COUPLING = 1e-12  # of c, in units of s^2


class Tilted(NamedTuple):
    r"""Averages over :math:`P(h \mid h_0)`, as functions of :math:`h_0`.

    Attributes:
      envelope: :math:`\frac1y \log \int dh\, e^{y g(h)} \mathcal{N}(h; h_0, c / y)`.
      force: its derivative, :math:`f = \langle g' \rangle`.
      slope: f', :math:`\langle g'' \rangle + y \operatorname{var} g'`.
      curvature: :math:`\langle g'' \rangle`.
    """

    envelope: jax.Array
    force: jax.Array
    slope: jax.Array
    curvature: jax.Array


def tilted_averages(
    potential: Potential,
    h0: jax.Array,
    *,
    variance: jax.Array,
    coupling: jax.Array | None,
    beta: jax.Array,
    y: jax.Array | None,
) -> Tilted:
    """Computes averages given the field that is common to all copies.

    Args:
      potential: g.
      h0: the field, shape (n,).
      variance: s^2, the variance of the field of one replica.
      coupling: c, y times the variance of the field that y replicas share; None if replicas are not
        coupled and there is no such field. It is at least `SMALLEST_COUPLING`.
      beta: inverse temperature.
      y: number of replicas; None if it is infinite.

    Returns:
      The averages, each of shape (n,).
    """
    g = lambda h: potential.at(h, variance, beta)
    if coupling is None:
        at_h0 = g(h0)
        return Tilted(at_h0.value, at_h0.slope, at_h0.curvature, at_h0.curvature)
    # The bound applies to values, not to derivatives.
    lowest = SMALLEST_COUPLING * variance
    c = coupling + jax.lax.stop_gradient(jnp.maximum(lowest - coupling, 0))

    # The range of integration is never differentiated.
    fixed = functools.partial(jax.tree.map, jax.lax.stop_gradient)
    where, c_fixed = fixed((h0, c))
    domain: tuple[jax.Array, jax.Array] = -jnp.array(jnp.inf), jnp.array(jnp.inf)
    if not potential.closed_form:
        # The peaks are between the extremes of h0 and these fields.
        ends = jnp.stack([where.min(), where.max()])
        others = ends + c_fixed * potential.at(ends, *fixed((variance, beta))).slope
        domain = jnp.minimum(ends[0], others[0]), jnp.maximum(ends[1], others[1])
        margin = 0.0 if y is None else BOUND * jnp.sqrt(c_fixed / y)
        g = tabulate(g, domain[0] - margin, domain[1] + margin)
    g_fixed = lambda h: fixed(g(h))
    if y is None:
        return _infinitely_many(g, h0, c, _peak(g_fixed, where, c_fixed, domain, steps=40))
    if potential.concave:
        edges = _edges_of_one_peak(g_fixed, where, c_fixed, y, domain, potential.bends)
    else:
        edges = _edges_of_two_peaks(g_fixed, where, c_fixed, y, *fixed((variance, beta)))
    return _finitely_many(g, h0, c, y, *panels(fixed(edges)))


def has_one_peak(potential: Potential, variance, coupling, beta) -> jax.Array:
    """Returns whether P has a single peak for every h0."""
    if potential.concave:
        return jnp.asarray(True)
    on_grid = potential.at(_fields_of_errors(variance, beta), variance, beta)
    return coupling * on_grid.curvature.max() < 1


def _infinitely_many(g: Function, h0, c, peak) -> Tilted:
    """Averages for infinite y, where P is concentrated at its peak.

    One more Newton step makes the peak differentiable.
    """
    at_peak = g(peak)
    contraction = jax.lax.stop_gradient(1 - c * at_peak.curvature)
    h = peak - (peak - c * at_peak.slope - h0) / contraction
    at_h = g(h)
    return Tilted(
        envelope=at_h.value - c * at_h.slope**2 / 2,
        force=at_h.slope,
        slope=at_h.curvature / (1 - c * at_h.curvature),
        curvature=at_h.curvature,
    )


def _finitely_many(g: Function, h0, c, y, t, weight) -> Tilted:
    """Averages for finite y, as integrals over t with h = h0 + t sqrt(c / y).

    Nodes and weights have shape (n, nodes).
    """
    at_t = g(h0[:, None] + jnp.sqrt(c / y) * t)
    exponent = y * at_t.value - t**2 / 2
    highest = jax.lax.stop_gradient(exponent.max(axis=-1, keepdims=True))
    density = weight * jnp.exp(exponent - highest)
    total = density.sum(-1)
    average = lambda values: (density * values).sum(-1) / total
    force, curvature = average(at_t.slope), average(at_t.curvature)
    return Tilted(
        envelope=(highest[:, 0] + jnp.log(total) - np.log(2 * np.pi) / 2) / y,
        force=force,
        slope=curvature + y * average((at_t.slope - force[:, None]) ** 2),
        curvature=curvature,
    )


def _fields_of_errors(variance, beta):
    """Makes a grid of fields where g bends upwards.

    There an error and no error are about equally likely.
    """
    likely = jnp.sqrt(2 * jnp.minimum(beta, 1e6))
    return jnp.sqrt(variance) * (jnp.linspace(-25.0, 25.0, 512) / (3.5 + likely) - likely)


def _displacement(g: Function, h0, c):
    """Returns a function of h that is zero at the peaks of P, and its derivative."""

    def fn(h):
        at_h = g(h)
        return h - h0 - c * at_h.slope, 1 - c * at_h.curvature

    return fn


def _peak(g: Function, h0, c, domain=(-jnp.inf, jnp.inf), steps=15):
    """Finds the peak of P where g is concave."""
    other = h0 + c * g(h0).slope
    low, high = (jnp.clip(bound(h0, other), *domain) for bound in (jnp.minimum, jnp.maximum))
    return bracketed_root(_displacement(g, h0, c), low, high, steps)


def _log_density(g: Function, h0, c, y):  # of eq. (1), at h = h0 + t sqrt(c / y)
    return lambda t: y * g(h0 + jnp.sqrt(c / y) * t).value - t**2 / 2


def _edges_of_one_peak(g: Function, h0, c, y, domain, bends):
    """Returns panels of the integral over t: two sides of the peak, and bends."""
    scale = jnp.sqrt(c / y)
    peak = (_peak(g, h0, c, domain) - h0) / scale
    left, right = _reach_from(_log_density(g, h0, c, y), peak, peak, BOUND, BOUND)
    inner = [jnp.clip((bend - h0) / scale, left, right) for bend in bends]
    return jnp.sort(jnp.stack([left, peak, right, *inner], axis=-1), axis=-1)


def _reach_from(log_density, t, highest, longest_left, longest_right):
    """Returns how far a peak at t extends on both sides.

    `highest` is the position of the highest peak.
    """
    sign = jnp.array([[-1.0], [1.0]])
    longest = jnp.stack(jnp.broadcast_arrays(longest_left, longest_right + 0 * t))
    top = log_density(highest)
    return t + sign * reach(lambda r: top - log_density(t + sign * r), longest)


def _edges_of_two_peaks(g: Function, h0, c, y, variance, beta):
    """Returns panels of the integral over t for errors at a finite beta.

    A pattern remains wrong, at a field where g is flat and convex, or is corrected, where g is
    concave. P has one of these peaks, or both. Each peak has its own panels, which end where they
    meet.
    """
    # A grid shows where the displacement falls. This can only be between the two peaks.
    grid = _fields_of_errors(variance, beta)
    on_grid = g(grid)
    falls = c * on_grid.curvature > 1
    sharpest = jnp.argmax(on_grid.curvature)
    first = grid[jnp.where(falls.any(), jnp.argmax(falls), sharpest)]
    last = grid[jnp.where(falls.any(), falls.size - 1 - jnp.argmax(falls[::-1]), sharpest)]
    steepest = jnp.argmax(on_grid.slope)

    displacement = _displacement(g, h0, c)
    has_left, has_right = displacement(first)[0] >= 0, displacement(last)[0] <= 0
    sign = jnp.array([[1.0], [1.0], [-1.0]])  # at the valley the displacement falls
    most = h0 + 1.01 * c * on_grid.slope[steepest]
    low, high, valley = bracketed_root(
        lambda h: jax.tree.map(lambda value: sign * value, displacement(h)),
        jnp.stack([jnp.minimum(h0, first), jnp.maximum(h0, last), first + 0 * h0]),
        jnp.stack([first + 0 * h0, most, last + 0 * h0]),
        steps=30,
    )
    low, high = jnp.where(has_left, low, high), jnp.where(has_right, high, low)
    valley = jnp.where(has_left & has_right, valley, low)

    in_t = lambda h: (h - h0) / jnp.sqrt(c / y)
    low, valley, high = in_t(low), in_t(valley), in_t(high)
    log_density = _log_density(g, h0, c, y)
    highest = jnp.where(log_density(low) > log_density(high), low, high)
    left, meet_left = _reach_from(log_density, low, highest, low + BOUND, valley - low)
    beyond = jnp.maximum(in_t(grid[steepest]) - high, 0) + BOUND
    meet_right, right = _reach_from(log_density, high, highest, high - valley, beyond)
    bends = [jnp.clip(in_t(h), left, right) for h in (grid[sharpest], grid[steepest], 0.0)]
    edges = [left, low, meet_left, meet_right, high, right, *bends]
    return jnp.sort(jnp.stack(edges, axis=-1), axis=-1)
