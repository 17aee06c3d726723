"""Records of Markov chains in equilibrium, and their averages."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from flatjax._sampling.diagnostics import split_r_hat


class Chains(NamedTuple):
    """T samples of y replicas by each of C chains; S is the shape of the parameters.

    Attributes:
      weights: the last weights, shape ``(*S, C, y, N)``.
      mean: mean over time and the replicas of each chain, shape ``(*S, C, N)``.
      overlaps: mean over time of w_a . w_b / N, shape ``(*S, C, y, y)``.
      signal: m of the replicas' mean, at each time, shape ``(*S, C, T)``.
      energy: errors or loss, per pattern and replica, at each time, shape ``(*S, C, T)``.
      acceptance: fraction of moves that were accepted, shape ``(*S, C)``.
    """

    weights: jax.Array
    mean: jax.Array
    overlaps: jax.Array
    signal: jax.Array
    energy: jax.Array
    acceptance: jax.Array


class Equilibrium(NamedTuple):
    """Thermal averages on one sample of the mixture, shape S each.

    Attributes:
      m: overlap with the signal.
      q: squared norm over N.
      q1: overlap of two replicas; q0 if there is only one replica.
      q0: overlap of two copies, without bias.
      energy: errors or loss, per pattern and replica.
      r_hat: split R-hat of m or of the energy, whichever is larger [Vehtari et al., 2021, eq. 4].
        It is 1 in equilibrium, suspicious above about 1.05, and inf if the chains are frozen at
        different values.
    """

    m: jax.Array
    q: jax.Array
    q1: jax.Array
    q0: jax.Array
    energy: jax.Array
    r_hat: jax.Array


def equilibrium(chains: Chains) -> Equilibrium:
    """Averages over the samples of several chains, without bias.

    Args:
      chains: two or more for each measure.

    Returns:
      The averages.

    Raises:
      ValueError: there is only one chain.

    Examples:
      >>> import jax
      >>> from flatjax.gaussian_mixture import sample, sampling
      >>> patterns = sample(jax.random.key(0), 50, alpha=1.0, delta=1.0)
      >>> chains = sampling.sample_errors(jax.random.key(1), patterns, beta=1.0)
      >>> found = sampling.equilibrium(chains)
      >>> bool(found.q0 < found.q) and bool(found.r_hat < 1.1)
      True

    See Also:
      `sample_loss` (chains to read), `sample_errors` (chains to read).
    """
    num_chains = chains.mean.shape[-2]
    if num_chains < 2:
        raise ValueError(f"chains must be two or more of each measure, got {num_chains}.")
    return _equilibrium(chains)


@jax.jit
def _equilibrium(chains):
    num_chains, num_features = chains.mean.shape[-2:]
    y = chains.overlaps.shape[-1]
    average = lambda trace: jnp.mean(trace, axis=(-2, -1))
    same = jnp.trace(chains.overlaps, axis1=-2, axis2=-1)
    q = jnp.mean(same, axis=-1) / y
    # Sum over pairs of chains: the square of the sum minus the sum of the squares.
    pairs = jnp.sum(chains.mean.sum(-2) ** 2, axis=-1) - jnp.sum(chains.mean**2, axis=(-2, -1))
    q0 = pairs / (num_chains * (num_chains - 1) * num_features)
    q1 = q0
    if y > 1:
        q1 = jnp.mean(chains.overlaps.sum((-2, -1)) - same, axis=-1) / (y * (y - 1))
    chains_first = lambda trace: jnp.moveaxis(trace, (-2, -1), (0, 1))
    r_hat = jnp.maximum(*(split_r_hat(chains_first(t)) for t in (chains.signal, chains.energy)))
    return Equilibrium(average(chains.signal), q, q1, q0, average(chains.energy), r_hat)


def average_over_time(
    step: Callable[[Any, chex.PRNGKey], tuple[Any, jax.Array]],
    look: Callable[[Any], tuple[jax.Array, jax.Array]],
    state: Any,
    key: chex.PRNGKey,
    num_samples: int,
    burn_in: int,
    signal: jax.Array,
) -> Chains:
    """Runs one chain and averages over it.

    Args:
      step: (state, key) -> state, acceptance.
      look: state -> weights of shape (y, N), energy.
      state: where the chain starts.
      key: PRNG key.
      num_samples: T.
      burn_in: steps before the first sample.
      signal: v, shape (N,).

    Returns:
      The averages, without an axis of chains.
    """
    num_features = signal.size

    def advance(carry, at):
        index, key = at
        state, mean, overlaps = carry
        state, accepted = step(state, key)
        weights, energy = look(state)
        center, kept = weights.mean(0), index >= burn_in
        mean += kept * center
        overlaps += kept * (weights @ weights.T / num_features)
        return (state, mean, overlaps), (center @ signal / num_features, energy, accepted)

    y = jax.eval_shape(look, state)[0].shape[0]
    start = (state, jnp.zeros(num_features), jnp.zeros((y, y)))
    # Burn-in is in the same loop: compiling a second loop may take longer than the run.
    num = burn_in + num_samples
    at = (jnp.arange(num), jax.random.split(key, num))
    (state, mean, overlaps), traces = jax.lax.scan(advance, start, at)
    signals, energy, accepted = (trace[burn_in:] for trace in traces)
    return Chains(
        weights=look(state)[0],
        mean=mean / num_samples,
        overlaps=overlaps / num_samples,
        signal=signals,
        energy=energy,
        acceptance=accepted.mean(),
    )
