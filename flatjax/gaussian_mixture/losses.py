r"""Convex losses of the margin, with their proximal operators.

A classifier has the loss l(u) on a pattern of margin u, and is right if u > 0. The theory of its
minimum needs the proximal operator, :math:`u = \operatorname{prox}_{c\,l}(\omega) =
\arg\min_u (u - \omega)^2 / 2c + l(u)`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from flatjax.gaussian_mixture._quadrature import log_cdf, log_density

__all__ = ["Loss", "convex", "hinge", "linear", "logistic", "probit", "square"]

_Function = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Loss:
    """A convex loss of the margin.

    Attributes:
      name: name in tables.
      value: l(u), elementwise.
      prox: u = prox(omega, c), elementwise.
      slope_at_zero: l'(0), from the left; it decides which training patterns are errors.
      kinks: (u, l'(u) from the left, l'(u) from the right) for every point where l is not analytic.
      num_nodes: nodes of Gaussian integrals, or of each piece if there are kinks.

    See Also:
      `logistic` (one of them), `flatjax.gaussian_mixture.erm` (trains with it).
    """

    name: str
    value: _Function
    prox: Callable[[jax.Array, jax.Array], jax.Array]
    slope_at_zero: float
    kinks: tuple[tuple[float, float, float], ...] = ()
    num_nodes: int = 241

    def breakpoints(self, c: jax.Array) -> jax.Array:
        """Returns where the proximal operator is not analytic in omega; (2 kinks,).

        At a kink, u stays constant while omega moves over an interval.
        """
        return jnp.array([u + c * slope for u, *slopes in self.kinks for slope in slopes])


def square() -> Loss:
    """Returns the square loss, (1 - u)^2 / 2.

    Examples:
      >>> square().prox(0.0, 1.0)
      0.5

    See Also:
      `hinge` (with a margin), `flatjax.gaussian_mixture.erm` (trains with it).
    """
    return _SQUARE


def linear() -> Loss:
    """Returns the linear loss, -u.

    With any ridge its minimum has the direction of the Hebb rule.

    Examples:
      >>> linear().prox(0.5, 2.0)
      2.5

    See Also:
      `flatjax.gaussian_mixture.hebb` (has the direction of its minimum).
    """
    return _LINEAR


def logistic() -> Loss:
    """Returns the cross-entropy, log(1 + exp(-u)).

    Examples:
      >>> loss = logistic()
      >>> u = loss.prox(-1.0, 3.0)
      >>> bool(abs(u - (-1.0 + 3.0 * jax.nn.sigmoid(-u))) < 1e-5)  # (u - omega) / c = -l'(u)
      True

    See Also:
      `probit` (the loss of the Bayesian), `hinge` (with a margin), `flatjax.gaussian_mixture.erm`
      (trains with it).
    """
    return _LOGISTIC


def hinge() -> Loss:
    """Returns the hinge, max(0, 1 - u).

    Examples:
      >>> [float(hinge().prox(omega, 1.0)) for omega in (-1.0, 0.5, 2.0)]
      [0.0, 1.0, 2.0]

    See Also:
      `square` (a smooth loss), `flatjax.gaussian_mixture.max_margin` (its limit for a weak ridge).
    """
    return _HINGE


def probit() -> Loss:
    r"""Returns the negative log-probability of no error, :math:`-\log \Phi(u)`.

    The noise on the margin has unit variance. For other noise, rescale the weights. For example,
    let weights of norm q1 be surrounded by weights of norm q, whose field has the noise variance
    :math:`\Delta (q - q_1)`. This is equivalent to weights of norm :math:`q_1 / \Delta (q - q_1)`
    here.

    Examples:
      >>> loss = probit()
      >>> u = loss.prox(-1.0, 3.0)
      >>> bool(abs(u + 1.0 + 3.0 * jax.grad(loss.value)(u)) < 1e-5)  # (u - omega) / c = -l'(u)
      True

    See Also:
      `logistic` (almost the same), `flatjax.gaussian_mixture.erm` (trains with it).
    """
    return _PROBIT


def convex(value: _Function, *, kinks: Sequence[float] = (), name: str = "convex") -> Loss:
    """Makes a loss of any convex function, with a numerical proximal operator.

    Sixty steps, each of Newton and of bisection, give the operator to the precision of the numbers.
    The losses of this module with a closed form are faster.

    Args:
      value: l(u) for a scalar u; convex, and differentiable by `jax.grad`.
      kinks: the points where l is not analytic, with different formulas on the two sides.
      name: name in tables.

    Returns:
      The loss.

    Raises:
      ValueError: l is not finite or not convex on a grid of [-30, 30].

    Examples:
      >>> squared_hinge = convex(lambda u: jnp.maximum(1 - u, 0) ** 2 / 2, kinks=[1.0])
      >>> bool(abs(squared_hinge.prox(0.0, 1.0) - square().prox(0.0, 1.0)) < 1e-5)
      True

    See Also:
      `logistic` (an example), `flatjax.gaussian_mixture.erm` (trains with it).
    """
    elementwise = jnp.vectorize(value)
    slope = jnp.vectorize(jax.grad(value))
    curvature = jnp.vectorize(jax.grad(jax.grad(value)))
    with jax.enable_x64(True):
        grid = jnp.linspace(-30.0, 30.0, 6001) + 1e-7  # kinks at round numbers lie between
        slopes = np.asarray(slope(grid))
        slope_at_zero = float(slope(jnp.asarray(-1e-12)))
        sides = tuple(
            (float(u), float(slope(jnp.asarray(u - 1e-12))), float(slope(jnp.asarray(u + 1e-12))))
            for u in kinks
        )
    if not np.isfinite(slopes).all():
        raise ValueError("value must be a loss with a finite derivative on [-30, 30].")
    if np.diff(slopes).min() < -1e-9 * max(np.abs(slopes).max(), 1):
        where = grid[np.diff(slopes).argmin()]
        raise ValueError(f"value must be convex, but its derivative falls near u = {where:.2f}.")

    def prox(omega, c):
        omega, c = jnp.broadcast_arrays(jnp.asarray(omega, float), c)
        other = omega - c * slope(omega)  # the solution lies between

        def narrow(_, bracket):
            low, high, u = bracket
            for is_newton in (True, False):
                residual = u - omega + c * slope(u)
                low, high = jnp.where(residual < 0, u, low), jnp.where(residual < 0, high, u)
                middle = (low + high) / 2
                newton = u - residual / (1 + c * curvature(u))
                inside = (newton > low) & (newton < high)
                u = jnp.where(inside & is_newton, newton, middle)
            return low, high, u

        low, high = jnp.minimum(omega, other), jnp.maximum(omega, other)
        low, high, _ = jax.lax.fori_loop(0, 60, narrow, (low, high, (low + high) / 2))
        return (low + high) / 2

    return Loss(name, elementwise, prox, slope_at_zero, sides, num_nodes=40 if sides else 241)


def _prox_logistic(omega, c):
    """Solves u = omega + c / (1 + e^u) by Halley's method from a good guess."""
    # The mirrored problem (u, omega) -> (-u, -omega - c) is the same: solve for u >= 0.
    mirrored = omega < -c / 2
    omega_ = jnp.where(mirrored, -omega - c, omega)
    # For u >= 0, 1 / (1 + e^u) is between e^-u / 2 and e^-u; with the former the solution is
    # omega + W(c e^-omega / 2), W being Lambert's function, of which this is an approximation.
    log_x = jnp.log(c / 2) - omega_
    t = jnp.logaddexp(0.0, log_x)
    u = jnp.maximum(omega_ + t * (1 - jnp.log1p(t) / (2 + t)), 0.0)
    for _ in range(3):
        sigma = jax.nn.sigmoid(-u)
        residual = u - omega_ - c * sigma
        slope = 1 + c * sigma * (1 - sigma)
        curvature = c * sigma * (1 - sigma) * (2 * sigma - 1)
        u = u - residual / (slope - residual * curvature / (2 * slope))
    return jnp.where(mirrored, -u, u)


