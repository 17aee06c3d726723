r"""Real replicas: y coupled weight vectors that learn the same patterns.

The y replicas of a copy have the Gibbs measure
:math:`e^{-\beta \sum_{a, \mu} l(\sigma^\mu h_a^\mu)}`, with fields :math:`h_a = w_a \cdot x /
\sqrt{N} + b`. Note that the loss is the *sum* over patterns. A replica has four overlaps: m with
the signal, q with itself, q1 with another replica, and q0 with a replica of another copy. In the
replica-symmetric ansatz [Pittorino et al., 2021], the free entropy of a copy is the extremum of
:math:`G_S + \alpha G_E` and a term of the constraint or the coupling, with

.. math::
  :nowrap:

  \begin{align*}
  G_S &= \frac12 \Big[(y - 1) \log e + \log D + \frac{y (q_0 - m^2)}{D}\Big], \qquad
  e = q - q_1, \quad D = e + y (q_1 - q_0), \\
  G_E &= \mathbb{E}_{\sigma, h_0} \log \mathbb{E}_h\, e^{y\, g(h)}, \qquad
  g(h) = \log \mathbb{E}_\eta\, e^{-\beta\, l(h + \sqrt{\Delta e}\, \eta)}. \tag{1}
  \end{align*}

Here :math:`h_0 \sim \mathcal{N}(m + \sigma b, \Delta q_0)` and :math:`h \sim \mathcal{N}(h_0,
\Delta (q_1 - q_0))`. The force of a pattern is :math:`f(h_0) = \langle g' \rangle`, averaged over h
with the weight :math:`e^{y g(h)}`. The derivatives with respect to m, q0 and b vanish if

.. math::
  m = D \alpha\, \mathbb{E} f, \qquad q_0 = m^2 + D^2 \alpha \Delta\, \mathbb{E} f^2, \qquad
  0 = \mathbb{E}\, \sigma f. \tag{2}

As y goes to infinity, y (q1 - q0) has a limit, and h has the value of largest weight.
"""

import functools

import numpy as np
from jax.typing import ArrayLike

from flatjax._float64 import in_float64, is_traced
from flatjax.gaussian_mixture._checks import check_mixture, check_numbers
from flatjax.gaussian_mixture._potential import error_potential, loss_potential
from flatjax.gaussian_mixture._replica_equations import Replicated, solve
from flatjax.gaussian_mixture.losses import Loss

__all__ = ["Replicated", "replicated", "replicated_sphere"]


def replicated_sphere(
    *,
    y: ArrayLike,
    alpha: ArrayLike,
    delta: ArrayLike,
    q1: ArrayLike | None = None,
    beta: ArrayLike = np.inf,
    norm: ArrayLike = 1.0,
    rho: ArrayLike = 0.5,
    fit_bias: bool | None = None,
    loss: Loss | None = None,
    tolerance: float = 1e-9,
) -> Replicated:
    r"""Solves for replicas on a sphere at a given overlap q1.

    The weights have the norm :math:`\lVert w_a \rVert^2 = N q`.

    By default they count errors: l = 1 for a pattern that is misclassified, else 0. At infinite
    beta they are typical weights without errors at that distance from each other. The last unknown
    follows from

    .. math::
      D + y q_0 = q + (y - 1)\, q_1. \tag{3}

    A solution has :math:`q_1 \ge q_0`: replicas attract each other, and q1 = q0 without coupling,
    for every y. Replicas that are further apart are not described. At y = 1 results do not depend
    on q1. The function may be jitted, vmapped and differentiated with respect to all parameters.

    Args:
      y: number of replicas; any real number, or inf (not in an array with others, nor traced).
      alpha: patterns per feature.
      delta: variance of the noise.
      q1: overlap of two replicas, between 0 and `norm`. The default is q0, for replicas that are
        not coupled.
      beta: inverse temperature; may be inf if errors are counted.
      norm: q, the squared norm `|w|^2 / N`.
      rho: probability of the class 1. Arrays of all parameters are broadcast.
      fit_bias: choose b, or keep b = 0. By default b is fitted if rho is not 1/2; at rho = 1/2 the
        best bias is 0.
      loss: a convex loss instead of the number of errors.
      tolerance: largest residual of a solution.

    Returns:
      The replicas. If errors are counted at a finite beta, each pattern is either wrong or right,
      and jumps between the two as y grows. Results are accurate to 1e-6 up to y = 20 and to 1e-4 at
      y = 100. If a pattern jumps at infinite y, converged is False. Near such points replica
      symmetry cannot be trusted.

    Raises:
      ValueError: a parameter is out of its range.
      TypeError: a parameter is not a number.

    Examples:
      The mean of all w without errors, to which infinitely many replicas are next when they are
      far apart, is better than a typical one of them:

      >>> alone = replicated_sphere(y=1, alpha=1.0, delta=1.0)
      >>> many = replicated_sphere(y=np.inf, q1=[0.5, 0.7, 0.9], alpha=1.0, delta=1.0)
      >>> many.center_test_error.round(4)
      array([0.2705, 0.2775, 0.2887])
      >>> float(alone.thermal_mean_test_error.round(4)), float(alone.test_error.round(4))
      (0.2697, 0.3366)

    See Also:
      `replicated` (with a weight decay), `local_entropy` (around a reference).
    """
    q1_given = {} if q1 is None else {"q1": q1}
    params = check_mixture(alpha=alpha, delta=delta, rho=rho, norm=norm, **q1_given)
    if q1_given and not is_traced(q1, norm) and np.any(params["q1"] >= params["norm"]):
        raise ValueError(f"q1 must be below norm, got q1={q1}, norm={norm}.")
    params["y"], is_limit = _check_y(y)
    params["beta"] = check_numbers(
        "beta", beta, lambda v: (v > 0) & (np.isfinite(v) | (loss is None)), "positive"
    )
    if loss is None:
        always_infinite = not is_traced(beta) and bool(np.all(np.isinf(params["beta"])))
        potential = error_potential(concave=always_infinite)
    else:
        potential = loss_potential(loss)
    return _call(params, potential, is_limit, fit_bias, tolerance)


