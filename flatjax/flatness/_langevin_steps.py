r"""One step of Langevin chains: plain, tuned in the warm-up, or exact.

*Plain steps.* Let :math:`\epsilon` be the step size, m a constant diagonal preconditioner and p a
momentum, of which each step keeps the share c. With normal noise :math:`\xi` a step is

.. math::
  :nowrap:

  \begin{align*}
  \delta_{t+1} &= \delta_t - \tfrac{\epsilon}{2} m \nabla U(\delta_t)
  + \tfrac{1}{2} \sqrt{\epsilon m} \, (p_t + p_{t+1}), \\
  p_{t+1} &= c \, \big(p_t - \sqrt{\epsilon m} \, \nabla U(\delta_t)\big)
  + \sqrt{(1 - c^2) (1 - f)} \, \xi_{t+1}. \tag{1}
  \end{align*}

This is the splitting BAOAB of Langevin dynamics [Leimkuhler and Matthews, 2013]. In a parabola its
variance is exact for every c and every stable step. With c = 0 the momentum is the previous noise.
Stochastic gradient Langevin dynamics [Welling and Teh, 2011] is similar: it uses this noise twice
instead of the sum, f = 0 and m = 1. Its variance is too large by the factor
:math:`1 / (1 - a / 2)`, :math:`a = \epsilon m U'' / 2`.

*Noise of the batches.* The batches' gradients have a variance v. In slow directions this adds as
much noise as the share

.. math:: f = \frac{\epsilon m v}{4} \, \frac{1 + c}{1 - c}, \tag{2}

of the noise :math:`\xi`, which is reduced by this share [Ahn et al., 2012].

*Momentum.* If the data do not depend on a weight, only the spring holds it, with a stiffness
:math:`\gamma` instead of 1 / m. Without momentum such directions relax in
:math:`2 \kappa / \epsilon` steps, with :math:`\kappa = 1 / (m \gamma)`, which is often
:math:`10^5`. With critical damping they relax in :math:`\sqrt{\kappa / \epsilon}` steps. The width
of the chains gives :math:`\kappa` (1 if m is the inverse Hessian), and c follows:

.. math::
  c = e^{-2 \sqrt{\epsilon / \kappa}}, \qquad
  \kappa = \big\langle \delta^2 / m \big\rangle, \tag{3}

where the average is over weights and chains. In addition, c is limited so that f is below a bound.

*Exact steps* make one step of the leapfrog scheme. They are accepted or rejected by their change of
U and of the kinetic energy; a rejection reverses the momentum [Horowitz, 1991]. With c = 0 this is
MALA, the Metropolis-adjusted Langevin algorithm.

*The warm-up* finds :math:`\epsilon`, m, v and c. Its steps are accepted or rejected by the energies
of their own batch, so that they cannot diverge. It tunes :math:`\epsilon` for a high rate of
acceptance, which is higher if momentum lasts longer. Each step computes the gradients G and G' of
two batches at one point. Their moments are

.. math::
  \langle G G' \rangle = \langle (\partial U)^2 \rangle = \langle \partial^2 U \rangle, \qquad
  v = \tfrac{1}{2} \langle (G - G')^2 \rangle, \tag{4}

by integration by parts. The first is the diagonal of the mean Hessian, without second derivatives;
its inverse is m.

*Temperature.* Integration by parts also shows for every loss

.. math:: T = \tfrac{1}{d} \langle \delta \cdot \nabla U(\delta) \rangle = 1. \tag{5}

If steps are too large, or if the gradients have noise, T > 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Acceptance to which the step is tuned without momentum, and the largest mean of f, eq. (2).
TARGET_ACCEPTANCE, MOST_NOISE = 0.9, 0.1
# Long momentum needs fewer rejections: at least this share of the rejections without momentum.
FEWEST_REJECTIONS = 0.1
# Exact steps are shorter by a random factor; this is its largest logarithm.
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
    """C chains and the quantities that the warm-up estimates.

    Attributes:
      delta: displacements of the chains from the solution, (C, d).
      momentum: p, (C, d).
      rise: beta (E - E*) of the last batch at the same points, (C,).
      gradient: gradient of U for the last batch at the same points, (C, d).
      curvature: the diagonal of the mean Hessian, eq. (4), (d,); 1 / m after the tuning.
      variance: v, (d,).
      spread: kappa, eq. (3); 0 for plain steps.
      log_step: log epsilon.
      mean_log_step: running mean of log epsilon.
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
    """Computes m: every weight feels at least the spring."""
    return 1 / jnp.maximum(chains.curvature, target.gamma)


