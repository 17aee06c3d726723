r"""Empirical risk minimisation on the mixture, in the limit of many dimensions.

The risk :math:`\sum_\mu l(\sigma^\mu h^\mu) + \frac{\lambda}{2} \lVert w \rVert^2` is minimised
over w and the bias b. Note that the loss is the *sum* over patterns. A few order parameters
describe the minimum. They satisfy the replica-symmetric equations [Mignacco et al., 2020; Pittorino
et al., 2021].
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from flatjax._float64 import in_float64, is_traced, vectorized
from flatjax.gaussian_mixture._checks import check_mixture
from flatjax.gaussian_mixture._fixed_point import fixed_point
from flatjax.gaussian_mixture._mixture import classifier_error
from flatjax.gaussian_mixture._moments import prox_moments
from flatjax.gaussian_mixture._quadrature import upper_tail
from flatjax.gaussian_mixture.losses import Loss


class ERM(NamedTuple):
    r"""The minimum of the empirical risk.

    If not converged, all fields except the last two are NaN.

    Attributes:
      m: overlap with the signal, w . v / N.
      q: squared norm, `|w|^2 / N`.
      bias: b.
      susceptibility: V, the limit of `beta (|w|^2 - w . w') / N` over a Gibbs measure.
      lam: ridge; a result if the norm is given.
      test_error: probability of an error on a fresh pattern.
      train_error: fraction of the training patterns that are errors.
      train_loss: mean loss of the training patterns.
      residual: residual of the equations, in units of order one.
      converged: whether the residual is within the tolerance.
    """

    m: jax.Array
    q: jax.Array
    bias: jax.Array
    susceptibility: jax.Array
    lam: jax.Array
    test_error: jax.Array
    train_error: jax.Array
    train_loss: jax.Array
    residual: jax.Array
    converged: jax.Array


def erm(
    loss: Loss,
    *,
    alpha: ArrayLike,
    delta: ArrayLike,
    lam: ArrayLike | None = None,
    norm: ArrayLike | None = None,
    rho: ArrayLike = 0.5,
    fit_bias: bool | None = None,
    tolerance: float = 1e-9,
) -> ERM:
    r"""Solves the replica-symmetric equations of the minimum of the empirical risk.

    With :math:`\omega_\sigma = m + \sigma b + \sqrt{\Delta q}\, g`,
    :math:`f = (\operatorname{prox}_{\Delta V l}(\omega) - \omega) / \Delta V`, expectations over g
    and the class :math:`\sigma`,

    .. math::
      :nowrap:

      \begin{gather*}
      \hat m = \alpha \mathbb{E} f, \quad \hat q = \alpha \Delta \mathbb{E} f^2, \quad
      \hat V = -\alpha \Delta \mathbb{E} \tfrac{\partial f}{\partial \omega}, \\
      V = \frac{1}{\lambda + \hat V}, \quad m = V \hat m, \quad q = V^2 (\hat m^2 + \hat q), \quad
      0 = \mathbb{E}\, \sigma f. \tag{1}
      \end{gather*}

    With a given norm q, :math:`V = \sqrt{q / (\hat m^2 + \hat q)}` and
    :math:`\lambda = 1 / V - \hat V` follows. The function may be jitted, vmapped and differentiated
    with respect to all parameters. Derivatives are implicit, and are right for losses with kinks.

    Args:
      loss: a loss of `flatjax.gaussian_mixture.losses`.
      alpha: patterns per feature.
      delta: variance of the noise.
      lam: ridge. Give either `lam` or `norm`.
      norm: q, the squared norm `|w|^2 / N`. For separable data its limit is `max_margin`.
      rho: probability of the class 1. Arrays of all parameters are broadcast.
      fit_bias: minimise over b too, or keep b = 0. By default b is fitted if rho is not 1/2; at
        rho = 1/2 the best bias is 0.
      tolerance: largest residual of a solution.

    Returns:
      The minimum.

    Raises:
      ValueError: a parameter is out of its range, or not exactly one of `lam` and `norm` is given.

    Examples:
      The optimal ridge, by its gradient; in the balanced case the more, the better:

      >>> from flatjax.gaussian_mixture import losses
      >>> error = lambda lam: erm(losses.square(), alpha=1.0, delta=1.0, lam=lam).test_error
      >>> round(float(error(1.0)), 4), bool(jax.grad(error)(1.0) < 0)
      (0.2567, True)

    See Also:
      `local_entropy` (the flatness of its minimum), `simulate.minimise` (a sample of the same),
      `max_margin` (its limit for a weak ridge).
    """
    if (lam is None) == (norm is None):
        raise ValueError(f"exactly one of lam and norm must be given, got lam={lam}, norm={norm}.")
    given = {"norm": norm} if lam is None else {"lam": lam}
    params = check_mixture(alpha=alpha, delta=delta, rho=rho, **given)
    if fit_bias is None:
        fit_bias = is_traced(rho) or bool(np.any(params["rho"] != 0.5))
    solve = functools.partial(_solve, loss=loss, fit_bias=fit_bias, tolerance=tolerance)
    return in_float64(solve)(params)


@functools.partial(jax.jit, static_argnames=("loss", "fit_bias", "tolerance"))
def _solve(params, loss, fit_bias, tolerance):
    solver = functools.partial(_solve_point, loss=loss, fit_bias=fit_bias, tolerance=tolerance)
    return vectorized(solver)(**params)


class _Forces(NamedTuple):
    """Averages on the right-hand sides of eq. (1)."""

    m_hat: jax.Array
    q_hat: jax.Array
    v_hat: jax.Array
    bias_force: jax.Array  # E sigma f
    train_loss: jax.Array


def _forces(loss, m, q, v, bias, alpha, delta, rho, fit_bias) -> _Forces:
    scale, c = jnp.sqrt(delta * q), delta * v
    of_class = lambda sigma: prox_moments(loss, m + sigma * bias, scale, c)
    if fit_bias:
        positive, negative = of_class(1.0), of_class(-1.0)
        both = jax.tree.map(lambda p, n: rho * p + (1 - rho) * n, positive, negative)
        bias_force = rho * positive.force - (1 - rho) * negative.force
    else:
        both = of_class(0.0)
        bias_force = jnp.zeros_like(m)
    return _Forces(
        m_hat=alpha * both.force,
        q_hat=alpha * delta * both.force_squared,
        v_hat=-alpha * delta * both.force_noise / scale,
        bias_force=bias_force,
        train_loss=both.envelope - c * both.force_squared / 2,
    )


def _solve_point(*, alpha, delta, rho, loss, fit_bias, tolerance, lam=None, norm=None) -> ERM:
    fixed_norm = norm is not None

    def unpack(x):
        """Returns order parameters.

        The unknowns x are m / sqrt(q), log V, then log q and b if they are free.
        """
        q = norm if fixed_norm else jnp.exp(x[2])
        return x[0] * jnp.sqrt(q), q, jnp.exp(x[1]), x[-1] if fit_bias else jnp.zeros_like(q)

    def update(x):
        m, q, v, bias = unpack(x)  # eq. (1) of `erm`, in terms of the unknowns
        forces = _forces(loss, m, q, v, bias, alpha, delta, rho, fit_bias)
        length = jnp.sqrt(forces.m_hat**2 + forces.q_hat)
        new_v = jnp.sqrt(q) / length if fixed_norm else 1 / (lam + forces.v_hat)
        new = [forces.m_hat / length, jnp.log(new_v)]
        if not fixed_norm:
            new.append(2 * jnp.log(new_v * length))
        if fit_bias:
            # A Newton step for the bias, bounded: it is too long if the force hardly depends on it.
            new.append(bias + jnp.clip(forces.bias_force * alpha * delta / forces.v_hat, -1, 1))
        return jnp.stack(new)

    start = [jnp.asarray(0.42), -jnp.log(lam + 0.1 * alpha * delta) if lam is not None else 0.0]
    start += [jnp.log(0.5)] if not fixed_norm else []
    start += [jnp.asarray(0.0)] if fit_bias else []
    found = fixed_point(
        update, jnp.stack([jnp.asarray(s, float) for s in start]), tolerance=tolerance
    )

    m, q, v, bias = unpack(found.x)
    forces = _forces(loss, m, q, v, bias, alpha, delta, rho, fit_bias)
    scale = jnp.sqrt(delta * q)
    threshold = delta * v * loss.slope_at_zero  # omega below which the margin is negative
    train_error = rho * upper_tail((m + bias - threshold) / scale)
    train_error += (1 - rho) * upper_tail((m - bias - threshold) / scale)
    values = (
        m,
        q,
        bias,
        v,
        1 / v - forces.v_hat if fixed_norm else lam,
        classifier_error(m, q, bias, delta, rho),
        train_error,
        forces.train_loss,
    )
    shown = [jnp.where(found.converged, value, jnp.nan) for value in values]
    return ERM._make([*shown, found.residual, found.converged])
