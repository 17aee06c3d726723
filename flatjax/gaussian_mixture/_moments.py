"""Gaussian averages of a proximal operator, and their exact derivatives."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flatjax.gaussian_mixture._quadrature import gaussian_grid, piecewise_grid
from flatjax.gaussian_mixture.losses import Loss


class Moments(NamedTuple):
    r"""Averages over :math:`\omega = \mu + s g`, g a standard normal number.

    With :math:`u = \operatorname{prox}_{c\,l}(\omega)` and the force
    :math:`f = (u - \omega) / c = -l'(u)`:

    Attributes:
      envelope: :math:`\mathbb{E}[c f^2 / 2 + l(u)]`, the mean of Moreau's envelope of l.
      force: :math:`\mathbb{E} f`.
      force_squared: :math:`\mathbb{E} f^2`.
      force_noise: :math:`\mathbb{E} f g = s\, \mathbb{E} f'`.
    """

    envelope: jax.Array
    force: jax.Array
    force_squared: jax.Array
    force_noise: jax.Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def prox_moments(loss: Loss, mean: jax.Array, scale: jax.Array, c: jax.Array) -> Moments:
    """Computes the moments of a loss at scalar mean mu, scale s and c; see `Moments`.

    Derivatives are integrated by parts, so that the force is never differentiated and losses may
    have kinks. Derivatives with respect to mu and s give factors of g. The derivative with respect
    to c follows from Burgers' equation, df/dc = f df/domega.
    """
    return _averages(loss, mean, scale, c)[0]


@prox_moments.defjvp
def _prox_moments_jvp(loss, primals, tangents):
    mean, scale, c = primals
    dmean, dscale, dc = tangents
    moments, average, f, g = _averages(loss, mean, scale, c)
    f2 = f**2
    first, second = f * g, f * (g**2 - 1)
    squared_first, squared_second = f2 * g, f2 * (g**2 - 1)
    derivative = Moments(
        envelope=-dmean * moments.force
        - dscale * moments.force_noise
        - dc * moments.force_squared / 2,
        force=(dmean * average(first) + dscale * average(second) + dc * average(squared_first) / 2)
        / scale,
        force_squared=(
            dmean * average(squared_first)
            + dscale * average(squared_second)
            + dc * average(f2 * first) * 2 / 3
        )
        / scale,
        force_noise=(
            dmean * average(second)
            + dscale * average(first * (g**2 - 2))
            + dc * average(squared_second) / 2
        )
        / scale,
    )
    return moments, derivative


def _averages(loss, mean, scale, c):
    if loss.kinks:
        g, weights = piecewise_grid((loss.breakpoints(c) - mean) / scale, loss.num_nodes)
    else:
        g, weights = gaussian_grid(loss.num_nodes)
    omega = mean + scale * g
    u = loss.prox(omega, c)
    f = (u - omega) / c
    average = lambda values: jnp.dot(values, weights)
    moments = Moments(
        envelope=average(c * f**2 / 2 + loss.value(u)),
        force=average(f),
        force_squared=average(f**2),
        force_noise=average(f * g),
    )
    return moments, average, f, g