def _prox_probit(omega, c):
    """Solves u = omega + c r, r = phi(u) / Phi(u), by Newton steps from below."""

    def step(_, u):
        mills = jnp.exp(log_density(u) - log_cdf(u))
        return u - (u - omega - c * mills) / (1 + c * mills * (u + mills))

    omega, c = jnp.broadcast_arrays(jnp.asarray(omega, float), c)
    # r exceeds -u.
    return jax.lax.fori_loop(0, 25, step, jnp.maximum(omega, omega / (1 + c)))


_SQUARE = Loss("square", lambda u: (1 - u) ** 2 / 2, lambda om, c: (om + c) / (1 + c), -1.0)
_LINEAR = Loss("linear", lambda u: -u, lambda om, c: om + c, -1.0)
_LOGISTIC = Loss("logistic", lambda u: jax.nn.softplus(-u), _prox_logistic, -0.5)
_PROBIT = Loss("probit", lambda u: -log_cdf(u), _prox_probit, -float(np.sqrt(2 / np.pi)))
_HINGE = Loss(
    "hinge",
    lambda u: jnp.maximum(0.0, 1 - u),
    lambda om, c: jnp.where(om < 1 - c, om + c, jnp.maximum(om, 1.0)),
    -1.0,
    kinks=((1.0, -1.0, 0.0),),
    num_nodes=40,
)
