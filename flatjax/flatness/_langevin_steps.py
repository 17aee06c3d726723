r"""One step of Langevin chains: plain, tuned in the warm-up, or exact.

*Steps* of size :math:`\epsilon` with a constant diagonal preconditioner m carry a momentum p, of
which a step keeps the share c:

.. math::
  \delta_{t+1} &= \delta_t - \tfrac{\epsilon}{2} m \nabla U(\delta_t)
  + \tfrac{1}{2} \sqrt{\epsilon m} \, (p_t + p_{t+1}), \\
  p_{t+1} &= c \, \big(p_t - \sqrt{\epsilon m} \, \nabla U(\delta_t)\big)
  + \sqrt{(1 - c^2) (1 - f)} \, \xi_{t+1}. \tag{1}

This is the splitting BAOAB of Langevin dynamics [Leimkuhler and Matthews, 2013]. Its variance in a
parabola is exact for every c and every stable step. With c = 0 the momentum is the last noise; with
this noise twice in place of the sum, f = 0 and m = 1, that would be stochastic gradient Langevin
dynamics [Welling and Teh, 2011], whose variance is too large by the factor
:math:`1 / (1 - a / 2)`, :math:`a = \epsilon m U'' / 2`.

The batches' gradients have a variance v. In slow directions they add as much as noise of the share

.. math:: f = \frac{\epsilon m v}{4} \, \frac{1 + c}{1 - c}, \tag{2}

and as much less noise is drawn [Ahn et al., 2012].

*Momentum.* Where the data say nothing, only the spring holds a weight: at a stiffness
:math:`\gamma` in place of 1 / m. Without momentum such directions relax in
:math:`2 \kappa / \epsilon` steps, with :math:`\kappa = 1 / (m \gamma)`, which is easily
:math:`10^5`; with critical damping in :math:`\sqrt{\kappa / \epsilon}` steps. The width of the
chains shows :math:`\kappa` (it is 1 where m is the inverse Hessian), and c follows:

.. math::
  c = e^{-2 \sqrt{\epsilon / \kappa}}, \qquad
  \kappa = \big\langle \delta^2 / m \big\rangle, \tag{3}

averaged over weights and chains; and c is never so large that f is above a bound.

*Exact steps* move by one step of the leapfrog scheme, and are accepted or rejected by their change
of U and of the kinetic energy; a rejection reverses the momentum [Horowitz, 1991]. With c = 0 this
is MALA.

*The warm-up* finds :math:`\epsilon`, m, v and c. Its steps are accepted or rejected by the energies
of their own batch, so that they cannot diverge; :math:`\epsilon` is tuned for a high rate of
acceptance, higher where momentum lasts. Each step sees the gradient of two batches at one point, G
and G', whose moments are

.. math::
  \langle G G' \rangle = \langle (\partial U)^2 \rangle = \langle \partial^2 U \rangle, \qquad
  v = \tfrac{1}{2} \langle (G - G')^2 \rangle, \tag{4}

by integration by parts: the diagonal of the mean Hessian without one second derivative, whose
inverse is m.

*Temperature.* Again by integration by parts, whatever the loss,

.. math:: T = \tfrac{1}{d} \langle \delta \cdot \nabla U(\delta) \rangle = 1. \tag{5}

Steps that are too large, and noise of the gradients, show as T > 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Acceptance that the step is tuned to without momentum, and the largest mean of f, eq. (2).
TARGET_ACCEPTANCE, MOST_NOISE = 0.9, 0.1
# Momentum of many steps needs fewer rejections: at least this share of those without momentum.
FEWEST_REJECTIONS = 0.1
# Exact steps are shorter by a random factor, of which this is the largest logarithm.
SHORTEST = 3.0


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
      momentum: p, (C, d).
      rise: beta (E - E*) of the last batch at the same points, (C,).
      gradient: of U, of the last batch at the same points, (C, d).
      curvature: the diagonal of the mean Hessian, eq. (4), (d,); 1 / m after the tuning.
      variance: v, (d,).
      spread: kappa, eq. (3); 0 for plain steps.
      log_step: log epsilon.
      mean_log_step: its running mean.
    """

    delta: jax.Array
    momentum: jax.Array
    rise: jax.Array
    gradient: jax.Array
    curvature: jax.Array
    variance: jax.Array
    spread: jax.Array
    log_step: jax.Array
    mean_log_step: jax.Array


def _preconditioner(chains, target):
    """m: no weight feels less than the spring."""
    return 1 / jnp.maximum(chains.curvature, target.gamma)


