"""Monte Carlo of a loss and a ridge: replicas coupled to their center."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax import _checks
from flatjax._sampling.drawing import draw
from flatjax._sampling.hamiltonian import hamiltonian_start, hamiltonian_step
from flatjax.gaussian_mixture._chains import Chains, average_over_time
from flatjax.gaussian_mixture._checks import check_mixture, check_sizes
from flatjax.gaussian_mixture._mixture import Sample
from flatjax.gaussian_mixture.losses import Loss


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
    r"""Samples replicas from :math:`e^{-\beta E}` by Hamiltonian Monte Carlo.

    .. math:: E = \sum_a \Big[\sum_\mu l(\sigma^\mu h_a^\mu)
        + \frac{\lambda}{2} \lVert w_a \rVert^2
        + \frac{\gamma}{2} \lVert w_a - \bar w \rVert^2\Big]

    Args:
      key: PRNG key.
      patterns: the sample of the mixture.
      loss: a loss of `flatjax.gaussian_mixture.losses`; its derivative is used.
      beta: inverse temperature.
      lam: ridge.
      gamma: coupling of the replicas to their center.
      num_replicas: y.
      num_chains: C.
      num_samples: T.
      burn_in: first samples of each chain, which are discarded. They adapt its step size to an
        acceptance of 0.8.
      num_steps: leapfrog steps for a sample.

    Returns:
      The chains. Their energy is the mean loss of a pattern.

    Raises:
      ValueError: a parameter is out of its range.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flatjax.gaussian_mixture import losses, sample, sampling
      >>> patterns = sample(jax.random.key(0), 50, alpha=1.0, delta=1.0)
      >>> chains = sampling.sample_loss(
      ...     jax.random.key(1), patterns, losses.logistic(), beta=1.0, lam=1.0, num_replicas=3
      ... )
      >>> chains.overlaps.shape, bool(jnp.all(chains.acceptance > 0.5))
      ((2, 3, 3), True)

    See Also:
      `equilibrium` (reads the chains), `flatjax.gaussian_mixture.replicated` (the theory).
    """
    check_sizes(num_replicas, num_chains, num_samples, burn_in)
    _checks.check_count("num_steps", num_steps)
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
