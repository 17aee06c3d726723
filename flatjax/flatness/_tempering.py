"""Replica exchange of Crank-Nicolson chains: the sampler of local entropy."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax._sampling.exchange import exchange_neighbours
from flatjax.flatness._surroundings import Landscape, Surroundings

# The rate of acceptance to which steps are tuned, and the smallest step.
TARGET_ACCEPTANCE, LEAST_STEP = 0.25, 1e-4


class Ladders(NamedTuple):
    """C chains with a configuration at each of K inverse temperatures.

    Attributes:
      noise: normal noise of which configurations are made, (C, K, n).
      energy: energies of the configurations, (C, K).
      log_step: log s of the steps, (K,).
    """

    noise: jax.Array
    energy: jax.Array
    log_step: jax.Array


class Samples(NamedTuple):
    """The record of a run of T steps.

    Attributes:
      energy: energies, (C, T, K).
      acceptance: rate at which steps were accepted, (K,).
      exchange: rate at which neighbours would exchange, (K - 1,).
      step_size: s of the steps, (K,).
    """

    energy: np.ndarray
    acceptance: np.ndarray
    exchange: np.ndarray
    step_size: np.ndarray


def make_sampler(
    landscape: Landscape, betas: np.ndarray, num_chains: int, num_steps: int, num_warmup: int
) -> Callable[[Surroundings, chex.Numeric, chex.PRNGKey], Samples]:
    """Makes a sampler of the prior times exp(-beta E), see `local_entropy`.

    If the data are one batch, steps run in one compiled scan, otherwise in a Python loop.
    """
    on_device = jnp.asarray(betas)

    def start(near):
        # The first step, of size 1, draws from the prior and is accepted.
        shape = (num_chains, len(betas))
        return Ladders(
            noise=jnp.zeros((*shape, near.num_weights)),
            energy=jnp.full(shape, jnp.inf),
            log_step=jnp.zeros(len(betas)),
        )

    def sweep(ladders, t, near, distance, key):
        key = jax.random.fold_in(key, t)
        proposal = _propose(ladders, key)
        energy = landscape.energies(near, proposal, distance)
        return _decide(ladders, proposal, energy, on_device, t, num_warmup, key)

    @functools.partial(jax.jit, static_argnames=("num_weights", "one_by_one"))
    def scan(params, batches, state, num_weights, one_by_one, distance, key):
        near = Surroundings(params, batches, state, num_weights, one_by_one)
        step = lambda ladders, t: sweep(ladders, t, near, distance, key)
        return jax.lax.scan(step, start(near), jnp.arange(num_warmup + num_steps))

    def loop(near, distance, key):
        ladders, history = start(near), []
        for t in range(num_warmup + num_steps):
            ladders, record = sweep(ladders, t, near, distance, key)
            history.append(record)
        return ladders, [np.stack(part) for part in zip(*jax.device_get(history), strict=True)]

    def sample(near, distance, key):
        ladders, history = (
            scan(*near, distance, key) if near.is_small else loop(near, distance, key)
        )
        energy, acceptance, exchange = (np.asarray(part)[num_warmup:] for part in history)
        return Samples(
            energy=energy.swapaxes(0, 1).astype(float),
            acceptance=acceptance.mean(axis=0),
            exchange=exchange.mean(axis=0),
            step_size=np.exp(np.asarray(ladders.log_step)),
        )

    return sample


@jax.jit
def _propose(ladders, key):
    """Proposes sqrt(1 - s^2) z + s xi, which keeps normal noise normal."""
    s = jnp.exp(ladders.log_step)[None, :, None]
    # One flat draw: XLA takes ten times longer to compile draws with several axes.
    xi = jax.random.normal(jax.random.fold_in(key, 0), (ladders.noise.size,))
    return jnp.sqrt(1 - s**2) * ladders.noise + s * xi.reshape(ladders.noise.shape)


@jax.jit
def _decide(ladders, proposal, energy, betas, t, num_warmup, key):
    """Accepts proposals, exchanges configurations, tunes steps, makes records."""
    uniform = jax.random.uniform(jax.random.fold_in(key, 1), (2 * energy.size,))
    uniform = uniform.reshape(2, *energy.shape)
    ladders, acceptance = _accept(ladders, proposal, energy, betas, uniform[0])
    noise, energy, rate = exchange_neighbours(
        ladders.noise, ladders.energy, betas, t % 2, uniform[1, :, :-1]
    )
    # Step sizes change much at first, and not at all once samples are recorded.
    gain = jnp.where(t < num_warmup, 3.0 / (t + 1.0) ** 0.6, 0.0)
    log_step = ladders.log_step + gain * (acceptance - TARGET_ACCEPTANCE)
    log_step = jnp.clip(log_step, np.log(LEAST_STEP), 0.0)
    return Ladders(noise, energy, log_step), (energy, acceptance, rate)


def _accept(ladders, proposal, energy, betas, uniform):
    """Makes a Metropolis decision at each beta; also returns the mean probabilities."""
    energy = jnp.where(jnp.isnan(energy), jnp.inf, energy)
    # The difference of two infinite energies is NaN: accepted, like everything at beta = 0.
    log_ratio = jnp.nan_to_num(-betas[None] * (energy - ladders.energy), nan=0.0)
    probability = jnp.exp(jnp.minimum(log_ratio, 0.0))
    accepted = uniform < probability
    ladders = ladders._replace(
        noise=jnp.where(accepted[..., None], proposal, ladders.noise),
        energy=jnp.where(accepted, energy, ladders.energy),
    )
    return ladders, probability.mean(axis=0)