def tune(target, chains, t, key, landscape, noise):
    """One step on the energy of a batch, and what it says of eqs. (3) and (4)."""
    rise, gradient = landscape(chains.delta)
    # Early steps are forgotten, which began at the solution.
    rate = 3.0 / (t + 3.0)
    update = lambda mean, x: mean + rate * (x - mean)
    curvature = update(chains.curvature, jnp.mean(gradient * chains.gradient, axis=0))
    variance = update(chains.variance, jnp.mean((gradient - chains.gradient) ** 2, axis=0) / 2)
    old = _preconditioner(chains, target)
    chains = chains._replace(curvature=curvature, variance=variance)
    m = _preconditioner(chains, target)
    # As m changes, the step keeps its ratio to the curvature: acceptance raises it too slowly.
    log_step = chains.log_step + jnp.log(jnp.mean(old / m))
    spread = update(chains.spread, jnp.mean(chains.delta**2 / m))
    chains = chains._replace(rise=rise, gradient=gradient, log_step=log_step, spread=spread)

    c, _ = _kept(chains, m)
    chains, probability = _propose_and_decide(target, chains, m, c, key, landscape, noise)
    # Large changes at first, and always some, because m changes.
    gain = jnp.maximum(3.0 / (t + 1.0) ** 0.6, 0.1)
    rejected = (1 - TARGET_ACCEPTANCE) * jnp.maximum(1 - c, FEWEST_REJECTIONS)
    log_step = chains.log_step + gain * (probability.mean() - 1 + rejected)
    mean_log_step = update(chains.mean_log_step, log_step)
    return chains._replace(log_step=log_step, mean_log_step=mean_log_step), probability.mean()


def _propose_and_decide(target, chains, m, c, key, landscape, noise):
    """An exact step by the energy of one batch, and its probabilities, (C,)."""
    squares = lambda x: jnp.sum(x**2, axis=1)
    scale = jnp.sqrt(jnp.exp(chains.log_step) * m)
    momentum = c * chains.momentum + jnp.sqrt(1 - c**2) * noise
    half = momentum - scale / 2 * chains.gradient
    proposal = chains.delta + scale * half
    rise, gradient = landscape(proposal)
    proposed = half - scale / 2 * gradient
    spring = target.gamma / 2 * (squares(chains.delta) - squares(proposal))
    log_ratio = chains.rise - rise + spring + (squares(momentum) - squares(proposed)) / 2
    probability = jnp.nan_to_num(jnp.exp(jnp.minimum(log_ratio, 0.0)), nan=0.0)
    accepted = jax.random.uniform(jax.random.fold_in(key, 1), probability.shape) < probability
    chains = chains._replace(
        delta=jnp.where(accepted[:, None], proposal, chains.delta),
        momentum=jnp.where(accepted[:, None], proposed, -momentum),
        rise=jnp.where(accepted, rise, chains.rise),
        gradient=jnp.where(accepted[:, None], gradient, chains.gradient),
    )
    return chains, probability


def frozen(chains, target):
    """The chains with the step and m that they keep."""
    m = _preconditioner(chains, target)
    noise = jnp.mean(m * chains.variance) / 4
    log_step = jnp.minimum(chains.mean_log_step, jnp.log(MOST_NOISE / noise))
    return chains._replace(curvature=1 / m, log_step=log_step)


def _temperature(chains):
    """Eq. (6) of each chain, (C,)."""
    return jnp.sum(chains.delta * chains.gradient, axis=1) / chains.delta.shape[1]


def _kept(chains, m):
    """The share c of eq. (3), and f of eq. (2), (d,)."""
    step = jnp.exp(chains.log_step)
    share = step * m * chains.variance / 4  # f without momentum
    c = jnp.exp(-2 * jnp.sqrt(step / chains.spread))
    # The largest c at which the mean of f is at its bound.
    longest = jnp.maximum(MOST_NOISE / jnp.mean(share), 1.0)
    c = jnp.minimum(c, 1 - 2 / (longest + 1))
    return c, jnp.minimum(share * (1 + c) / (1 - c), 1.0)


def move(chains, landscape, noise):
    """Eq. (1), and the energies and temperatures before it."""
    rise, gradient = landscape(chains.delta)
    chains = chains._replace(rise=rise, gradient=gradient)
    m = 1 / chains.curvature
    c, share = _kept(chains, m)
    scale = jnp.sqrt(jnp.exp(chains.log_step) * m)
    momentum = c * (chains.momentum - scale * gradient) + jnp.sqrt((1 - c**2) * (1 - share)) * noise
    delta = chains.delta - scale / 2 * (scale * gradient - chains.momentum - momentum)
    record = jnp.stack([rise, _temperature(chains)])
    return chains._replace(delta=delta, momentum=momentum), record


def move_exactly(target, chains, key, landscape, noise):
    """An exact step on all data, and the energies and temperatures after it."""
    log_step, m = chains.log_step, 1 / chains.curvature
    c, _ = _kept(chains, m)
    # Now and then a small step, for places that are much stiffer than the mean Hessian.
    shorter = SHORTEST * jax.random.uniform(jax.random.fold_in(key, 2)) ** 2
    chains = chains._replace(log_step=log_step - shorter)
    chains, probability = _propose_and_decide(target, chains, m, c, key, landscape, noise)
    chains = chains._replace(log_step=log_step)
    return chains, jnp.stack([chains.rise, _temperature(chains), probability])