def tune(target, chains, t, key, landscape, noise):
    """Makes one step on a batch's energy, and updates eqs. (3) and (4)."""
    rise, gradient = landscape(chains.delta)
    # The estimates forget early steps, because these began at the solution.
    rate = 3.0 / (t + 3.0)
    update = lambda mean, x: mean + rate * (x - mean)
    curvature = update(chains.curvature, jnp.mean(gradient * chains.gradient, axis=0))
    variance = update(chains.variance, jnp.mean((gradient - chains.gradient) ** 2, axis=0) / 2)
    old = _preconditioner(chains, target)
    chains = chains._replace(curvature=curvature, variance=variance)
    m = _preconditioner(chains, target)
    # When m changes, the step keeps its ratio to the curvature: acceptance raises it too slowly.
    log_step = chains.log_step + jnp.log(jnp.mean(old / m))
    spread = update(chains.spread, jnp.mean(chains.delta**2 / m))
    chains = chains._replace(rise=rise, gradient=gradient, log_step=log_step, spread=spread)

    c, _ = _kept(chains, m)
    chains, probability = _propose_and_decide(target, chains, m, c, key, landscape, noise)
    # Changes are large at first, and never vanish, because m changes.
    gain = jnp.maximum(3.0 / (t + 1.0) ** 0.6, 0.1)
    rejected = (1 - TARGET_ACCEPTANCE) * jnp.maximum(1 - c, FEWEST_REJECTIONS)
    log_step = chains.log_step + gain * (probability.mean() - 1 + rejected)
    mean_log_step = update(chains.mean_log_step, log_step)
    return chains._replace(log_step=log_step, mean_log_step=mean_log_step), probability.mean()


def _propose_and_decide(target, chains, m, c, key, landscape, noise):
    """Makes an exact step by the energy of one batch, with probabilities (C,)."""
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
    """Returns the chains with a step and m that stay constant."""
    m = _preconditioner(chains, target)
    noise = jnp.mean(m * chains.variance) / 4
    log_step = jnp.minimum(chains.mean_log_step, jnp.log(MOST_NOISE / noise))
    return chains._replace(curvature=1 / m, log_step=log_step)


def _temperature(chains):
    """Computes the temperature of each chain, eq. (5), (C,)."""
    return jnp.sum(chains.delta * chains.gradient, axis=1) / chains.delta.shape[1]


def _kept(chains, m):
    """Computes the share c of eq. (3), and f of eq. (2), (d,)."""
    step = jnp.exp(chains.log_step)
    share = step * m * chains.variance / 4  # f without momentum
    c = jnp.exp(-2 * jnp.sqrt(step / chains.spread))
    # The largest c for which the mean of f is within its bound.
    longest = jnp.maximum(MOST_NOISE / jnp.mean(share), 1.0)
    c = jnp.minimum(c, 1 - 2 / (longest + 1))
    return c, jnp.minimum(share * (1 + c) / (1 - c), 1.0)


def move(chains, landscape, noise):
    """Makes a step by eq. (1); also returns energies and temperatures before it."""
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
    """Makes an exact step on all data, with energies and temperatures after it."""
    log_step, m = chains.log_step, 1 / chains.curvature
    c, _ = _kept(chains, m)
    # An occasional small step serves places that are much stiffer than the mean Hessian.
    shorter = SHORTEST * jax.random.uniform(jax.random.fold_in(key, 2)) ** 2
    chains = chains._replace(log_step=log_step - shorter)
    chains, probability = _propose_and_decide(target, chains, m, c, key, landscape, noise)
    chains = chains._replace(log_step=log_step)
    return chains, jnp.stack([chains.rise, _temperature(chains), probability])
