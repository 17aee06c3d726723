"""The minimum of the empirical risk of a sample of the mixture."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flatjax import _checks
from flatjax._float64 import in_float64
from flatjax.gaussian_mixture._checks import check_mixture
from flatjax.gaussian_mixture._mixture import Sample
from flatjax.gaussian_mixture.losses import Loss

_CHECK_EVERY = 25  # steps between adaptations of the penalty; each costs a factorisation


class Minimum(NamedTuple):
    """The minimum of an empirical risk. Weights and bias are NaN if not converged.

    Attributes:
      weights: w, shape (N,).
      bias: b.
      residual: residual of the optimality conditions, relative to the size of the fields.
      converged: whether the residual is within the tolerance.
    """

    weights: jax.Array
    bias: jax.Array
    residual: jax.Array
    converged: jax.Array


def minimise(
    patterns: Sample,
    loss: Loss,
    *,
    lam: float,
    fit_bias: bool = False,
    tolerance: float = 1e-7,
    max_steps: int = 20_000,
) -> Minimum:
    r"""Minimises the empirical risk of a sample, for any convex loss.

    .. math:: \sum_\mu l\big(\sigma^\mu (w \cdot x^\mu / \sqrt{N} + b)\big)
        + \frac{\lambda}{2} \lVert w \rVert^2.

    It uses the alternating direction method of multipliers [Boyd et al., 2011]. This splits the
    problem into a ridge regression and the proximal operator of the loss, so that kinks do not
    matter.

    Args:
      patterns: the sample.
      loss: a loss of `flatjax.gaussian_mixture.losses`.
      lam: ridge.
      fit_bias: minimise over b too, or keep b = 0.
      tolerance: largest residual of a solution.
      max_steps: steps after which it stops without convergence.

    Returns:
      The minimum, in float64.

    Raises:
      ValueError: lam is not positive and finite.

    Examples:
      >>> from flatjax.gaussian_mixture import erm, losses, overlaps, sample
      >>> patterns = sample(jax.random.key(0), 200, alpha=2.0, delta=1.0)
      >>> found = minimise(patterns, losses.hinge(), lam=0.3)
      >>> m, q = overlaps(found.weights, patterns.signal)
      >>> bool(abs(q - erm(losses.hinge(), alpha=2.0, delta=1.0, lam=0.3).q) < 0.1)
      True

    See Also:
      `flatjax.gaussian_mixture.erm` (the theory), `train` (step by step).
    """
    check_mixture(lam=lam)
    _checks.check_count("max_steps", max_steps)
    solve = functools.partial(_minimise, loss=loss, fit_bias=fit_bias, max_steps=max_steps)
    return in_float64(solve)(patterns.x, patterns.label, lam, tolerance)


@functools.partial(jax.jit, static_argnames=("loss", "fit_bias", "max_steps"))
def _minimise(x, label, lam, tolerance, *, loss, fit_bias, max_steps):
    num_features = x.shape[1]
    design = label[:, None] * x / jnp.sqrt(num_features)
    if fit_bias:
        design = jnp.concatenate([design, label[:, None]], axis=1)
    ridge = lam * (jnp.arange(design.shape[1]) < num_features)
    gram = design.T @ design
    norm = jnp.linalg.norm

    def go_on(state):
        *_, residual, steps = state
        return (residual > tolerance) & (steps < max_steps)

    def advance(state):
        theta, margins, dual, penalty, _, steps = state
        factor = jax.scipy.linalg.cho_factor(jnp.diag(ridge) + penalty * gram)

        def step(_, carry):
            theta, margins, dual, _ = carry
            theta = jax.scipy.linalg.cho_solve(factor, penalty * design.T @ (margins - dual))
            # Over-relaxation saves a third of the steps.
            fields = 1.6 * design @ theta - 0.6 * margins
            new = loss.prox(fields + dual, 1 / penalty)
            return theta, new, dual + fields - new, new - margins

        carry = jax.lax.fori_loop(
            0, _CHECK_EVERY, step, (theta, margins, dual, jnp.zeros_like(margins))
        )
        theta, margins, dual, change = carry
        primal = norm(design @ theta - margins) / norm(margins)
        dual_residual = norm(design.T @ change) / norm(design.T @ dual)
        balance = jnp.clip(jnp.sqrt(primal / dual_residual), 0.2, 5)
        balance = jnp.where((balance > 0.5) & (balance < 2), 1, balance)
        residual = jnp.maximum(primal, dual_residual)
        return theta, margins, dual / balance, penalty * balance, residual, steps + _CHECK_EVERY

    start = (
        jnp.zeros(design.shape[1]),
        jnp.zeros(len(x)),
        jnp.zeros(len(x)),
        jnp.asarray(1.0),
        jnp.asarray(jnp.inf),
        jnp.asarray(0),
    )
    theta, *_, residual, _ = jax.lax.while_loop(go_on, advance, start)
    converged = residual <= tolerance
    theta = jnp.where(converged, theta, jnp.nan)
    bias = theta[num_features] if fit_bias else jnp.where(converged, 0.0, jnp.nan)
    return Minimum(theta[:num_features], bias, residual, converged)
