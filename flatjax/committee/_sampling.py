r"""Local entropy of committees by sampling: what message passing is checked against.

.. math::
  \Phi(d) = \frac{1}{N K} \log P\big(\text{w makes no error}\big), \qquad
  w_k = p \, \tilde w_k + \sqrt{1 - p^2} \, z_k, \quad d = 1 - p,

:math:`z_k` uniform on the sphere :math:`\lVert z_k \rVert^2 = N` orthogonal to the reference
:math:`\tilde w_k`: the share of the weights at overlap p with the reference, imposed on every unit,
that classify all patterns. `direct_log_fraction` counts them among independent draws, and is right
wherever it finds any; `sample_log_fraction` goes to where there are too few to be drawn.

Both are special cases of functions for any network: `flatjax.flatness.log_fraction_direct` and
`flatjax.flatness.local_entropy`, with the prior `flatjax.flatness.priors.fixed_overlap`. The latter
moves by small random steps. Sign units allow for long ones, which mix faster.
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
    """Shares of error-free weights at given overlaps p, from independent draws; shape S each.

    Attributes:
      phi: Phi, `log_fraction` per weight; NaN where nothing was hit.
      phi_sem: its standard error.
      log_fraction: logarithm of the share, in nats.
      log_fraction_sem: its standard error, that of a binomial count.
      hits: how many draws made no errors; below 10 the standard error says little.
      energy: mean number of errors.
    """

    phi: np.ndarray
    phi_sem: np.ndarray
    log_fraction: np.ndarray
    log_fraction_sem: np.ndarray
    hits: np.ndarray
    energy: np.ndarray


class SampledLogFraction(NamedTuple):
    """The same from Markov chains, shape S each.

    Attributes:
      phi: Phi, `log_fraction` per weight; NaN where no sample is without errors.
      phi_sem: its standard error.
      log_fraction: logarithm of the share, in nats.
      log_fraction_sem: its standard error, between independent chains.
      integrated: the log fraction by thermodynamic integration, from the same samples; a difference
        of more than the errors says that the inverse temperatures are too far apart.
      share: share of error-free samples at the largest beta; 0.01 at least is wanted.
      r_hat: agreement of the chains, the worst of all betas; 1 is good, 1.05 too much.
      ess: number of independent samples, the least of all betas > 0; 100 at least are wanted.
      exchange: rate of exchanges between neighbouring betas, the least; 0.05 at least is wanted.
      converged: whether all four are as wanted, and there is a log fraction.
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
    r"""The share of error-free weights at given overlaps with a reference, by counting.

    The oracle wherever the share is above some 10 / num_samples, which is a log fraction of -9 nats
    by default.

    *Cost.* 2 num_samples K N P operations for each overlap, in single precision; num_parallel K
    (2 N + P) numbers of memory. 10 s for a perceptron of 1000 inputs and patterns on one core.

    Args:
      key: PRNG key or a seed. The same draws serve every overlap.
      x: patterns, shape (P, N).
      y: their labels, -1 or 1, shape (P,).
      reference: shape (K, N), K odd, of any norm.
      overlap: p, in (-1, 1), of shape S.
      num_samples: draws.
      num_parallel: how many of them are held in memory.

    Returns:
      The shares. A field of 0 counts as positive.

    Raises:
      ValueError: shapes that do not fit, one input only, an even number of units or one of zero
        norm, labels other than -1 and 1, an x that is not finite, an overlap out of (-1, 1),
        num_samples or num_parallel < 1.
      TypeError: num_samples or num_parallel is not an int.

    Examples:
      Labels are right with probability 1/2 wherever the reference says nothing about them:

      >>> reference, x = jnp.eye(2, 4)[1:], jnp.eye(2, 4)[:1]
      >>> found = direct_log_fraction(
      ...     jax.random.key(0), x, [1], reference, overlap=0.5, num_samples=1000
      ... )
      >>> bool(abs(found.log_fraction - jnp.log(0.5)) < 4 * found.log_fraction_sem)
      True
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
    r"""The share of error-free weights at given overlaps with a reference, however small it is.

    .. math::
      \log P(E = 0) = -\int_0^\beta \langle E \rangle_b \, db + \log P_\beta(E = 0), \qquad
      P_\beta(w) \propto P(w) \, e^{-\beta E(w)},

    E the number of errors. Weights are sampled at several betas at once. In a step each unit in
    turn moves for a while by the exact Hamiltonian dynamics, refracted or reflected where the
    committee changes its mind, so that no move is rejected; then neighbouring betas exchange their
    weights (replica exchange). The share is estimated from the samples of all betas together, by
    MBAR [Shirts and Chodera, 2008]. Betas are spaced as suits errors that are Poisson numbers,
    whose mean falls as :math:`E_0 e^{-\beta}`: evenly in its square root.

    Unlike with a single sequence of populations, disagreement is seen: of independent chains
    (`r_hat`, and the standard error), and between two estimates (`integrated`). Error-free weights
    that no chain has found are not in it.

    *Choice of betas.* Neighbours exchange if :math:`2 \sqrt{E_0}` / num_betas is some 1 or less;
    largest_beta is enough if `share` is 0.1 or more.

    *Cost.* For each overlap, chain, beta and step about P / 2 walls are met by a perceptron, fewer
    by each of more units, at O(P + N) operations each, one after another. Memory: P^2 numbers, and
    some num_chains num_betas (K N + 6 P). 3 s for a perceptron with N = P = 100 on one core.

    Args:
      key: PRNG key or a seed.
      x: patterns, shape (P, N).
      y: their labels, -1 or 1, shape (P,).
      reference: shape (K, N), K odd, of any norm.
      overlap: p, in (-1, 1), of shape S.
      largest_beta: beta, per error.
      num_betas: from 0 to it.
      num_chains: independent ones, with weights at each beta.
      num_steps: of each, all recorded.
      num_warmup: steps before them.
      duration: mean duration of the move of a unit; freely it goes as many radians.

    Returns:
      The shares and how far to trust them. A field of 0 counts as right.

    Raises:
      ValueError: as `direct_log_fraction`; fewer than 3 inputs, since chains then cannot move;
        largest_beta or duration is not positive, fewer than 2 betas or chains, 10 steps, 1 step of
        warm-up.
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
    """From the energies (C, T, B) at one overlap."""
    integrated = free_energy.thermodynamic_integration(energy, betas)
    share = np.mean(energy[..., -1] == 0)
    found = free_energy.reweight(energy, betas, integrated, threshold=0.0)
    if share > 0:
        log_fraction, sem = np.minimum(found.log_mass, 0.0), np.asarray(found.log_mass_sem)
        integrated = integrated[-1] + np.log(share)
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
    """Committees (..., K, N) made of noise (..., K N), at the overlap 1 - distance."""
    place = lambda z: at_overlap(reference, z.reshape(reference.shape), 1 - distance, -1)
    return jax.vmap(place)(noise).astype(reference.dtype)


@jax.jit
def _num_errors(weights, x, y):
    """Of committees (..., K, N)."""
    votes = jnp.where(fields(weights, x) < 0, -1, 1).sum(axis=-1)
    return jnp.sum(votes * y <= 0, axis=-1)


def _check(x, y, reference, overlap) -> tuple[dict[str, jax.Array], jax.Array, np.ndarray]:
    """The data as a batch, the reference on the sphere, the overlaps; or an error."""
    x, y, reference = (jnp.asarray(array, jnp.float32) for array in (x, y, reference))
    check_patterns(x, y)
    check_inputs(x)
    if not np.all(np.isfinite(x)):
        raise ValueError("x must be finite, got NaN or infinity.")
    if reference.ndim != 2 or reference.shape[1] != x.shape[1] or reference.shape[0] % 2 == 0:
        raise ValueError(
            f"reference must have shape (K, {x.shape[1]}), K odd, got {reference.shape}."
        )
    check_directions(reference)
    return {"x": x, "y": y}, to_sphere(reference), as_overlap(overlap)
