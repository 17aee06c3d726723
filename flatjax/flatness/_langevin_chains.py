r"""Langevin chains on minibatches, the sampler of `learning_coefficient`.

Chains sample :math:`e^{-U}`. The energy U contains the data's energy E and a spring to the solution
:math:`w^*`,

.. math::
  U(\delta) = \beta \, \big(E(w^* + \delta) - E(w^*)\big) + \tfrac{\gamma}{2} \lVert\delta\rVert^2.
  \tag{1}

*Control variates* [Baker et al., 2019]. One of K batches replaces all data. It is drawn at random
and shared by the chains. Its values at :math:`w^*` are replaced by those of all data:

.. math::
  E(w^* + \delta) - E(w^*) \approx K \, \big(E_b(w^* + \delta) - E_b(w^*) - g_b \delta\big)
  + g \delta, \qquad g_b = \nabla E_b(w^*), \; g = \nabla E(w^*), \tag{2}

This estimate is unbiased, and so is its gradient. It removes the noise of the gradient at
:math:`w^*`, which all chains would share. The values at :math:`w^*` are computed once for C chains.

*Steps*: a warm-up, then a run; `_langevin_steps` defines the steps. If one batch holds all data,
all steps are accepted or rejected, and the chains are exact.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax import _cpu
from flatjax.flatness import _langevin_steps
from flatjax.flatness._langevin_steps import Chains, Target
from flatjax.flatness._minibatches import Minibatches, Solution

# Share of the warm-up that tunes the steps; in the rest the chains settle.
TUNED = 0.6


class Run(NamedTuple):
    """The record of T steps of C chains.

    Attributes:
      energy: beta (E - E*), by eq. (2), (C, T).
      temperature: the mean of eq. (5) of `_langevin_steps` over a chain, (C,).
      step_size: epsilon.
      acceptance: rate at which steps were accepted: in the run if it is exact, else in the second
        half of the tuning; nan for a given step size.
      num_gradients: number of gradients of a network on a batch.
    """

    energy: np.ndarray
    temperature: np.ndarray
    step_size: float
    acceptance: float
    num_gradients: int


class LangevinChains:
    """Langevin chains; their programs serve all solutions of the same shapes."""

    def __init__(self, minibatches: Minibatches, num_chains: int):
        self._minibatches, self._num_chains = minibatches, num_chains
        self._scan = jax.jit(self._scanned, static_argnames=("kind", "one_by_one"))
        self._one_step = jax.jit(self._step, static_argnames=("kind", "one_by_one"))

    def run(
        self,
        near: Solution,
        key: chex.PRNGKey,
        *,
        beta: float,
        gamma: float,
        num_steps: int,
        num_warmup: int,
        step_size: float | None,
    ) -> Run:
        """Tunes the steps unless `step_size` is given; settles and records chains."""
        number = lambda x: jnp.asarray(x, near.slope.dtype)
        num_tuned = 0 if step_size is not None else int(TUNED * num_warmup)
        target = Target(number(beta), number(gamma), number(near.num_batches), near.slope)
        chains = self._start(target, step_size)
        batches = _stream(near, key, num_warmup + num_steps)
        acceptance = np.full(1, np.nan)
        if num_tuned:
            chains, record = self._advance("tune", near, target, chains, batches, num_tuned, key)
            acceptance = np.asarray(record, float)
            chains = _langevin_steps.frozen(chains, target)
        kind = "exact" if near.num_batches == 1 else "move"
        length = num_warmup - num_tuned + num_steps
        _, record = self._advance(kind, near, target, chains, batches, length, key)
        record = np.asarray(record, float)[-num_steps:].transpose(1, 2, 0)
        if kind == "exact":
            acceptance = record[2]
        return Run(
            energy=record[0],
            temperature=record[1].mean(axis=1),
            step_size=float(jnp.exp(chains.log_step)),
            acceptance=float(acceptance.reshape(-1)[acceptance.size // 2 :].mean()),
            num_gradients=(self._num_chains + 1) * (num_warmup + num_steps)
            + self._num_chains * num_tuned
            + near.num_batches,
        )

    def _start(self, target, step_size):
        slope = target.beta * target.slope
        zeros = jnp.zeros((self._num_chains, slope.size), slope.dtype)
        log_step = jnp.log(jnp.asarray(1.0 if step_size is None else step_size, slope.dtype))
        # The first step has the width of the spring. A given step is used as it is.
        scale = target.gamma if step_size is None else 1.0
        return Chains(
            delta=zeros,
            momentum=zeros,
            rise=zeros[:, 0],
            gradient=zeros + slope,
            curvature=jnp.full_like(slope, scale),
            variance=jnp.zeros_like(slope),
            spread=jnp.zeros_like(log_step),
            log_step=log_step,
            mean_log_step=log_step,
        )

    def _advance(self, kind, near, target, chains, batches, length, key):
        """Makes some steps; returns the chains and the record of each step."""
        key = jax.random.fold_in(key, 1 if kind == "tune" else 2)
        options = {"kind": kind, "one_by_one": near.one_by_one}
        if near.stacked is not None:
            order = jnp.array([next(batches) for _ in range(length)])
            given = (near.params, near.state, near.stacked, order)
            return self._scan(target, chains, key, *given, **options)
        history = []
        for t in range(length):
            given = (near.params, near.state, next(batches))
            chains, record = self._one_step(target, chains, t, key, *given, **options)
            history.append(record)
        return chains, np.stack(jax.device_get(history))

    def _scanned(self, target, chains, key, params, state, stacked, order, **options):
        def step(chains, at):
            t, index = at
            batch = jax.tree.map(lambda leaf: leaf[index], stacked)
            return self._step(target, chains, t, key, params, state, batch, **options)

        return jax.lax.scan(step, chains, (jnp.arange(order.size), order))

    def _step(self, target, chains, t, key, params, state, batch, *, kind, one_by_one):
        near = self._minibatches.at_solution(params, batch, state)

        def landscape(delta):
            """Computes energies beta (E - E*) and gradients of U, by eq. (2)."""
            energy, slope = self._minibatches.at(delta, params, batch, state, one_by_one)
            rise = energy - near.energy - delta @ near.slope
            rise = target.beta * (target.num_batches * rise + delta @ target.slope)
            slope = target.num_batches * (slope - near.slope) + target.slope
            return rise, target.beta * slope + target.gamma * delta  # of eq. (1)

        key = jax.random.fold_in(key, t)
        # One flat draw: XLA compiles it much faster than a draw of two axes.
        noise = _cpu.normal(key, chains.delta.size, chains.delta.dtype).reshape(chains.delta.shape)
        if kind == "tune":
            return _langevin_steps.tune(target, chains, t, key, landscape, noise)
        if kind == "exact":
            return _langevin_steps.move_exactly(target, chains, key, landscape, noise)
        return _langevin_steps.move(chains, landscape, noise)


def _stream(near: Solution, key: chex.PRNGKey, length: int) -> Iterator[Any]:
    """Draws a sequence's batches (or indices) at random; else in their order."""
    if near.data.in_memory:
        drawn = jax.random.randint(jax.random.fold_in(key, 0), (length,), 0, near.num_batches)
        indices = np.asarray(drawn).tolist()
        if near.stacked is not None:
            yield from indices
        batches = list(near.data)
        yield from (batches[index] for index in indices)
    while True:
        yield from near.data
