"""Local entropy of one sample of the mixture, by thermodynamic integration."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc
from jax.typing import ArrayLike

from flatjax import _checks
from flatjax.gaussian_mixture._chains import equilibrium
from flatjax.gaussian_mixture._error_chains import sample_errors
from flatjax.gaussian_mixture._mixture import Sample


class LocalEntropyEstimate(NamedTuple):
    """The surroundings of a reference in one sample of the mixture, shape S each.

    Attributes:
      phi: local entropy.
      train_error: fraction of errors at beta.
      m: overlap with the signal at beta, of weights with the squared norm N.
      r_hat: see `Equilibrium`; the largest of all nodes up to beta.
    """

    phi: np.ndarray
    train_error: np.ndarray
    m: np.ndarray
    r_hat: np.ndarray


def sample_local_entropy(
    key: chex.PRNGKey,
    patterns: Sample,
    reference: ArrayLike,
    *,
    overlap: ArrayLike,
    beta: float,
    bias: ArrayLike = 0.0,
    num_nodes: int = 5,
    num_chains: int = 2,
    num_samples: int = 100,
    burn_in: int = 50,
) -> LocalEntropyEstimate:
    r"""Measures the local entropy around a reference by integration over beta.

    .. math:: \phi(\beta) = -\frac{1}{N} \int_0^\beta d\beta'\,
        \Big\langle \sum_\mu 1[\sigma^\mu h^\mu < 0] \Big\rangle_{\beta'}. \tag{1}

    It uses the rule of Gauss and Lobatto, with the exact mean at beta = 0 and samples elsewhere.
    For infinite beta, the integral ends at 10, and the share of samples without errors there gives
    the rest:

    .. math:: \phi(\infty) = \phi(10) + \frac{1}{N} \log P_{10}[\text{no error}]. \tag{2}

    Args:
      key: PRNG key.
      patterns: the sample of the mixture.
      reference: shape `(*S, N)`, of any norm.
      overlap: o, broadcast with the leading axes of the references.
      beta: inverse temperature at which the integral ends; inf for no errors.
      bias: b, for weights of the squared norm N.
      num_nodes: nodes of the rule, including both ends; 8 suffice for infinite beta.
      num_chains: number of chains at each node.
      num_samples: number of samples of each chain.
      burn_in: see `sample_errors`.

    Returns:
      The estimates; NaN at infinite beta if no sample is without errors.

    Raises:
      ValueError: a parameter is out of its range.

    Examples:
      >>> import jax, numpy as np
      >>> from flatjax.gaussian_mixture import sample, sampling
      >>> patterns = sample(jax.random.key(0), 50, alpha=1.0, delta=1.0)
      >>> hebb = patterns.label @ patterns.x
      >>> overlap = np.array([0.5, 0.9])
      >>> found = sampling.sample_local_entropy(
      ...     jax.random.key(1), patterns, hebb, overlap=overlap, beta=1.0, num_samples=20
      ... )
      >>> bool(found.phi[0] < found.phi[1] < 0)
      True

    See Also:
      `flatjax.gaussian_mixture.local_entropy` (the theory), `sample_errors` (chains alone).
    """
    _checks.check_count("num_nodes", num_nodes, minimum=3)
    without_errors = beta == np.inf
    beta = 10.0 if without_errors else beta
    _checks.check_scalar("beta", beta, exclusive_minimum=True)
    nodes, weights = _lobatto(num_nodes)
    overlap, bias = np.asarray(overlap, np.float32), np.asarray(bias, np.float32)
    chains = sample_errors(
        key,
        patterns,
        beta=beta * (nodes[1:] + 1) / 2,
        reference=np.asarray(reference)[..., None, :],
        overlap=overlap[..., None],
        bias=bias[..., None],
        num_chains=num_chains,
        num_samples=num_samples,
        burn_in=burn_in,
    )
    found = equilibrium(chains)
    free = _error_of_free_weights(patterns, reference, overlap, bias)
    errors = np.concatenate([np.asarray(free)[..., None], found.energy], axis=-1)
    phi = -patterns.x.shape[0] / patterns.x.shape[1] * beta / 2 * errors @ weights  # eq. (1)
    last = lambda values: np.asarray(values)[..., -1]
    train_error, m = last(found.energy), last(found.m)
    if without_errors:
        at_last = lambda trace: np.asarray(trace)[..., -1, :, :]  # of all chains
        fits = at_last(chains.energy) == 0
        fraction = np.mean(fits, axis=(-2, -1))
        known = np.where(fraction > 0, fraction, np.nan)
        phi = phi + np.log(known) / patterns.x.shape[1]  # eq. (2)
        m = np.mean(np.where(fits, at_last(chains.signal), 0), axis=(-2, -1)) / known
        train_error = 0 * known
    return LocalEntropyEstimate(phi, train_error, m, np.max(found.r_hat, axis=-1))


@jax.jit
def _error_of_free_weights(patterns, reference, overlap, bias):
    """Computes the exact mean fraction of errors of uniform weights at an overlap."""
    num_features = patterns.x.shape[1]
    axis = reference / jnp.linalg.norm(reference, axis=-1, keepdims=True)
    along = (patterns.label[:, None] * patterns.x) @ axis[..., None]
    along = along[..., 0]
    across = jnp.sqrt(jnp.sum(patterns.x**2, axis=1) - along**2)
    offset = overlap[..., None] * along + bias[..., None] * patterns.label
    cosine = offset / (jnp.sqrt(1 - overlap[..., None] ** 2) * across)  # with which it is an error
    beyond = betainc((num_features - 2) / 2, 0.5, jnp.maximum(1 - cosine**2, 0)) / 2
    return jnp.mean(jnp.where(cosine > 0, beyond, 1 - beyond), axis=-1)


def _lobatto(num):
    """Returns nodes and weights of the rule of Gauss and Lobatto on [-1, 1]."""
    polynomial = np.polynomial.legendre.Legendre.basis(num - 1)
    nodes = np.concatenate([[-1.0], np.sort(polynomial.deriv().roots().real), [1.0]])
    return nodes, 2 / (num * (num - 1) * polynomial(nodes) ** 2)
