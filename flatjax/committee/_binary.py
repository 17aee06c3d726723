r"""Finds committees with weights of +-1 by message passing.

Belief propagation estimates the mean of each weight over all weights without errors. These are many
and far apart, so the signs of the means are not a solution. Two algorithms find one. In
`binary_reinforced_bp` each weight gradually reinforces its own field [Braunstein and Zecchina,
2006]. In `binary_focusing_bp` y replicas are attracted to a center, and so to regions where
solutions are dense [Baldassi et al., 2016].

All pass messages in their approximate form (AMP). It stores one number for each weight and each
field, not for each pair of a weight and a pattern. In all these are 2 N P + 6 K (N + P) numbers. An
iteration takes 10 K N P operations: 0.3 ms for a perceptron of 1000 inputs and 700 patterns on one
core. The patterns should have independent components.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax import _checks
from flatjax._float64 import is_traced
from flatjax._keys import as_key
from flatjax.committee._binary_amp import Schedules, iterate, signs
from flatjax.committee._checks import check_damping, check_patterns, check_units

Schedule = Callable[[chex.Numeric], chex.Numeric]


class BinarySolution(NamedTuple):
    """Weights found by message passing.

    Attributes:
      weights: -1 or 1, shape (K, N).
      num_errors: number of patterns that the weights classify wrongly.
      train_error: the same as a fraction of the patterns.
      solved: whether there are no errors.
      iterations: number of iterations; `max_iterations` if not solved.
      magnetization: last estimate of the mean weights, of which `weights` are the signs, (K, N).
    """

    weights: jax.Array
    num_errors: jax.Array
    train_error: jax.Array
    solved: jax.Array
    iterations: jax.Array
    magnetization: jax.Array


def binary_bp(
    x: jax.Array,
    y: jax.Array,
    key: chex.PRNGKey | int,
    *,
    num_units: int = 1,
    max_iterations: int = 500,
    damping: float = 0.5,
    tolerance: float = 1e-4,
) -> BinarySolution:
    r"""Returns the signs of the mean weights by plain belief propagation.

    They are rarely a solution.

    Args:
      x: patterns, shape (P, N), with components of order 1.
      y: labels, -1 or 1, shape (P,).
      key: PRNG key, or a seed, of the first messages, which make hidden units different.
      num_units: K, odd.
      max_iterations: largest number of iterations, of 10 K N P operations each.
      damping: share of the old fields that is kept, in [0, 1).
      tolerance: iteration stops if the means change by less.

    Returns:
      The weights. The function can be vmapped.

    Raises:
      ValueError: shapes do not fit, x is not finite, labels are not -1 and 1, a number is even or
        too small, or the damping is out of its range. Values are not checked under `jax.jit` or
        `jax.vmap`.
      TypeError: a number of units or iterations is not an int, or key is not a key.

    Examples:
      >>> x = jnp.sign(jax.random.normal(jax.random.key(0), (20, 101)))
      >>> found = binary_bp(x, jnp.ones(20), jax.random.key(1))
      >>> found.weights.shape, bool(found.train_error < 0.1)
      ((1, 101), True)

    See Also:
      `binary_reinforced_bp` (ends in one solution), `binary_focusing_bp` (ends in a flat one),
      `belief_propagation` (for continuous weights).
    """
    nothing = schedule_values("gamma", 0.0, max_iterations)
    schedules = Schedules(nothing, nothing, nothing)
    _checks.check_scalar("tolerance", tolerance)
    return _solve(x, y, key, schedules, num_units, damping, tolerance)


def binary_reinforced_bp(
    x: jax.Array,
    y: jax.Array,
    key: chex.PRNGKey | int,
    *,
    num_units: int = 1,
    reinforcement: float | Schedule | None = None,
    max_iterations: int = 1000,
    damping: float = 0.5,
) -> BinarySolution:
    r"""Finds a solution by reinforced belief propagation.

    .. math:: h^{t+1} = B^t + r_t h^t, \qquad m = \tanh h. \tag{1}

    Each weight keeps a share r of its field h and adds the field B of the patterns [Braunstein and
    Zecchina, 2006]. At r = 0 this is belief propagation. At r = 1 fields grow without bounds. r
    rises from 0 to 1.

    Args:
      x: patterns, shape (P, N), with components of order 1.
      y: labels, -1 or 1, shape (P,).
      key: PRNG key, or a seed, of the first messages.
      num_units: K, odd.
      reinforcement: r, or a function of the iteration t; t / max_iterations by default. A slower
        schedule is better near the capacity.
      max_iterations: largest number of iterations, of 10 K N P operations each. Iteration stops at
        the first weights without errors.
      damping: share of the old fields that is kept, in [0, 1).

    Returns:
      The weights. The function can be vmapped.

    Raises:
      ValueError: as `binary_bp`; or reinforcement is out of [0, 1].
      TypeError: a number of units or iterations is not an int, or key is not a key.

    Examples:
      >>> x = jnp.sign(jax.random.normal(jax.random.key(0), (100, 201)))
      >>> found = binary_reinforced_bp(x, jnp.ones(100), jax.random.key(1))
      >>> bool(found.solved), int(jnp.min(x @ found.weights[0])) > 0
      (True, True)

    See Also:
      `binary_focusing_bp` (towards flat solutions), `binary_bp` (without reinforcement).
    """
    if reinforcement is None:
        reinforcement = lambda t: t / max_iterations
    # r of eq. (1); `iterate` makes the steps
    shares = schedule_values("reinforcement", reinforcement, max_iterations, maximum=1.0)
    nothing = jnp.zeros_like(shares)
    return _solve(x, y, key, Schedules(shares, nothing, nothing), num_units, damping, 0.0)


def binary_focusing_bp(
    x: jax.Array,
    y: jax.Array,
    key: chex.PRNGKey | int,
    *,
    num_units: int = 1,
    num_replicas: float | Schedule = 7,
    gamma: float | Schedule | None = None,
    max_iterations: int = 1000,
    damping: float = 0.5,
) -> BinarySolution:
    r"""Finds a solution by focusing belief propagation [Baldassi et al., 2016].

    Belief propagation for y replicas of the weights, each coupled to a center by :math:`\gamma`.
    All replicas receive the same messages, so only one replica is computed, with

    .. math::
      h = B + c_\gamma\big((y - 1)\, c_\gamma(B)\big), \qquad
      c_\gamma(B) = \operatorname{atanh}(\tanh \gamma \tanh B). \tag{2}

    The number of replicas y may be any number from 1 on, and the cost does not depend on it. At an
    infinite gamma every pattern counts once for each replica. With `pseudo_reinforcement`, y and
    gamma rise together.

    Args:
      x: patterns, shape (P, N), with components of order 1.
      y: labels, -1 or 1, shape (P,).
      key: PRNG key, or a seed, of the first messages.
      num_units: K, odd.
      num_replicas: the number of replicas, y in the equation, or a function of the iteration.
      gamma: coupling, or a function of the iteration t; 2 t / max_iterations by default.
      max_iterations: largest number of iterations, of 10 K N P operations each. Iteration stops at
        the first weights without errors.
      damping: share of the old fields that is kept, in [0, 1).

    Returns:
      The weights. The function can be vmapped.

    Raises:
      ValueError: as `binary_bp`; or there is less than 1 replica, or gamma is negative.
      TypeError: a number of units or iterations is not an int, or key is not a key.

    Examples:
      >>> x = jnp.sign(jax.random.normal(jax.random.key(0), (100, 201)))
      >>> gamma, num_replicas = pseudo_reinforcement(1000)
      >>> found = binary_focusing_bp(
      ...     x, jnp.ones(100), jax.random.key(1), gamma=gamma, num_replicas=num_replicas
      ... )
      >>> bool(found.solved), int(jnp.min(x @ found.weights[0])) > 0
      (True, True)

    See Also:
      `binary_reinforced_bp` (without replicas), `pseudo_reinforcement` (its schedule),
      `focusing_bp` (for continuous weights).
    """
    if gamma is None:
        gamma = lambda t: 2 * t / max_iterations
    # gamma and y of eq. (2); `from_center` computes it
    gammas = schedule_values("gamma", gamma, max_iterations)
    replicas = schedule_values("num_replicas", num_replicas, max_iterations, minimum=1.0)
    schedules = Schedules(jnp.zeros_like(gammas), gammas, replicas - 1)
    return _solve(x, y, key, schedules, num_units, damping, 0.0)


def pseudo_reinforcement(num_iterations: int) -> tuple[Schedule, Schedule]:
    r"""Makes schedules of coupling and number of replicas that rise together.

    .. math::
      \tanh \gamma = \sqrt{\rho}, \quad y = 1 + \frac{1}{1 - \rho}, \quad
      \rho = \frac{t}{\text{num\_iterations}}. \tag{3}

    They rise without a limit, as in the authors' program for [Baldassi et al., 2016].

    Args:
      num_iterations: length of the schedules; t ends one below it.

    Returns:
      gamma and num_replicas of `binary_focusing_bp`.

    Raises:
      ValueError: num_iterations is below 1.
      TypeError: num_iterations is not an int.

    Examples:
      >>> gamma, num_replicas = pseudo_reinforcement(100)
      >>> round(float(jnp.tanh(gamma(25))), 3), float(num_replicas(75))
      (0.5, 5.0)

    See Also:
      `binary_focusing_bp` (takes this schedule), `binary_reinforced_bp` (without replicas).
    """
    _checks.check_count("num_iterations", num_iterations)
    # rho, gamma and y of eq. (3)
    progress = lambda t: jnp.minimum(t, num_iterations - 0.5) / num_iterations
    gamma = lambda t: jnp.arctanh(jnp.sqrt(progress(t)))
    num_replicas = lambda t: 1 + 1 / (1 - progress(t))
    return gamma, num_replicas


def _solve(x, y, key, schedules, num_units, damping, tolerance) -> BinarySolution:
    check_binary(x, y, num_units, damping)
    key = as_key("key", key)
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    limits = {"tolerance": tolerance, "message_tolerance": jnp.inf, "stop_when_solved": True}
    last = iterate(key, x, y, schedules, num_units=num_units, damping=damping, **limits)
    return BinarySolution(
        weights=signs(last.field),
        num_errors=last.num_errors,
        train_error=last.num_errors / len(y),
        solved=last.num_errors == 0,
        iterations=last.iteration,
        magnetization=jnp.tanh(last.field),
    )


def schedule_values(
    name: str,
    schedule: float | Schedule,
    num_iterations: int,
    minimum: float = 0.0,
    maximum: float = np.inf,
) -> jax.Array:
    """Evaluates a number or a schedule at all iterations, and checks the values."""
    _checks.check_count("max_iterations", num_iterations)
    value: Any = schedule
    if callable(schedule):
        value = jax.vmap(schedule)(jnp.arange(num_iterations))
    if not is_traced(value) and not (np.all(value >= minimum) and np.all(value <= maximum)):
        raise ValueError(f"{name} must be in [{minimum:g}, {maximum:g}], got {np.asarray(value)}.")
    return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (num_iterations,))


def check_binary(x: Any, y: Any, num_units: int, damping: float) -> None:
    """Raises if patterns, labels, number of units or damping are not valid."""
    check_patterns(x, y)
    check_units(num_units)
    check_damping(damping)
