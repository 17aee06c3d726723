r"""Free energies from samples at a ladder of inverse temperatures.

Samples at rung k are distributed as the prior times :math:`e^{-\beta_k E}`, with :math:`\beta_0 =
0`. With their normalisations :math:`Z_k`, the free energies are :math:`F_k = \log Z_k / Z_0`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.optimize
from scipy.special import logsumexp

# Smallest overlap of neighbouring rungs, as a share of the samples. Below it, their free energies
# are not connected.
LEAST_OVERLAP = 1e-8


class Reweighted(NamedTuple):
    """Estimates from all rungs; nan if neighbours have no energies in common.

    Attributes:
      free: F, shape (K,).
      free_sem: standard error of F.
      log_mass: logarithm of the prior's mass up to the threshold; -inf if no sample is there.
      log_mass_sem: standard error of log_mass.
    """

    free: np.ndarray
    free_sem: np.ndarray
    log_mass: float
    log_mass_sem: float


def thermodynamic_integration(energies: np.ndarray, betas: np.ndarray) -> np.ndarray:
    r"""Free energies by integrating :math:`F' = -\langle E \rangle`.

    Each step uses the trapezoidal rule and its first correction, from :math:`F'' = \mathrm{Var} E`.
    The error is of fifth order in the step.

    Args:
      energies: samples of the energy, (chains, draws, K).
      betas: inverse temperatures, (K,), increasing from 0.

    Returns:
      F, shape (K,).
    """
    step = np.diff(betas)
    with np.errstate(invalid="ignore"):  # infinite energies give nan
        mean, variance = energies.mean(axis=(0, 1)), energies.var(axis=(0, 1))
        area = 0.5 * step * (mean[1:] + mean[:-1]) + step**2 / 12 * np.diff(variance)
    return np.concatenate([[0.0], -np.cumsum(area)])


def reweight(
    energies: np.ndarray, betas: np.ndarray, start: np.ndarray, threshold: float = -np.inf
) -> Reweighted:
    r"""Estimates free energies, and the prior's mass below a threshold.

    This is MBAR [Shirts and Chodera, 2008], the maximum-likelihood estimate. With :math:`N_l`
    samples at rung l, every sample counts with the weight
    :math:`1 / \sum_l N_l e^{-\beta_l E - F_l}` in averages over the prior, and

    .. math:: e^{F_k} = \sum_n \frac{e^{-\beta_k E_n}}{\sum_l N_l e^{-\beta_l E_n - F_l}} .

    The spacing of the rungs causes no error, as long as neighbours overlap. The standard errors
    come from the jackknife over chains; one step of Newton's method leaves out each chain, which
    is exact to first order.

    Args:
      energies: samples of the energy, (C, T, K): T draws of C independent chains at K rungs.
      betas: inverse temperatures, (K,), increasing from 0.
      start: a guess of F, shape (K,).
      threshold: energy up to which the prior's mass is computed.
    """
    chains, draws, rungs = energies.shape
    # Energies that count errors take few different values.
    energy, which = np.unique(energies, return_inverse=True)
    which = which.reshape(chains, -1)
    counts = np.stack([np.bincount(row, minlength=len(energy)) for row in which])  # (C, values)
    total, per_rung = counts.sum(axis=0), chains * draws
    with np.errstate(invalid="ignore"):  # infinite energies have weight 0 except at beta = 0
        boltzmann = np.where(betas == 0, 0.0, -betas * energy[:, None])

    free = _most_likely(boltzmann, total, per_rung, start)
    log_sum, shares = _log_density(boltzmann, free)
    if np.linalg.eigvalsh(_hessian(total, shares)).min() < LEAST_OVERLAP * per_rung:
        nothing = np.full(rungs, np.nan)
        return Reweighted(nothing, nothing, np.nan, np.nan)
    below = energy <= threshold

    def log_mass(counts, change):
        """The log mass for these counts of samples and F + change, to first order."""
        if not counts[below].any():
            return -np.inf
        log_weights = shares[below] @ change - log_sum[below]
        return logsumexp(log_weights, b=counts[below]) - np.log(counts.sum() / rungs)

    changes = np.stack([_change_without(own, total, shares, draws) for own in counts])
    masses = [log_mass(total - own, change) for own, change in zip(counts, changes, strict=True)]
    return Reweighted(
        free=free,
        free_sem=_jackknife_error(changes),
        log_mass=log_mass(total, np.zeros(rungs)),
        log_mass_sem=_jackknife_error(np.array(masses)),
    )


def _log_density(boltzmann, free):
    """Returns log sum_l exp(-beta_l E - F_l) for each energy, and the terms' shares."""
    terms = boltzmann - free
    log_sum = logsumexp(terms, axis=1)
    return log_sum, np.exp(terms - log_sum[:, None])


def _hessian(counts, shares):
    weighted = counts[:, None] * shares
    return (np.diag(weighted.sum(axis=0)) - shares.T @ weighted)[1:, 1:]


def _most_likely(boltzmann, total, per_rung, start):
    """Solves the equations for F, by maximising the likelihood.

    They say where a convex function of F_1 ... F_K is stationary: each rung has its share of the
    samples.
    """

    def objective(rest):
        free = np.append(0.0, rest)
        log_sum, shares = _log_density(boltzmann, free)
        value = total @ log_sum + per_rung * free.sum()
        return value / per_rung, 1 - (total @ shares)[1:] / per_rung

    def curvature(rest):
        _, shares = _log_density(boltzmann, np.append(0.0, rest))
        return _hessian(total, shares) / per_rung

    options = {"jac": True, "hess": curvature, "method": "trust-exact", "options": {"gtol": 1e-8}}
    return np.append(0.0, scipy.optimize.minimize(objective, start[1:], **options).x)


def _change_without(own, total, shares, draws):
    """Returns the change of F if a chain is left out, by one step of Newton's method."""
    # At the solution, the other chains' gradient is minus the gradient of this chain.
    gradient = (own @ shares - draws)[1:]
    return np.append(0.0, -np.linalg.solve(_hessian(total - own, shares), gradient))


def jackknife(estimate: Callable[[np.ndarray], np.ndarray], chains: np.ndarray) -> np.ndarray:
    """Computes a jackknife error, leaving out one independent chain at a time.

    Args:
      estimate: a function of (chains, ...) returning an array.
      chains: the chains, (C, ...).

    Returns:
      The error, of the shape of the estimate; nan where it is not finite.
    """
    return _jackknife_error(
        np.stack([estimate(np.delete(chains, c, axis=0)) for c in range(len(chains))])
    )


def _jackknife_error(without):
    with np.errstate(invalid="ignore"):
        return np.sqrt((len(without) - 1) * without.var(axis=0))
