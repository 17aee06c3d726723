"""Exact dynamics of committees among their errors, with exchange of temperatures."""

import functools

import chex
import jax
import jax.numpy as jnp

from flatjax._sampling.drawing import draw
from flatjax._sampling.exchange import exchange_neighbours
from flatjax._sampling.refraction import ROUNDING, Walls, refraction_step

NEVER = 1e6  # offset of fields that never change sign


@functools.partial(jax.jit, static_argnames=("num_chains", "num_steps", "num_warmup"))
def sample_energies(
    key: chex.PRNGKey,
    x: jax.Array,
    y: jax.Array,
    reference: jax.Array,
    overlap: jax.Array,
    betas: jax.Array,
    duration: jax.Array,
    *,
    num_chains: int,
    num_steps: int,
    num_warmup: int,
) -> tuple[jax.Array, jax.Array]:
    """Samples numbers of errors at an overlap, at B inverse temperatures.

    In a step each unit makes a flight while the others rest, see `flatjax._sampling.refraction`.
    The walls of a flight are the fields of the patterns for which the votes of the other units are
    balanced. Then every second pair of neighbouring betas may exchange its weights.

    Args:
      key: PRNG key.
      x: patterns, shape (P, N).
      y: labels, shape (P,).
      reference: shape (K, N).
      overlap: p.
      betas: shape (B,).
      duration: mean duration of a flight; without walls it moves by as many radians.
      num_chains: C.
      num_steps: T.
      num_warmup: steps before the recorded ones.

    Returns:
      Energies (C, T, B), and the rates at which neighbours would exchange (B - 1,).
    """
    num_units, num_features = reference.shape
    root = jnp.sqrt(num_features)
    design = y[:, None] * x / root
    gram = design @ design.T
    axes = reference / jnp.linalg.norm(reference, axis=-1, keepdims=True)
    along = axes @ design.T
    offset = overlap * root * along
    across = jnp.sqrt(1 - overlap**2)
    is_right = lambda z, offset: offset + across * (z @ design.T) >= -ROUNDING

    def sweep(z, beta, key):
        """Makes one flight of each unit z (K, N), and counts the errors."""

        def fly(k, state):
            z, right = state
            balanced = right.sum(0) - right[k] == num_units // 2
            pivotal = jnp.where(balanced, offset[k], NEVER)
            mixing = across * jnp.ones((1, 1))
            walls = Walls(design, gram, mixing, pivotal, axes[k], along[k], beta)
            step = refraction_step(walls, duration)
            z_k = step(z[k, None], jax.random.fold_in(key, k))[0][0]
            return z.at[k].set(z_k), right.at[k].set(is_right(z_k, offset[k]))

        z, right = jax.lax.fori_loop(0, num_units, fly, (z, is_right(z, offset)))
        return z, jnp.sum(right.sum(0) <= num_units // 2)

    sweeps = jax.vmap(jax.vmap(sweep), (0, None, 0))

    def step(z, t):
        fly_key, exchange_key = jax.random.split(jax.random.fold_in(key, t))
        shape = (num_chains, len(betas))
        z, energy = sweeps(z, betas, jax.random.split(fly_key, shape))
        uniform = jax.random.uniform(exchange_key, (num_chains, len(betas) - 1))
        z, energy, rate = exchange_neighbours(z, energy.astype(z.dtype), betas, t % 2, uniform)
        return z, (energy, rate)

    z, _ = draw(key, (num_chains * len(betas) * num_units, num_features), 0)
    z = z.reshape(num_chains, len(betas), num_units, num_features)
    z -= jnp.einsum("...kn,kn->...k", z, axes)[..., None] * axes
    z *= root / jnp.linalg.norm(z, axis=-1, keepdims=True)
    _, (energy, rate) = jax.lax.scan(step, z, jnp.arange(num_warmup + num_steps))
    return energy[num_warmup:].swapaxes(0, 1), rate[num_warmup:].mean(0)