def replicated(
    loss: Loss,
    *,
    y: ArrayLike,
    beta: ArrayLike,
    lam: ArrayLike,
    alpha: ArrayLike,
    delta: ArrayLike,
    gamma: ArrayLike = 0.0,
    rho: ArrayLike = 0.5,
    fit_bias: bool | None = None,
    tolerance: float = 1e-9,
) -> Replicated:
    r"""Solves for replicas with a convex loss, a ridge and a coupling to their center.

    The Gibbs measure has the further factor :math:`e^{-\beta E}`,
    :math:`E = \sum_a \frac{\lambda}{2} \lVert w_a \rVert^2
    + \frac{\gamma}{2} \lVert w_a - \bar w \rVert^2`. It lowers the free entropy by
    :math:`\frac{\beta}{2} [y \lambda q + (y - 1)\, \gamma\, e]`, and

    .. math::
      \frac1D = \beta \lambda - \alpha \Delta\, \mathbb{E} f', \qquad
      \frac1e = \beta (\lambda + \gamma) - \alpha \Delta\, \mathbb{E} \langle g'' \rangle \tag{4}

    give the last unknowns. Without coupling, y does not matter. At low temperature replicas
    coincide: the limit of infinite beta is the minimum of `erm` for every y and gamma. The function
    may be jitted, vmapped and differentiated with respect to all parameters.

    Args:
      loss: a loss of `flatjax.gaussian_mixture.losses`.
      y: number of replicas; any real number, or inf (not in an array with others, nor traced). At
        y = 1, q1 is the overlap with a replica that follows this one and does not pull it.
      beta: inverse temperature.
      lam: ridge of each replica.
      alpha: patterns per feature.
      delta: variance of the noise.
      gamma: coupling of a replica to the center.
      rho: probability of the class 1. Arrays of all parameters are broadcast.
      fit_bias: choose b, common to all replicas, or keep b = 0. By default b is fitted if rho is
        not 1/2; at rho = 1/2 the best bias is 0.
      tolerance: largest residual of a solution.

    Returns:
      The replicas.

    Raises:
      ValueError: a parameter is out of its range.
      TypeError: a parameter is not a number.

    Examples:
      >>> from flatjax.gaussian_mixture import losses
      >>> params = {"beta": 1.0, "lam": 0.1, "gamma": 1.0, "alpha": 1.0, "delta": 1.0}
      >>> found = replicated(losses.logistic(), y=[1, 3, 10], **params)
      >>> found.test_error.round(4), found.center_test_error.round(4)
      (array([0.3456, 0.3179, 0.2988]), array([0.3456, 0.3088, 0.2792]))

    See Also:
      `replicated_sphere` (on a sphere), `erm` (one replica), `sampling.sample_loss` (the same by
      sampling).
    """
    params = check_mixture(alpha=alpha, delta=delta, rho=rho, beta=beta, lam=lam)
    params["y"], is_limit = _check_y(y)
    params["gamma"] = check_numbers(
        "gamma", gamma, lambda v: np.isfinite(v) & (v >= 0), "finite and not negative"
    )
    return _call(params, loss_potential(loss), is_limit, fit_bias, tolerance)


def _check_y(y):
    values = check_numbers("y", y, lambda v: v >= 1, "at least 1")
    if is_traced(y) or not np.isinf(values).any():
        return values, False
    if not np.isinf(values).all():
        raise ValueError(f"y must be finite everywhere or infinite everywhere, got {y}.")
    return values, True


def _call(params, potential, is_limit, fit_bias, tolerance) -> Replicated:
    if fit_bias is None:
        fit_bias = is_traced(params["rho"]) or bool(np.any(params["rho"] != 0.5))
    # `_replica_equations` solves eqs. (1) and (2), with (3) or (4).
    static = {"potential": potential, "is_limit": is_limit, "fit_bias": fit_bias}
    return in_float64(functools.partial(solve, **static, tolerance=tolerance))(params)
