r"""Langevin chains on minibatches around a solution: the sampler of `learning_coefficient`.

Chains sample :math:`e^{-U}`, the data's energy and a spring to the solution :math:`w^*`,

.. math::
  U(\delta) = \beta \, \big(E(w^* + \delta) - E(w^*)\big) + \tfrac{\gamma}{2} \lVert\delta\rVert^2.

*Control variates* [Baker et al., 2019]. One of K batches, drawn at random and common to the
chains, stands for all. What it says at :math:`w^*` is replaced by what all data say there:

.. math::
  E(w^* + \delta) - E(w^*) \approx K \, \big(E_b(w^* + \delta) - E_b(w^*) - g_b \delta\big)
  + g \delta, \qquad g_b = \nabla E_b(w^*), \; g = \nabla E(w^*), \tag{1}

which is unbiased, as is its gradient. The noise of the gradient at :math:`w^*`, which all chains
would share, is gone; the values at :math:`w^*` are computed once for C chains.

*Steps* of size :math:`\epsilon` with a constant diagonal preconditioner m,

.. math::
  \delta_{t+1} = \delta_t - \tfrac{\epsilon}{2} m \nabla U(\delta_t)
  + \tfrac{1}{2} \sqrt{\epsilon m (1 - f)} \, (\xi_t + \xi_{t+1}). \tag{2}

With :math:`\xi_{t+1}` twice in place of the sum, f = 0 and m = 1 this would be stochastic gradient
Langevin dynamics [Welling and Teh, 2011], whose variance in a parabola is too large by the factor
:math:`1 / (1 - a / 2)`, :math:`a = \epsilon m U'' / 2`. The mean of two successive noises makes it
exact there, and of second order elsewhere [Leimkuhler and Matthews, 2013], at the same cost.

The batches' gradients have a variance v, which adds :math:`(\epsilon m / 2)^2 v` to the variance
of a step. As much less noise is drawn [Ahn et al., 2012]:

.. math:: f = \epsilon m v / 4. \tag{3}

*Warm-up* finds :math:`\epsilon`, m and v. Its steps are (2) with ordinary noise, accepted or
rejected by the energies of their own batch (MALA), so that they cannot diverge;
:math:`\epsilon` is tuned for a high rate of acceptance. Each step sees the gradient of two batches
at one point, G and G', whose moments are

.. math::
  \langle G G' \rangle = \langle (\partial U)^2 \rangle = \langle \partial^2 U \rangle, \qquad
  v = \tfrac{1}{2} \langle (G - G')^2 \rangle, \tag{4}

by integration by parts: the diagonal of the mean Hessian without one second derivative, whose
inverse is m.

*One batch* holds all data: then all steps are accepted or rejected as in the warm-up, and chains
are exact.

*Temperature.* Again by integration by parts, whatever the loss,

.. math:: T = \tfrac{1}{d} \langle \delta \cdot \nabla U(\delta) \rangle = 1. \tag{5}

Steps that are too large, and noise of the gradients, show as T > 1.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax import _cpu
from flatjax.flatness._minibatches import Minibatches, Solution

# Acceptance that the step is tuned to, and the largest mean of f, eq. (3).
TARGET_ACCEPTANCE, MOST_NOISE = 0.9, 0.1
# Exact steps are shorter by a random factor, of which this is the largest logarithm.
SHORTEST = 3.0
# Share of the warm-up in which steps are tuned; in the rest chains settle.
TUNED = 0.6


class Target(NamedTuple):
    """The constants of U.

    Attributes:
      beta: inverse temperature, per unit of E.
      gamma: strength of the spring.
      num_batches: K.
      slope: g, (d,).
    """

    beta: jax.Array
    gamma: jax.Array
    num_batches: jax.Array
    slope: jax.Array


class Chains(NamedTuple):
    """C chains, and what the warm-up knows so far.

    Attributes:
      delta: their displacements from the solution, (C, d).
      noise: xi, (C, d).
      rise: beta (E - E*) of the last batch at the same points, (C,).
      gradient: of U, of the last batch at the same points, (C, d).
      curvature: the diagonal of the mean Hessian, eq. (4), (d,); 1 / m after the tuning.
      variance: v, (d,); f after the tuning.
      log_step: log epsilon.
      mean_log_step: its running mean.
    """

    delta: jax.Array
    noise: jax.Array
    rise: jax.Array
    gradient: jax.Array
    curvature: jax.Array
    variance: jax.Array
    log_step: jax.Array
    mean_log_step: jax.Array


class Run(NamedTuple):
    """What is kept of T steps of C chains.

    Attributes:
      energy: beta (E - E*), by eq. (1), (C, T).
      temperature: the mean of eq. (5) over a chain, (C,).
      step_size: epsilon.
      acceptance: rate at which steps were accepted: in the run, where it is exact, or in the second
        half of the tuning; nan for a given step size.
      num_gradients: of a network on a batch.
    """

    energy: np.ndarray
    temperature: np.ndarray
    step_size: float
    acceptance: float
    num_gradients: int


class LangevinChains:
    """Langevin chains, by programs that serve all solutions of the same shapes."""

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
        """Tunes the steps unless `step_size` is given, lets chains settle, and records them."""
        number = lambda x: jnp.asarray(x, near.slope.dtype)
        target = Target(number(beta), number(gamma), number(near.num_batches), near.slope)
        num_tuned = 0 if step_size is not None else int(TUNED * num_warmup)
        chains = self._start(target, step_size)
        batches = _stream(near, key, num_warmup + num_steps)
        acceptance = np.full(1, np.nan)
        if num_tuned:
            chains, record = self._advance("tune", near, target, chains, batches, num_tuned, key)
            acceptance = np.asarray(record, float)
            chains = _frozen(chains, target)
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
        # A first step as long as the spring is wide; a given one is of the weights as they are.
        scale = target.gamma if step_size is None else 1.0
        return Chains(
            delta=zeros,
            noise=zeros,
            rise=zeros[:, 0],
            gradient=zeros + slope,
            curvature=jnp.full_like(slope, scale),
            variance=jnp.zeros_like(slope),
            log_step=log_step,
            mean_log_step=log_step,
        )

    def _advance(self, kind, near, target, chains, batches, length, key):
        """The chains after some steps, and what each step recorded."""
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
            """Energies beta (E - E*) and gradients of U, by eq. (1)."""
            energy, slope = self._minibatches.at(delta, params, batch, state, one_by_one)
            rise = energy - near.energy - delta @ near.slope
            rise = target.beta * (target.num_batches * rise + delta @ target.slope)
            slope = target.num_batches * (slope - near.slope) + target.slope
            return rise, target.beta * slope + target.gamma * delta

        key = jax.random.fold_in(key, t)
        # One flat draw, which XLA compiles much faster than one of two axes.
        noise = _cpu.normal(key, chains.delta.size, chains.delta.dtype).reshape(chains.delta.shape)
        if kind == "tune":
            return _tune(target, chains, t, key, landscape, noise)
        if kind == "exact":
            return _move_exactly(target, chains, key, landscape, noise)
        return _move(chains, landscape, noise)


def _stream(near: Solution, key: chex.PRNGKey, length: int) -> Iterator[Any]:
    """Batches drawn at random from a sequence (their indices, if stacked), else as they come."""
    if near.data.in_memory:
        drawn = jax.random.randint(jax.random.fold_in(key, 0), (length,), 0, near.num_batches)
        indices = np.asarray(drawn).tolist()
        if near.stacked is not None:
            yield from indices
        batches = list(near.data)
        yield from (batches[index] for index in indices)
    while True:
        yield from near.data


def _preconditioner(chains, target):
    """m: no weight feels less than the spring."""
    return 1 / jnp.maximum(chains.curvature, target.gamma)


def _tune(target, chains, t, key, landscape, noise):
    """One step of MALA on the energy of a batch, and what it says of eq. (4)."""
    rise, gradient = landscape(chains.delta)
    # Early steps are forgotten, which began at the solution.
    rate = 3.0 / (t + 3.0)
    update = lambda mean, x: mean + rate * (x - mean)
    curvature = update(chains.curvature, jnp.mean(gradient * chains.gradient, axis=0))
    variance = update(chains.variance, jnp.mean((gradient - chains.gradient) ** 2, axis=0) / 2)
    old = _preconditioner(chains, target)
    chains = chains._replace(curvature=curvature, variance=variance)
    # As m changes, the step keeps its ratio to the curvature: acceptance raises it too slowly.
    stiffness = jnp.mean(old / _preconditioner(chains, target))
    chains = chains._replace(log_step=chains.log_step + jnp.log(stiffness))

    chains = chains._replace(rise=rise, gradient=gradient)
    m = _preconditioner(chains, target)
    chains, probability = _propose_and_decide(target, chains, m, key, landscape, noise)
    # Large changes at first, and always some, because m changes.
    gain = jnp.maximum(3.0 / (t + 1.0) ** 0.6, 0.1)
    log_step = chains.log_step + gain * (probability.mean() - TARGET_ACCEPTANCE)
    mean_log_step = update(chains.mean_log_step, log_step)
    return chains._replace(log_step=log_step, mean_log_step=mean_log_step), probability.mean()


def _propose_and_decide(target, chains, m, key, landscape, noise):
    """A step of MALA by the energy of one batch, and its probabilities, (C,)."""
    squares = lambda x: jnp.sum(x**2, axis=1)
    scale = jnp.exp(chains.log_step) * m
    proposal = chains.delta - scale / 2 * chains.gradient + jnp.sqrt(scale) * noise
    rise, gradient = landscape(proposal)
    back = (chains.delta - proposal + scale / 2 * gradient) / jnp.sqrt(scale)
    spring = target.gamma / 2 * (squares(chains.delta) - squares(proposal))
    log_ratio = chains.rise - rise + spring + (squares(noise) - squares(back)) / 2
    probability = jnp.nan_to_num(jnp.exp(jnp.minimum(log_ratio, 0.0)), nan=0.0)
    accepted = jax.random.uniform(jax.random.fold_in(key, 1), probability.shape) < probability
    chains = chains._replace(
        delta=jnp.where(accepted[:, None], proposal, chains.delta),
        rise=jnp.where(accepted, rise, chains.rise),
        gradient=jnp.where(accepted[:, None], gradient, chains.gradient),
    )
    return chains, probability


def _frozen(chains, target):
    """The chains with the step, m and f that they keep; `variance` becomes f."""
    m = _preconditioner(chains, target)
    noise = jnp.mean(m * chains.variance) / 4
    log_step = jnp.minimum(chains.mean_log_step, jnp.log(MOST_NOISE / noise))
    share = jnp.minimum(jnp.exp(log_step) * m * chains.variance / 4, 1.0)
    return chains._replace(curvature=1 / m, variance=share, log_step=log_step)


def _temperature(chains):
    """Eq. (5) of each chain, (C,)."""
    return jnp.sum(chains.delta * chains.gradient, axis=1) / chains.delta.shape[1]


def _move(chains, landscape, noise):
    """Eq. (2), and the energies and temperatures before it."""
    rise, gradient = landscape(chains.delta)
    chains = chains._replace(rise=rise, gradient=gradient)
    scale = jnp.exp(chains.log_step) / chains.curvature
    width = jnp.sqrt(scale * (1 - chains.variance)) / 2
    delta = chains.delta - scale / 2 * gradient + width * (chains.noise + noise)
    record = jnp.stack([rise, _temperature(chains)])
    return chains._replace(delta=delta, noise=noise), record


def _move_exactly(target, chains, key, landscape, noise):
    """A step of MALA on all data, and the energies and temperatures after it."""
    # Now and then a small step, for places that are much stiffer than the mean Hessian.
    log_step = chains.log_step
    shorter = SHORTEST * jax.random.uniform(jax.random.fold_in(key, 2)) ** 2
    chains, m = chains._replace(log_step=log_step - shorter), 1 / chains.curvature
    chains, probability = _propose_and_decide(target, chains, m, key, landscape, noise)
    chains = chains._replace(log_step=log_step)
    return chains, jnp.stack([chains.rise, _temperature(chains), probability])
