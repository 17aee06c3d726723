r"""The weight of a pattern at inverse temperature beta, for a noisy margin.

The margin is Gaussian, with mean x in units of its standard deviation. The average weight is

.. math::
  W(x) = \langle e^{-\beta \, [\text{error}]} \rangle = e^{-\beta} + (1 - e^{-\beta}) \, \Phi(x),
  \tag{1}

.. math:: (\log W)'(x) = \frac{(1 - e^{-\beta}) \, \varphi(x)}{W(x)}. \tag{2}
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr

from flatjax.gaussian_mixture._quadrature import log_density

BOUND = 7.0  # of Gaussian integrals


def log_weight(x: jax.Array, beta: jax.Array) -> jax.Array:
    """Computes log W, eq. (1)."""
    return jnp.logaddexp(-beta, jnp.log(-jnp.expm1(-beta)) + log_ndtr(x))


def log_weight_slope(x: jax.Array, beta: jax.Array) -> jax.Array:
    """Computes the derivative of log W, eq. (2).

    It is cheaper than by automatic differentiation, and precise for any x and beta.
    """
    t = jnp.abs(x)
    far = t > 35  # where erfc underflows
    safe = jnp.where(far, 1.0, t)
    near_tail = jnp.exp(safe**2 / 2) * jax.lax.erfc(safe * np.sqrt(0.5)) / 2
    safe = jnp.where(far, t, 1.0) ** 2
    far_tail = np.sqrt(0.5 / np.pi) / jnp.sqrt(safe) * (1 - (1 - (3 - 15 / safe) / safe) / safe)
    tail = jnp.where(far, far_tail, near_tail)  # Phi(-t) exp(t^2 / 2)
    floor, rise = jnp.exp(-beta), -jnp.expm1(-beta)
    gauss = jnp.exp(-(t**2) / 2)
    above = gauss / (floor + rise * (1 - tail * gauss))
    below = 1 / (jnp.exp(jnp.minimum(t**2 / 2 - beta, 600)) + rise * tail)
    return np.sqrt(0.5 / np.pi) * rise * jnp.where(x > 0, above, below)


def gaussian_nodes(
    center: jax.Array, width: jax.Array, beta: jax.Array, num: int
) -> tuple[jax.Array, jax.Array]:
    """Returns nodes z and weights of Gaussian averages over x = center + width z.

    They are for functions like `log_weight`, which may change sharply around x = 0 and where Phi(x)
    falls below e^-beta. The nodes are Gauss-Legendre rules on the pieces between these points.

    Args:
      center: shape (n, k).
      width: scalar.
      beta: inverse temperature.
      num: number of nodes of each of eight pieces.

    Returns:
      Nodes and weights, shape (8 num, n, k).
    """
    lowest = -jnp.sqrt(2 * beta)
    around = 4 / (1 - lowest)
    breaks = jnp.stack([lowest - around, lowest + around, jnp.maximum(-4, lowest / 2), 0.0, 4.0])
    inner = jnp.clip((breaks[:, None, None] - center) / width, -BOUND, BOUND)
    fixed = jnp.array([-BOUND, -1.5, 1.5, BOUND])[:, None, None] + jnp.zeros_like(center)
    edges = jnp.sort(jnp.concatenate([inner, fixed]), axis=0)
    # The averages do not depend on where the nodes are.
    edges = jax.lax.stop_gradient(edges)[:, None]
    legendre, weights = np.array(np.polynomial.legendre.leggauss(num))[..., None, None]
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    z = (middle + half * legendre).reshape(-1, *center.shape)
    return z, (half * weights).reshape(z.shape) * jnp.exp(log_density(z))
