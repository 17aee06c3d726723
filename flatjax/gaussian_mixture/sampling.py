r"""Monte Carlo at finite size: samples of the measures whose averages the theory predicts.

Two measures of the weights of y replicas, given a sample of the mixture:

* `sample_errors`: by the number of errors, on a sphere, free or at a given angle from a reference;
* `sample_loss`: by a loss and a ridge, replicas coupled to their barycenter.

Chains are run in parallel, and more than one for each measure: what is quadratic in a thermal mean,
as the overlap q0 of two copies, is biased if estimated from one (by the noise of its mean), and
unbiased from two. `equilibrium` does that, and tells whether chains agree.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc
from jax.typing import ArrayLike

from flatjax import _checks
from flatjax.gaussian_mixture._chains import Chains, average_over_time, draw, equilibrium
from flatjax.gaussian_mixture._hamiltonian import hamiltonian_start, hamiltonian_step
from flatjax.gaussian_mixture._mixture import Sample, check_mixture
from flatjax.gaussian_mixture._refraction import make_landscape, refraction_start, refraction_step
from flatjax.gaussian_mixture.losses import Loss

COLD = 50.0  # infinite: of e^50 particles, one climbs that wall


def sample_errors(
    key: chex.PRNGKey,
    patterns: Sample,
    *,
    beta: ArrayLike,
    num_replicas: int = 1,
    correlation: ArrayLike = 0.0,
    reference: ArrayLike | None = None,
    overlap: ArrayLike = 0.0,
    bias: ArrayLike = 0.0,
    start: ArrayLike | None = None,
    num_chains: int = 2,
    num_samples: int = 200,
    burn_in: int = 50,
    duration: float = 1.5,
) -> Chains:
    r"""Samples weights by errors, :math:`e^{-\beta \sum_a \#\{\mu: \sigma^\mu h_a^\mu < 0\}}`.

    With respect to the uniform measure on :math:`\lVert w \rVert^2 = N`, or on its part at a given
    angle from a reference. Replicas are held together by the measure that they have before they see
    data: directions of Gaussian vectors whose components have a given correlation between replicas.

    A sample is a flight of the exact Hamiltonian dynamics, which is refracted or reflected where a
    pattern changes sides and so needs no rejections; that takes about as many operations as there
    are patterns, times N.

    Args:
      key: PRNG key.
      patterns: the sample of the mixture, n of them.
      beta: inverse temperature; inf with a `start`. Arrays of parameters are broadcast to a
        common shape S.
      num_replicas: y.
      correlation: of replicas without data, in [0, 1).
      reference: shape `(*S, N)`, of any norm. Only with a single replica.
      overlap: o, cosine of the angle with the reference, in (-1, 1).
      bias: b, for weights of norm N. Only with a single replica.
      start: weights without errors, shape (N,), where all chains start; at random by default.
      num_chains: K.
      num_samples: T.
      burn_in: samples of each chain that are thrown away first.
      duration: mean duration of a flight; freely it goes as many radians.

    Returns:
      The chains; weights have the squared norm N, energy is the fraction of errors.

    Raises:
      ValueError: a parameter out of its range; several replicas with a reference or bias; a start
        with a reference, or one that makes errors, or none, at infinite beta.

    Examples:
      >>> from flatjax.gaussian_mixture import sample
      >>> patterns = sample(jax.random.key(0), 50, alpha=1.0, delta=1.0)
      >>> chains = sample_errors(jax.random.key(1), patterns, beta=np.array([0.1, 3.0]))
      >>> cold, hot = equilibrium(chains).energy[::-1]
      >>> bool(cold < hot)
      True
    """
    for name, value in (("num_replicas", num_replicas), ("num_chains", num_chains)):
        _checks.check_count(name, value)
    _checks.check_count("num_samples", num_samples, minimum=4)
    _checks.check_count("burn_in", burn_in, minimum=0)
    _checks.check_scalar("duration", duration, exclusive_minimum=True)
    check_mixture(beta=np.minimum(beta, COLD))
    if np.any(np.isinf(beta)):
        _check_start(start, patterns, bias)
    if not (np.all(np.asarray(correlation) >= 0) and np.all(np.asarray(correlation) < 1)):
        raise ValueError(f"correlation must be in [0, 1), got {correlation}.")
    if not np.all(np.abs(overlap) < 1):
        raise ValueError(f"overlap must be strictly between -1 and 1, got {overlap}.")
    if num_replicas > 1 and (reference is not None or np.any(np.asarray(bias) != 0)):
        raise ValueError(f"num_replicas must be 1 with a reference or bias, got {num_replicas}.")
    if reference is None:
        if np.any(np.asarray(overlap) != 0):
            raise ValueError(f"overlap must be 0 without a reference, got {overlap}.")
        reference = np.zeros(patterns.x.shape[1], np.float32)
    elif start is not None:
        raise ValueError("start must not be given with a reference, which says where to be.")
    values = (np.minimum(beta, COLD), correlation, overlap, bias)
    params = [np.asarray(value, np.float32) for value in values]
    sizes = (num_replicas, num_chains, num_samples, burn_in)
    return _sample_errors(key, patterns, reference, start, params, duration, sizes)


def _check_start(start, patterns, bias):
    if start is None:
        raise ValueError("start must be given at infinite beta: weights without errors.")
    fields = patterns.x @ start / jnp.linalg.norm(start) + jnp.asarray(bias)[..., None]
    num = int(jnp.sum(patterns.label * fields <= 0))
    if num > 0:
        raise ValueError(f"start must make no errors at infinite beta, got {num}.")


@functools.partial(jax.jit, static_argnames="sizes")
def _sample_errors(key, patterns, reference, start, params, duration, sizes):
    num_replicas, num_chains, num_samples, burn_in = sizes
    num_features = reference.shape[-1]
    design = patterns.label[:, None] * patterns.x / np.sqrt(num_features)
    gram = design @ design.T

    def run(key, *params):
        landscape, weights_of = make_landscape(design, gram, patterns.label, num_replicas, *params)

        def look(z):
            return weights_of(z), jnp.mean(landscape.errors(landscape.fields(z)))

        start_key, move_key = jax.random.split(key)
        z = refraction_start(landscape, start_key, start)
        step = refraction_step(landscape, duration)
        return average_over_time(step, look, z, move_key, num_samples, burn_in, patterns.signal)

    shape = jnp.broadcast_shapes(reference.shape[:-1], *(param.shape for param in params))
    flat = [jnp.broadcast_to(param, shape).reshape(-1) for param in params]
    flat.append(jnp.broadcast_to(reference, (*shape, num_features)).reshape(-1, num_features))
    keys = jax.random.split(key, (len(flat[0]), num_chains))
    chains = jax.vmap(jax.vmap(run, (0, *[None] * len(flat))))(keys, *flat)
    return jax.tree.map(lambda leaf: leaf.reshape(shape + leaf.shape[1:]), chains)


class LocalEntropyEstimate(NamedTuple):
    """The surroundings of a reference in one sample of the mixture, shape S each.

    Attributes:
      phi: local entropy.
      train_error: fraction of errors at beta.
      m: overlap with the signal at beta, of weights with the squared norm N.
      r_hat: see `Equilibrium`; the largest on the way to beta.
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
    r"""Measures `flatjax.gaussian_mixture.local_entropy` of a reference by integration over beta.

    .. math:: \phi(\beta) = -\frac{1}{N} \int_0^\beta d\beta'\,
        \Big\langle \sum_\mu 1[\sigma^\mu h^\mu < 0] \Big\rangle_{\beta'}

    by the rule of Gauss and Lobatto, with the exact mean at beta = 0, and samples elsewhere. What
    an infinite beta excludes beyond a beta of 10 is told by how many of the samples there make no
    error,

    .. math:: \phi(\infty) = \phi(10) + \frac{1}{N} \log P_{10}[\text{no error}].

    Args:
      key: PRNG key.
      patterns: the sample of the mixture.
      reference: shape `(*S, N)`, of any norm.
      overlap: o, broadcast with the leading axes of the references.
      beta: inverse temperature, up to which is integrated; or inf, no errors.
      bias: b, for weights of the squared norm N.
      num_nodes: of the rule, both ends included; 8 suffice for an infinite beta.
      num_chains: at each node.
      num_samples: of each chain.
      burn_in: see `sample_errors`.

    Returns:
      The estimates; NaN at infinite beta if no sample is without errors.

    Raises:
      ValueError: a parameter out of its range.

    Examples:
      >>> from flatjax.gaussian_mixture import sample
      >>> patterns = sample(jax.random.key(0), 50, alpha=1.0, delta=1.0)
      >>> hebb = patterns.label @ patterns.x
      >>> overlap = np.array([0.5, 0.9])
      >>> found = sample_local_entropy(
      ...     jax.random.key(1), patterns, hebb, overlap=overlap, beta=1.0, num_samples=20
      ... )
      >>> bool(found.phi[0] < found.phi[1] < 0)
      True
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
    phi = -patterns.x.shape[0] / patterns.x.shape[1] * beta / 2 * errors @ weights
    last = lambda values: np.asarray(values)[..., -1]
    train_error, m = last(found.energy), last(found.m)
    if without_errors:
        at_last = lambda trace: np.asarray(trace)[..., -1, :, :]  # of all chains
        fits = at_last(chains.energy) == 0
        fraction = np.mean(fits, axis=(-2, -1))
        known = np.where(fraction > 0, fraction, np.nan)
        phi = phi + np.log(known) / patterns.x.shape[1]
        m = np.mean(np.where(fits, at_last(chains.signal), 0), axis=(-2, -1)) / known
        train_error = 0 * known
    return LocalEntropyEstimate(phi, train_error, m, np.max(found.r_hat, axis=-1))


@jax.jit
def _error_of_free_weights(patterns, reference, overlap, bias):
    """Mean fraction of errors, exactly, of uniform weights at a given overlap."""
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
    """Nodes and weights of the rule on [-1, 1]."""
    polynomial = np.polynomial.legendre.Legendre.basis(num - 1)
    nodes = np.concatenate([[-1.0], np.sort(polynomial.deriv().roots().real), [1.0]])
    return nodes, 2 / (num * (num - 1) * polynomial(nodes) ** 2)


def sample_loss(
    key: chex.PRNGKey,
    patterns: Sample,
    loss: Loss,
    *,
    beta: float,
    lam: float,
    gamma: float = 0.0,
    num_replicas: int = 1,
    num_chains: int = 2,
    num_samples: int = 500,
    burn_in: int = 200,
    num_steps: int = 12,
) -> Chains:
    r"""Samples replicas by a loss, :math:`e^{-\beta E}`, with Hamiltonian Monte Carlo.

    .. math:: E = \sum_a \Big[\sum_\mu l(\sigma^\mu h_a^\mu)
        + \frac{\lambda}{2} \lVert w_a \rVert^2
        + \frac{\gamma}{2} \lVert w_a - \bar w \rVert^2\Big]

    Args:
      key: PRNG key.
      patterns: the sample of the mixture.
      loss: of `flatjax.gaussian_mixture.losses`; its derivative is used.
      beta: inverse temperature.
      lam: ridge.
      gamma: coupling of the replicas to their barycenter.
      num_replicas: y.
      num_chains: K.
      num_samples: T.
      burn_in: samples of each chain that are thrown away first, while its step size is adapted to
        an acceptance of 0.8.
      num_steps: leapfrog steps of a sample.

    Returns:
      The chains; energy is the mean loss of a pattern.

    Raises:
      ValueError: a parameter out of its range.

    Examples:
      >>> from flatjax.gaussian_mixture import losses, sample
      >>> patterns = sample(jax.random.key(0), 50, alpha=1.0, delta=1.0)
      >>> chains = sample_loss(
      ...     jax.random.key(1), patterns, losses.logistic(), beta=1.0, lam=1.0, num_replicas=3
      ... )
      >>> chains.overlaps.shape, bool(jnp.all(chains.acceptance > 0.5))
      ((2, 3, 3), True)
    """
    counts = {"num_replicas": num_replicas, "num_chains": num_chains, "num_steps": num_steps}
    for name, value in counts.items():
        _checks.check_count(name, value)
    _checks.check_count("num_samples", num_samples, minimum=4)
    _checks.check_count("burn_in", burn_in, minimum=0)
    check_mixture(beta=beta, lam=lam)
    _checks.check_scalar("gamma", gamma)
    sizes = (num_replicas, num_chains, num_samples, burn_in, num_steps)
    return _sample_loss(key, patterns, beta, lam, gamma, loss, sizes)


@functools.partial(jax.jit, static_argnames=("loss", "sizes"))
def _sample_loss(key, patterns, beta, lam, gamma, loss, sizes):
    num_replicas, num_chains, num_samples, burn_in, num_steps = sizes
    num, num_features = patterns.x.shape
    design = patterns.label[:, None] * patterns.x / np.sqrt(num_features)

    def energy_of(weights):
        apart = weights - weights.mean(0)
        quadratic = lam * jnp.sum(weights**2) + gamma * jnp.sum(apart**2)
        return beta * (jnp.sum(loss.value(weights @ design.T)) + quadratic / 2)

    step = hamiltonian_step(energy_of, num_steps, burn_in)

    def look(state):
        return state.x, jnp.mean(loss.value(state.x @ design.T))

    def run(key):
        start_key, move_key = jax.random.split(key)
        stiffness = beta * (lam + gamma + num / num_features / 4)
        weights, _ = draw(start_key, (num_replicas, num_features), 0)
        weights /= jnp.sqrt(stiffness)
        start = hamiltonian_start(weights, 0.5 / jnp.sqrt(stiffness))
        return average_over_time(step, look, start, move_key, num_samples, burn_in, patterns.signal)

    return jax.vmap(run)(jax.random.split(key, num_chains))
