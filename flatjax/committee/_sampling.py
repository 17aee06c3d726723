r"""Local entropy of committees by sampling, to check message passing.

.. math::
  \Phi(d) = \frac{1}{N K} \log P\big(\text{w makes no error}\big), \qquad
  w_k = p \, \tilde w_k + \sqrt{1 - p^2} \, z_k, \quad d = 1 - p. \tag{1}

Here :math:`z_k` is uniform on the sphere :math:`\lVert z_k \rVert^2 = N`, orthogonal to the
reference :math:`\tilde w_k`. Every unit has the overlap p with its reference, and P is the share of
such weights that classify all patterns. `direct_log_fraction` counts them among independent draws,
and is right if it finds any. `sample_log_fraction` also works if the share is too small to be
drawn.

Both are special cases of functions for any network: `flatjax.flatness.log_fraction_direct` and
`flatjax.flatness.local_entropy`, with the prior `flatjax.flatness.priors.fixed_overlap`.
`local_entropy` moves by small random steps. Sign units allow long steps, which mix faster.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from flatjax import _checks
from flatjax._keys import as_key
from flatjax._sampling import diagnostics, direct, free_energy
from flatjax._sampling.drawing import at_overlap
from flatjax.committee._checks import (
    as_overlap,
    check_directions,
    check_inputs,
    check_patterns,
)
from flatjax.committee._dynamics import sample_energies
from flatjax.committee._model import fields, to_sphere


class DirectLogFraction(NamedTuple):
    """Shares of error-free weights at overlaps p, from independent draws; shape S.

    Attributes:
      phi: Phi, `log_fraction` per weight; NaN if no draw is without errors.
      phi_sem: its standard error.
      log_fraction: logarithm of the share, in nats.
      log_fraction_sem: its standard error, from a binomial count.
      hits: number of draws without errors; below 10 the standard error is not reliable.
      energy: mean number of errors.
    """

    phi: np.ndarray
    phi_sem: np.ndarray
    log_fraction: np.ndarray
    log_fraction_sem: np.ndarray
    hits: np.ndarray
    energy: np.ndarray


class SampledLogFraction(NamedTuple):
    """Shares of error-free weights at overlaps p, from Markov chains; shape S.

    Attributes:
      phi: Phi, `log_fraction` per weight; NaN if no sample is without errors.
      phi_sem: its standard error.
      log_fraction: logarithm of the share, in nats.
      log_fraction_sem: its standard error, between independent chains.
      integrated: the log fraction by thermodynamic integration, from the same samples. If it
        differs by more than the errors, the inverse temperatures are too far apart.
      share: share of error-free samples at the largest beta; should be at least 0.01.
      r_hat: agreement of the chains, the worst of all betas; 1 is good, 1.05 too large.
      ess: number of independent samples, the least of all betas > 0; should be at least 100.
      exchange: smallest rate of exchanges between neighbouring betas; should be at least 0.05.
      converged: whether these four values are as required, and there is a log fraction.
    """

    phi: np.ndarray
    phi_sem: np.ndarray
    log_fraction: np.ndarray
    log_fraction_sem: np.ndarray
    integrated: np.ndarray
    share: np.ndarray
    r_hat: np.ndarray
    ess: np.ndarray
    exchange: np.ndarray
    converged: np.ndarray


def direct_log_fraction(
    key: chex.PRNGKey | int,
    x: ArrayLike,
    y: ArrayLike,
    reference: ArrayLike,
    *,
    overlap: ArrayLike,
    num_samples: int = 100_000,
    num_parallel: int = 500,
) -> DirectLogFraction:
    r"""Counts the share of error-free weights at given overlaps with a reference.

    It is the reference method if the share is above about 10 / num_samples, which is a log fraction
    of -9 nats by default.

    *Cost.* 2 num_samples K N P operations for each overlap, in single precision, and num_parallel K
    (2 N + P) numbers of memory. A perceptron of 1000 inputs and 1000 patterns takes 10 s on one
    core.

    Args:
      key: PRNG key or a seed. The same draws serve every overlap.
      x: patterns, shape (P, N).
      y: their labels, -1 or 1, shape (P,).
      reference: shape (K, N), K odd, of any norm.
      overlap: p, in (-1, 1), of shape S.
      num_samples: number of draws.
      num_parallel: number of draws that are held in memory.

    Returns:
      The shares. A field of 0 counts as positive.

    Raises:
      ValueError: shapes do not fit. There is only one input. The number of units is even, or a unit
        has zero norm. Labels are not -1 and 1. x is not finite. An overlap is out of (-1, 1).
        num_samples or num_parallel is below 1.
      TypeError: num_samples or num_parallel is not an int.

    Examples:
      Labels are right with probability 1/2 wherever the reference says nothing about them:

      >>> reference, x = jnp.eye(2, 4)[1:], jnp.eye(2, 4)[:1]
      >>> found = direct_log_fraction(
      ...     jax.random.key(0), x, [1], reference, overlap=0.5, num_samples=1000
      ... )
      >>> bool(abs(found.log_fraction - jnp.log(0.5)) < 4 * found.log_fraction_sem)
      True

    See Also:
      `sample_log_fraction` (for fractions that are too small to count), `amp` (by message passing).
    """
    data, reference, overlap = _check(x, y, reference, overlap)
    key = as_key("key", key)
    _checks.check_count("num_samples", num_samples)
    _checks.check_count("num_parallel", num_parallel)
    energy = direct.draw_energies(
        key,
        lambda noise, distance: _num_errors(_around(reference, noise, distance), **data),
        distances=(1 - overlap).ravel(),
        num_weights=reference.size,
        num_samples=num_samples,
        num_parallel=num_parallel,
    )
    share = direct.share_below(energy, 0.0)
    shaped = lambda values: np.asarray(values).reshape(overlap.shape)
    log_fraction = shaped(np.where(share.hits > 0, share.log_fraction, np.nan))
    sem = shaped(share.log_fraction_sem)
    return DirectLogFraction(
        phi=log_fraction / reference.size,
        phi_sem=sem / reference.size,
        log_fraction=log_fraction,
        log_fraction_sem=sem,
        hits=shaped(share.hits),
        energy=shaped(energy.mean(axis=-1)),
    )


def sample_log_fraction(
    key: chex.PRNGKey | int,
    x: ArrayLike,
    y: ArrayLike,
    reference: ArrayLike,
    *,
    overlap: ArrayLike,
    largest_beta: float = 8.0,
    num_betas: int = 12,
    num_chains: int = 8,
    num_steps: int = 200,
    num_warmup: int = 100,
    duration: float = 1.5,
) -> SampledLogFraction:
    r"""Samples the share of error-free weights, however small, at given overlaps.

    .. math::
      \log P(E = 0) = -\int_0^\beta \langle E \rangle_b \, db + \log P_\beta(E = 0), \qquad
      P_\beta(w) \propto P(w) \, e^{-\beta E(w)}. \tag{2}

    Here E is the number of errors. Weights are sampled at several betas at once. In a step, each
    unit in turn moves by the exact Hamiltonian dynamics. It is refracted or reflected where the
    vote of the committee changes, so that no move is rejected. Then neighbouring betas exchange
    their weights (replica exchange). The share is estimated from the samples of all betas together,
    by MBAR [Shirts and Chodera, 2008]. The spacing of betas is made for errors that are Poisson
    numbers with mean :math:`E_0 e^{-\beta}`: it is even in the square root of this mean.

    Two disagreements show errors: between independent chains (`r_hat` and the standard error), and
    between two estimates (`integrated`). A single sequence of populations would not show them.
    Error-free weights that no chain has found are missing from the share.

    *Choice of betas.* Neighbours exchange if :math:`2 \sqrt{E_0}` / num_betas is about 1 or less.
    largest_beta is large enough if `share` is 0.1 or more.

    *Cost.* For each overlap, chain, beta and step, a perceptron meets about P / 2 walls, and each
    of several units fewer. A wall costs O(P + N) operations, one after another. Memory: P^2
    numbers, and about num_chains num_betas (K N + 6 P). A perceptron with N = P = 100 takes 3 s on
    one core.

    Args:
      key: PRNG key or a seed.
      x: patterns, shape (P, N).
      y: their labels, -1 or 1, shape (P,).
      reference: shape (K, N), K odd, of any norm.
      overlap: p, in (-1, 1), of shape S.
      largest_beta: largest inverse temperature, per error.
      num_betas: number of betas, from 0 to largest_beta.
      num_chains: number of independent chains, with weights at each beta.
      num_steps: steps of each chain, all recorded.
      num_warmup: steps before the recorded ones.
      duration: mean duration of a move of a unit; without walls it moves by as many radians.

    Returns:
      The shares and diagnostics. A field of 0 counts as right.

    Raises:
      ValueError: as `direct_log_fraction`; or there are fewer than 3 inputs, so that chains cannot
        move. largest_beta or duration is not positive. There are fewer than 2 betas, 2 chains, 10
        steps or 1 step of warm-up.
      TypeError: one of the numbers is not an int.

    Examples:
      >>> teacher = jnp.ones((1, 30))
      >>> x = jax.random.normal(jax.random.key(0), (30, 30))
      >>> y = jnp.sign(x @ teacher[0])
      >>> found = sample_log_fraction(
      ...     jax.random.key(1), x, y, teacher, overlap=0.5, num_steps=50, num_warmup=20
      ... )
      >>> bool(abs(found.phi + 0.45) < 0.2)  # of replicas, at infinite size
      True

    See Also:
      `direct_log_fraction` (counts, for large fractions), `amp` (by message passing).
    """
    data, reference, overlap = _check(x, y, reference, overlap)
    key = as_key("key", key)
    check_inputs(x, least=3)
    for name, value in (("largest_beta", largest_beta), ("duration", duration)):
        _checks.check_scalar(name, value, exclusive_minimum=True)
    sizes = {"num_chains": num_chains, "num_steps": num_steps, "num_warmup": num_warmup}
    least = {"num_chains": 2, "num_steps": 10, "num_warmup": 1}
    for name, value in (sizes | {"num_betas": num_betas}).items():
        _checks.check_count(name, value, minimum=least.get(name, 2))
    root = np.linspace(1, np.exp(-largest_beta / 2), num_betas)  # of the number of errors
    betas = -2 * np.log(root)
    rows = []
    for index, p in enumerate(overlap.ravel()):
        row_key = jax.random.fold_in(key, index)
        energy, exchange = sample_energies(
            row_key, data["x"], data["y"], reference, p, jnp.asarray(betas), duration, **sizes
        )
        rows.append(_estimate(np.asarray(energy, float), np.asarray(exchange), betas, reference))
    return jax.tree.map(lambda *values: np.stack(values).reshape(overlap.shape), *rows)


def _estimate(energy, exchange, betas, reference) -> SampledLogFraction:
    """Estimates the share from the energies (C, T, B) at one overlap."""
    integrated = free_energy.thermodynamic_integration(energy, betas)
    share = np.mean(energy[..., -1] == 0)
    found = free_energy.reweight(energy, betas, integrated, threshold=0.0)
    if share > 0:
        log_fraction, sem = np.minimum(found.log_mass, 0.0), np.asarray(found.log_mass_sem)
        integrated = integrated[-1] + np.log(share)  # eq. (2)
    else:
        log_fraction = sem = integrated = np.array(np.nan)
    r_hat = diagnostics.split_r_hat(energy)
    ess = diagnostics.effective_sample_size(energy)
    return SampledLogFraction(
        phi=log_fraction / reference.size,
        phi_sem=sem / reference.size,
        log_fraction=log_fraction,
        log_fraction_sem=sem,
        integrated=integrated,
        share=share,
        r_hat=r_hat[1:].max(),
        ess=ess[1:].min(),
        exchange=exchange.min(),
        converged=diagnostics.has_converged(r_hat, ess, exchange, share)
        & np.isfinite(log_fraction),
    )


@jax.jit
def _around(reference, noise, distance):
    """Makes committees (..., K, N) of noise (..., K N), at the overlap 1 - distance."""
    # w of eq. (1)
    place = lambda z: at_overlap(reference, z.reshape(reference.shape), 1 - distance, -1)
    return jax.vmap(place)(noise).astype(reference.dtype)


@jax.jit
def _num_errors(weights, x, y):
    """Counts the errors of committees (..., K, N)."""
    votes = jnp.where(fields(weights, x) < 0, -1, 1).sum(axis=-1)
    return jnp.sum(votes * y <= 0, axis=-1)


def _check(x, y, reference, overlap) -> tuple[dict[str, jax.Array], jax.Array, np.ndarray]:
    """Returns the checked data as a batch, the reference on the sphere, the overlaps."""
    x, y, reference = (jnp.asarray(array, jnp.float32) for array in (x, y, reference))
    check_patterns(x, y)
    check_inputs(x)
    if reference.ndim != 2 or reference.shape[1] != x.shape[1] or reference.shape[0] % 2 == 0:
        raise ValueError(
            f"reference must have shape (K, {x.shape[1]}), K odd, got {reference.shape}."
        )
    check_directions(reference)
    return {"x": x, "y": y}, to_sphere(reference), as_overlap(overlap)
