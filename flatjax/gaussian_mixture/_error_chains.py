r"""Monte Carlo of the number of errors: flights through walls."""

import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from flatjax import _checks
from flatjax._sampling.refraction import Walls, refraction_start, refraction_step
from flatjax.gaussian_mixture._chains import Chains, average_over_time
from flatjax.gaussian_mixture._checks import check_mixture, check_numbers, check_sizes
from flatjax.gaussian_mixture._mixture import Sample

COLD = 50.0  # as good as infinite: one of e^50 particles climbs this wall


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
    r"""Samples weights by their number of errors.

    The density is :math:`e^{-\beta \sum_a \#\{\mu: \sigma^\mu h_a^\mu < 0\}}`.

    It is taken with respect to the uniform measure on :math:`\lVert w \rVert^2 = N`, or on its part
    at a given angle from a reference. Several replicas have a correlated measure without data:
    directions of Gaussian vectors whose components have a given correlation between replicas.

    A sample is a flight of the exact Hamiltonian dynamics. It is refracted or reflected where a
    pattern changes sides, so no sample is rejected. A flight takes about n N operations for n
    patterns.

    Args:
      key: PRNG key.
      patterns: the sample of the mixture, n patterns.
      beta: inverse temperature; inf with a `start`. Arrays of parameters are broadcast to a
        common shape S.
      num_replicas: y.
      correlation: correlation of replicas without data, in [0, 1).
      reference: shape `(*S, N)`, of any norm. Only with a single replica.
      overlap: o, cosine of the angle with the reference, in (-1, 1).
      bias: b, for weights of norm N. Only with a single replica.
      start: weights without errors, shape (N,), where all chains start. The default is random.
      num_chains: C.
      num_samples: T.
      burn_in: first samples of each chain, which are discarded.
      duration: mean duration of a flight; without walls it moves by as many radians.

    Returns:
      The chains. Weights have the squared norm N, and the energy is the fraction of errors.

    Raises:
      ValueError: a parameter is out of its range, or there are several replicas with a reference or
        bias. There is a start with a reference. At infinite beta there is no start, or it makes
        errors.

    Examples:
      >>> import jax, numpy as np
      >>> from flatjax.gaussian_mixture import sample, sampling
      >>> patterns = sample(jax.random.key(0), 50, alpha=1.0, delta=1.0)
      >>> betas = np.array([0.1, 3.0])
      >>> chains = sampling.sample_errors(jax.random.key(1), patterns, beta=betas)
      >>> hot, cold = sampling.equilibrium(chains).energy
      >>> bool(cold < hot)
      True

    See Also:
      `equilibrium` (reads the chains), `sample_loss` (chains for a loss).
    """
    check_sizes(num_replicas, num_chains, num_samples, burn_in)
    _checks.check_scalar("duration", duration, exclusive_minimum=True)
    check_mixture(beta=np.minimum(beta, COLD))
    check_numbers("correlation", correlation, lambda c: (c >= 0) & (c < 1), "in [0, 1)")
    check_numbers("overlap", overlap, lambda o: abs(o) < 1, "strictly between -1 and 1")
    if np.any(np.isinf(beta)):
        _check_start(start, patterns, bias)
    if num_replicas > 1 and (reference is not None or np.any(np.asarray(bias) != 0)):
        raise ValueError(f"num_replicas must be 1 with a reference or bias, got {num_replicas}.")
    if reference is not None and start is not None:
        raise ValueError("start must not be given with a reference.")
    if reference is None:
        if np.any(np.asarray(overlap) != 0):
            raise ValueError(f"overlap must be 0 without a reference, got {overlap}.")
        reference = np.zeros(patterns.x.shape[1], np.float32)
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
        raise ValueError(f"start must make no errors at infinite beta, got {num} errors.")


@functools.partial(jax.jit, static_argnames="sizes")
def _sample_errors(key, patterns, reference, start, params, duration, sizes):
    num_replicas, num_chains, num_samples, burn_in = sizes
    num_features = reference.shape[-1]
    design = patterns.label[:, None] * patterns.x / np.sqrt(num_features)
    gram = design @ design.T

    def run(key, *params):
        walls, weights_of = _error_walls(design, gram, patterns.label, num_replicas, *params)

        def look(z):
            return weights_of(z), jnp.mean(walls.errors(walls.fields(z)))

        start_key, move_key = jax.random.split(key)
        z = refraction_start(walls, start_key, start)
        step = refraction_step(walls, duration)
        return average_over_time(step, look, z, move_key, num_samples, burn_in, patterns.signal)

    shape = jnp.broadcast_shapes(reference.shape[:-1], *(param.shape for param in params))
    flat = [jnp.broadcast_to(param, shape).reshape(-1) for param in params]
    flat.append(jnp.broadcast_to(reference, (*shape, num_features)).reshape(-1, num_features))
    keys = jax.random.split(key, (len(flat[0]), num_chains))
    chains = jax.vmap(jax.vmap(run, (0, *[None] * len(flat))))(keys, *flat)
    return jax.tree.map(lambda leaf: leaf.reshape(shape + leaf.shape[1:]), chains)


def _error_walls(
    design: jax.Array,
    gram: jax.Array,
    label: jax.Array,
    num_replicas: int,
    beta: jax.Array,
    correlation: jax.Array,
    overlap: jax.Array,
    bias: jax.Array,
    reference: jax.Array,
) -> tuple[Walls, Callable[[jax.Array], jax.Array]]:
    """Returns the walls between numbers of errors of replicas.

    Args:
      design: label x / sqrt(N), shape (n, N).
      gram: design design'.
      label: shape (n,).
      num_replicas: y.
      beta: inverse temperature.
      correlation: correlation of replicas, if z is uniform.
      overlap: cosine of the angle with the reference.
      bias: b, common to all replicas.
      reference: shape (N,); 0 if there is none.

    Returns:
      The walls, and z -> weights, of norm sqrt(N).
    """
    norm, root = jnp.linalg.norm(reference), jnp.sqrt(reference.size)
    axis = reference / jnp.where(norm > 0, norm, 1.0)
    along = design @ axis
    # The square root of the correlation matrix.
    common = jnp.full((num_replicas, num_replicas), 1 / num_replicas)
    mixing = jnp.sqrt(1 - correlation) * (jnp.eye(num_replicas) - common)
    mixing += jnp.sqrt(1 + (num_replicas - 1) * correlation) * common
    mixing *= jnp.sqrt(1 - overlap**2)
    offset = overlap * root * along + label * bias

    def weights_of(z):
        weights = overlap * root * axis + mixing @ z
        return weights * (root / jnp.linalg.norm(weights, axis=-1, keepdims=True))

    return Walls(design, gram, mixing, offset, axis, along, beta), weights_of
