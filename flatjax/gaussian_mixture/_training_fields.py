r"""References: their order parameters, and the law of their training fields.

The fields of a reference :math:`\tilde w` on the training patterns are :math:`\tilde u = \sigma
\tilde w \cdot x / \sqrt{N} + \sigma b`. Let :math:`\omega = \tilde m + \sigma b + \sqrt{\Delta
\tilde q}\, z`, where z is standard normal and :math:`\tilde q` is the overlap of two samples of the
reference given the training set. With :math:`c = \Delta V` and the inverse temperature
:math:`\tilde\beta`,

.. math:: P(\tilde u | \omega) \propto
  \exp -\tilde\beta \big[ l(\tilde u) + (\tilde u - \omega)^2 / 2c \big]. \tag{1}

In a minimum this is :math:`\tilde u = \operatorname{prox}_{c\,l}(\omega)`. For a linear loss it is
Gaussian.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flatjax.gaussian_mixture._quadrature import gaussian_grid, log_density, piecewise_grid
from flatjax.gaussian_mixture.losses import Loss

# Nodes of the integral over omega for a loss without kinks. A temperature makes it smoother.
OMEGA_GRID = {"minimum": (121, 8.0), "gibbs": (81, 7.5)}
NODES_PER_PIECE = 12  # nodes of the integral over the field of a sample at finite temperature
BOUND = 7.0  # range of that integral, in widths of the broadest possible law

ARRAYS = ("alpha", "delta", "rho", "m", "q", "variance", "susceptibility", "bias")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[*ARRAYS, "test_error", "train_error", "converged"],
    meta_fields=["loss", "law", "has_bias"],
)
@dataclasses.dataclass(frozen=True)
class Reference:
    r"""Order parameters of a solution that determine its surroundings; a pytree.

    Make one with `erm_reference`, `hebb_reference`, `noisy_hebb_reference` or `gibbs_reference`.
    Its numbers are NaN if it has not converged.

    Attributes:
      alpha: patterns per feature of the training set.
      delta: variance of the noise.
      rho: probability of the class 1.
      m: overlap with the signal.
      q: squared norm, `|w|^2 / N`.
      variance: variance of the reference given the training set, `(|w|^2 - w . w') / N`; 0 for a
        minimum.
      susceptibility: V, variance times inverse temperature.
      bias: b.
      test_error: probability of an error on a fresh pattern.
      train_error: probability of an error on a training pattern.
      converged: whether the equations of the reference were solved.
      loss: loss of the reference (the linear one for the Hebb rule).
      law: law of the fields of training patterns: "minimum", "gibbs" or "gaussian".
      has_bias: whether the bias may differ from 0.
    """

    alpha: jax.Array
    delta: jax.Array
    rho: jax.Array
    m: jax.Array
    q: jax.Array
    variance: jax.Array
    susceptibility: jax.Array
    bias: jax.Array
    test_error: jax.Array
    train_error: jax.Array
    converged: jax.Array
    loss: Loss
    law: str
    has_bias: bool


class TrainingFields(NamedTuple):
    """Nodes of the integral over the fields of a reference, for n values of omega.

    Attributes:
      side: sigma, or 0 without a bias, shape (n,).
      z: omega = mean + scale z, shape (n,).
      weight: weight of each omega, shape (n,); the weights sum to 1.
      reaction: u - omega, shape (n, k).
      probability: probability of each field given omega, shape (n, k).
    """

    side: jax.Array
    z: jax.Array
    weight: jax.Array
    reaction: jax.Array
    probability: jax.Array

    def of_omega(self, values: jax.Array) -> jax.Array:
        """Averages over the field, given omega, shape (n,)."""
        return jnp.sum(self.probability * values, axis=-1)

    def average(self, values: jax.Array) -> jax.Array:
        """Averages values of shape (n,) over everything."""
        return jnp.sum(self.weight * values)


def training_fields(
    reference: Reference, *, error_width: jax.Array | float | None = None
) -> TrainingFields:
    """Computes the law of the fields of a reference with scalar parameters, eq. (1).

    Args:
      reference: a reference of scalars. For a Gaussian law there is a single node without noise,
        because the field only enters by its mean.
      error_width: width of the change of the averaged functions where the field changes sign, in
        standard deviations of omega; 0 for a step.

    Returns:
      The nodes.
    """
    loss, law = reference.loss, reference.law
    c = reference.delta * reference.susceptibility
    scale = jnp.sqrt(reference.delta * (reference.q - reference.variance))
    is_step = isinstance(error_width, float) and error_width == 0
    threshold = c * loss.slope_at_zero  # the omega where the prox is 0
    breaks = jnp.append(loss.breakpoints(c), threshold)
    kinks = jnp.array([u for u, *_ in loss.kinks] + [0.0] * is_step)

    def of_side(side):
        mean = reference.m + side * reference.bias
        if law == "gaussian":
            z, weight = jnp.zeros(1), jnp.ones(1)
        elif is_step or loss.kinks:
            z, weight = piecewise_grid((breaks - mean) / scale)
        elif error_width is None:
            z, weight = gaussian_grid(*OMEGA_GRID[law])
        else:
            z, weight = _dense_grid((threshold - mean) / scale, error_width, *OMEGA_GRID[law])
        omega = mean + scale * z
        if law == "gibbs":
            beta = reference.susceptibility / reference.variance
            nodes = functools.partial(_gibbs_nodes, loss, c=c, beta=beta, breaks=kinks)
            reaction, probability = jax.vmap(nodes)(omega)
        else:
            reaction = (_prox(loss, omega, c) - omega)[:, None]
            probability = jnp.ones_like(reaction)
        weight *= (1 + side * (2 * reference.rho - 1)) / (2 if side else 1)  # times that of side
        return TrainingFields(jnp.full_like(omega, side), z, weight, reaction, probability)

    sides = [of_side(side) for side in ((1, -1) if reference.has_bias else (0,))]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *sides)


def _dense_grid(point, width, num, bound):
    """Makes a trapezoid rule for functions that change fast around a point.

    It is for Gaussian averages. The nodes are uniform in v = z + arcsinh((z - point) / width) / 2.
    """
    point, width = jax.lax.stop_gradient((jnp.clip(point, -bound, bound), width))
    warp = lambda z: z + jnp.arcsinh((z - point) / width) / 2
    v = jnp.linspace(warp(-bound), warp(bound), num)

    def bisect(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        below = warp(middle) < v
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    ends = jnp.full(num, -bound), jnp.full(num, bound)
    z = sum(jax.lax.fori_loop(0, 50, bisect, ends)) / 2
    weight = jnp.exp(log_density(z)) / (1 + 0.5 / jnp.hypot(z - point, width))
    return z, weight * (v[1] - v[0])


def _prox(loss, omega, c):
    """Computes the proximal operator, with derivatives of their own.

    They do not depend on how the operator is computed.
    """
    u = jax.lax.stop_gradient(loss.prox(omega, c))
    slope, curvature = _derivatives(loss, u)
    newton = u - (u - omega + c * slope) / (1 + c * curvature)  # u, differentiable
    edges = loss.breakpoints(c)
    lower, upper = edges[::2], edges[1::2]
    stays = jnp.any((omega[..., None] > lower) & (omega[..., None] < upper), axis=-1)
    return jnp.where(stays, u, newton)


def _derivatives(loss, u):
    slope = jax.grad(loss.value)
    return jnp.vectorize(slope)(u), jnp.vectorize(jax.grad(slope))(u)


def _gibbs_nodes(loss, omega, c, beta, breaks):
    """Returns nodes u - omega and probabilities of u for a scalar omega, eq. (1).

    The law is log-concave, and narrower than a Gaussian of variance c / beta. Around its mode it
    may be much narrower. With u = mode + width sinh(v), a few nodes in v suffice in all cases.
    """
    broad = jnp.sqrt(c / beta)
    mode = loss.prox(omega, c)
    steepness = 1 + c * _derivatives(loss, mode)[1]
    for kink, *slopes in loss.kinks:
        pull = (kink - omega + c * jnp.array(slopes)) / broad  # on the two sides of the kink
        steepness += jnp.where(pull[0] * pull[1] < 0, jnp.max(pull**2), 0)
    width = broad / jnp.sqrt(steepness)
    bound = jnp.arcsinh(BOUND * broad / width)
    inner = jnp.clip(jnp.arcsinh((breaks - mode) / width), -bound, bound)
    edges = jnp.sort(jnp.concatenate([inner, jnp.array([-bound, 0, bound])]))
    # The integrals do not depend on where the nodes are.
    edges, width, mode = jax.lax.stop_gradient((edges, width, mode))
    legendre, weights = np.polynomial.legendre.leggauss(NODES_PER_PIECE)
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    v = (middle[:, None] + half[:, None] * legendre).ravel()
    measure = (half[:, None] * weights).ravel() * jnp.cosh(v)
    u = mode + width * jnp.sinh(v)
    energy = loss.value(u) + (u - omega) ** 2 / (2 * c)
    weight = measure * jnp.exp(-beta * (energy - jax.lax.stop_gradient(jnp.min(energy))))
    return u - omega, weight / jnp.sum(weight)
