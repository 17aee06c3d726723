"""References: minima, the Hebb rule, and samples of a Gibbs measure."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from flatjax._float64 import in_float64, is_traced, vectorized
from flatjax.gaussian_mixture import losses
from flatjax.gaussian_mixture._bayes import hebb
from flatjax.gaussian_mixture._checks import check_mixture
from flatjax.gaussian_mixture._erm import erm
from flatjax.gaussian_mixture._fixed_point import fixed_point
from flatjax.gaussian_mixture._mixture import classifier_error
from flatjax.gaussian_mixture._training_fields import Reference, training_fields
from flatjax.gaussian_mixture.losses import Loss


def erm_reference(
    loss: Loss,
    *,
    alpha: ArrayLike,
    delta: ArrayLike,
    lam: ArrayLike | None = None,
    norm: ArrayLike | None = None,
    rho: ArrayLike = 0.5,
    fit_bias: bool | None = None,
) -> Reference:
    """Makes a reference of the minimum of the empirical risk.

    `erm` documents the arguments.

    Returns:
      The reference. Arrays among the arguments give a batch of references.

    Raises:
      ValueError: as `erm`.

    Examples:
      >>> reference = erm_reference(losses.logistic(), alpha=1.0, delta=1.0, lam=[1.0, 0.1])
      >>> reference.test_error.round(4)
      array([0.2425, 0.2594])

    See Also:
      `local_entropy` (around this reference), `gibbs_reference` (another reference), `erm` (its
      error).
    """
    has_bias = _may_have_bias(rho) if fit_bias is None else fit_bias
    found = erm(loss, alpha=alpha, delta=delta, lam=lam, norm=norm, rho=rho, fit_bias=has_bias)
    return Reference(
        **check_mixture(alpha=alpha, delta=delta, rho=rho),
        m=found.m,
        q=found.q,
        variance=0.0,  # type: ignore[arg-type]  # becomes an array with the others
        susceptibility=found.susceptibility,
        bias=found.bias,
        test_error=found.test_error,
        train_error=found.train_error,
        converged=found.converged,
        loss=loss,
        law="gaussian" if loss == losses.linear() else "minimum",
        has_bias=has_bias,
    )


def hebb_reference(
    *, alpha: ArrayLike, delta: ArrayLike, rho: ArrayLike = 0.5, fit_bias: bool = False
) -> Reference:
    """Makes a reference of the Hebb rule.

    It is the minimum of the linear loss with any ridge. It is Bayes-optimal if classes are
    balanced, or with the fitted bias.

    Args:
      alpha: patterns per feature.
      delta: variance of the noise.
      rho: probability of the class 1. Arrays of all three are broadcast.
      fit_bias: use the bias of the log-odds instead of none, see `hebb`.

    Returns:
      The reference.

    Raises:
      ValueError: a parameter is out of its range.

    Examples:
      >>> reference = hebb_reference(alpha=1.0, delta=1.0)
      >>> round(float(reference.train_error), 4), round(float(reference.test_error), 4)
      (0.0786, 0.2398)

    See Also:
      `noisy_hebb_reference` (with noise), `local_entropy` (around this reference), `hebb` (its
      error).
    """
    return noisy_hebb_reference(overlap=1.0, alpha=alpha, delta=delta, rho=rho, fit_bias=fit_bias)


def noisy_hebb_reference(
    *,
    overlap: ArrayLike,
    alpha: ArrayLike,
    delta: ArrayLike,
    rho: ArrayLike = 0.5,
    fit_bias: bool = False,
) -> Reference:
    r"""Makes a reference at a given overlap with the Hebb rule, in a random direction.

    It is :math:`\tilde w = c\, \hat w_{Hebb} + \sqrt{1 - c^2}\, \xi`, of norm 1. It is also a
    sample of the Gibbs measure of the linear loss.

    Args:
      overlap: c, the cosine of the angle with the Hebb rule, in (0, 1].
      alpha: patterns per feature.
      delta: variance of the noise.
      rho: probability of the class 1. Arrays of all four are broadcast.
      fit_bias: use the best bias of these weights instead of none,
        :math:`b = \frac{\Delta q}{2 m} \log \frac{\rho}{1 - \rho}`.

    Returns:
      The reference.

    Raises:
      ValueError: a parameter is out of its range.

    Examples:
      >>> reference = noisy_hebb_reference(overlap=[1.0, 0.7, 0.5], alpha=1.0, delta=1.0)
      >>> reference.test_error.round(4)
      array([0.2398, 0.3103, 0.3618])

    See Also:
      `hebb_reference` (without noise), `local_entropy` (around this reference).
    """
    params = check_mixture(overlap=overlap, alpha=alpha, delta=delta, rho=rho)
    if not is_traced(overlap) and np.any(params["overlap"] > 1):
        raise ValueError(f"overlap must be in (0, 1], got {params['overlap'].max()}.")
    return in_float64(functools.partial(_noisy_hebb, has_bias=fit_bias))(**params)


def _noisy_hebb(overlap, alpha, delta, rho, has_bias) -> Reference:
    rule = hebb(alpha=alpha, delta=delta, rho=rho, fit_bias=has_bias)
    m = overlap / jnp.sqrt(rule.q)
    susceptibility = m / alpha
    # The best bias is proportional to q / m.
    bias = rule.bias / (rule.q * m)
    shift = m + delta * susceptibility  # mean of the fields of training patterns
    return Reference(
        alpha=alpha,
        delta=delta,
        rho=rho,
        m=m,
        q=jnp.ones_like(m),
        variance=1 - overlap**2,
        susceptibility=susceptibility,
        bias=bias,
        test_error=classifier_error(m, 1.0, bias, delta, rho),
        train_error=classifier_error(shift, 1.0, bias, delta, rho),
        converged=jnp.isfinite(m),
        loss=losses.linear(),
        law="gaussian",
        has_bias=has_bias,
    )


def gibbs_reference(
    loss: Loss,
    *,
    alpha: ArrayLike,
    delta: ArrayLike,
    lam: ArrayLike,
    beta: ArrayLike,
    rho: ArrayLike = 0.5,
    fit_bias: bool | None = None,
    tolerance: float = 1e-9,
) -> Reference:
    r"""Makes a reference of a sample of a Gibbs measure, as by Langevin dynamics.

    Its density is proportional to :math:`\exp -\tilde\beta [\sum_\mu l(\sigma^\mu h^\mu) +
    \frac{\lambda}{2} \lVert w \rVert^2]`. It satisfies the equations of `erm`, with the force
    averaged over the law of the field, :math:`f = \langle \tilde u - \omega \rangle / \Delta V`.
    They give m, the overlap :math:`\tilde q` of two samples, and V. The variance is :math:`V /
    \tilde\beta`. The bias maximises the likelihood, :math:`0 = \mathbb{E}\, \sigma f`.

    Args:
      loss: a loss of `flatjax.gaussian_mixture.losses`.
      alpha: patterns per feature.
      delta: variance of the noise.
      lam: ridge.
      beta: inverse temperature of the sum over patterns.
      rho: probability of the class 1. Arrays of all parameters are broadcast.
      fit_bias: see `erm`.
      tolerance: largest residual of a solution.

    Returns:
      The reference.

    Raises:
      ValueError: a parameter is out of its range.

    Examples:
      The hotter, the worse:

      >>> reference = gibbs_reference(
      ...     losses.logistic(), alpha=1.0, delta=1.0, lam=0.1, beta=np.array([1e4, 1.0])
      ... )
      >>> reference.test_error.round(4)
      array([0.2594, 0.3456])

    See Also:
      `local_entropy` (around this reference), `sampling.sample_errors` (draws it).
    """
    params = check_mixture(alpha=alpha, delta=delta, lam=lam, beta=beta, rho=rho)
    has_bias = _may_have_bias(rho) if fit_bias is None else fit_bias
    solve = functools.partial(_solve, loss=loss, has_bias=has_bias, tolerance=tolerance)
    return in_float64(solve)(params)


def _may_have_bias(rho):
    return is_traced(rho) or bool(np.any(np.asarray(rho) != 0.5))


@functools.partial(jax.jit, static_argnames=("loss", "has_bias", "tolerance"))
def _solve(params, loss, has_bias, tolerance):
    solver = functools.partial(_solve_point, loss=loss, has_bias=has_bias, tolerance=tolerance)
    return vectorized(solver, chunk=8)(**params)


def _solve_point(*, alpha, delta, lam, beta, rho, loss, has_bias, tolerance) -> Reference:
    def unpack(x):
        """Returns order parameters.

        The unknowns x are m / sqrt(overlap), log V, log(overlap), and b if there is a bias.
        """
        overlap, susceptibility = jnp.exp(x[2]), jnp.exp(x[1])
        variance = susceptibility / beta
        return Reference(
            alpha=alpha,
            delta=delta,
            rho=rho,
            m=x[0] * jnp.sqrt(overlap),
            q=overlap + variance,
            variance=variance,
            susceptibility=susceptibility,
            bias=x[3] if has_bias else jnp.zeros(()),
            test_error=jnp.nan,
            train_error=jnp.nan,
            converged=False,
            loss=loss,
            law="gaussian" if loss == losses.linear() else "gibbs",
            has_bias=has_bias,
        )

    def update(x):
        reference = unpack(x)
        fields = training_fields(reference)
        force = fields.of_omega(fields.reaction) / (delta * reference.susceptibility)
        scale = jnp.sqrt(delta * jnp.exp(x[2]))
        m_hat = alpha * fields.average(force)
        q_hat = alpha * delta * fields.average(force**2)
        v_hat = -alpha * delta * fields.average(force * fields.z) / scale
        length, susceptibility = jnp.sqrt(m_hat**2 + q_hat), 1 / (lam + v_hat)
        new = [m_hat / length, jnp.log(susceptibility), 2 * jnp.log(susceptibility * length)]
        if has_bias:
            step = fields.average(fields.side * force) * alpha * delta / v_hat
            new.append(reference.bias + jnp.clip(step, -1, 1))
        return jnp.stack(new)

    start = jnp.stack([0.42, -jnp.log(lam + 0.1 * alpha * delta), jnp.log(0.5)])
    if has_bias:
        start = jnp.append(start, 0.0)
    found = fixed_point(update, start, tolerance=tolerance)

    reference = unpack(found.x)
    if reference.law == "gaussian":
        mean, variance = delta * reference.susceptibility + reference.m, reference.q
        train_error = classifier_error(mean, variance, reference.bias, delta, rho)
    else:
        fields = training_fields(reference, error_width=0.0)
        omega_z = reference.m + fields.side * reference.bias
        omega_z += jnp.sqrt(delta * (reference.q - reference.variance)) * fields.z
        is_error = fields.reaction + omega_z[:, None] < 0
        train_error = fields.average(fields.of_omega(is_error))
    test_error = classifier_error(reference.m, reference.q, reference.bias, delta, rho)
    reference = dataclasses.replace(reference, test_error=test_error, train_error=train_error)
    shown = jax.tree.map(lambda value: jnp.where(found.converged, value, jnp.nan), reference)
    given = {"alpha": alpha, "delta": delta, "rho": rho, "converged": found.converged}
    return dataclasses.replace(shown, **given)
