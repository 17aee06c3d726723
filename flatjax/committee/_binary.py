r"""Committees with weights of +-1: message passing that finds them.

Belief propagation estimates the mean of each weight over all weights without errors. These are
many and far apart, so that the signs of the means are no solution. Two ways to make them one:
`binary_reinforced_bp`, in which weights gradually come to believe in themselves
[Braunstein and Zecchina, 2006], and `binary_focusing_bp`, in which y replicas are attracted to a
center, and so to where solutions are dense [Baldassi et al., 2016].

All pass messages in their approximate form (AMP), which stores one number for each weight and
each field, not for each pair of a weight and a pattern: 2 N P + 6 K (N + P) numbers in all. An
iteration takes 10 K N P operations, 0.3 ms for a perceptron of 1000 inputs and 700 patterns on one
core. It is meant for patterns whose components are independent.
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
      num_errors: patterns that they classify wrongly.
      train_error: as a fraction of the patterns.
      solved: whether there are none.
      iterations: how many were needed; all that were allowed, where not solved.
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
    r"""The signs of the mean weights, by plain belief propagation: rarely a solution.

    Args:
      x: patterns, shape (P, N), with components of order 1.
      y: labels, -1 or 1, shape (P,).
      key: PRNG key, or a seed, of the first messages, which tell hidden units apart.
      num_units: K, odd.
      max_iterations: of 10 K N P operations each.
      damping: share of the old fields that is kept, in [0, 1).
      tolerance: stops at a change of the means below it.

    Returns:
      The weights; can be vmapped.

    Raises:
      ValueError: shapes that do not fit, labels other than -1 and 1, an even or too small number, a
        damping out of its range.
      TypeError: a number of units or iterations is not an int, key is no key.

    Examples:
      >>> x = jnp.sign(jax.random.normal(jax.random.key(0), (20, 101)))
      >>> found = binary_bp(x, jnp.ones(20), jax.random.key(1))
      >>> found.weights.shape, bool(found.train_error < 0.1)
      ((1, 101), True)
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
    r"""A solution by reinforced belief propagation [Braunstein and Zecchina, 2006].

    .. math:: h^{t+1} = B^t + r_t h^t, \qquad m = \tanh h

    Each weight keeps a share r of its field h, besides the field B that the patterns exert on it;
    it rises from 0, where this is belief propagation, to 1, where fields grow without bounds.

    Args:
      x: patterns, shape (P, N), with components of order 1.
      y: labels, -1 or 1, shape (P,).
      key: PRNG key, or a seed, of the first messages.
      num_units: K, odd.
      reinforcement: r, or a schedule of the iteration; t / max_iterations by default. Slower is
        better near the capacity.
      max_iterations: of 10 K N P operations each. Stops at the first without errors.
      damping: share of the old fields that is kept, in [0, 1).

    Returns:
      The weights; can be vmapped.

    Raises:
      ValueError: see `binary_bp`; reinforcement out of [0, 1].
      TypeError: a number of units or iterations is not an int, key is no key.

    Examples:
      >>> x = jnp.sign(jax.random.normal(jax.random.key(0), (100, 201)))
      >>> found = binary_reinforced_bp(x, jnp.ones(100), jax.random.key(1))
      >>> bool(found.solved), int(jnp.min(x @ found.weights[0])) > 0
      (True, True)
    """
    if reinforcement is None:
        reinforcement = lambda t: t / max_iterations
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
    r"""A solution by focusing belief propagation [Baldassi et al., 2016].

    Belief propagation for y replicas of the weights, each coupled to a center by :math:`\gamma`.
    All replicas receive the same messages, so that only those of one are computed, with

    .. math::
      h = B + c_\gamma\big((y - 1)\, c_\gamma(B)\big), \qquad
      c_\gamma(B) = \operatorname{atanh}(\tanh \gamma \tanh B)

    in which the number of replicas, y, may be any number from 1; the cost does not depend on it. At
    an infinite gamma every pattern counts once for each replica. With `pseudo_reinforcement` both
    rise together.

    Args:
      x: patterns, shape (P, N), with components of order 1.
      y: labels, -1 or 1, shape (P,).
      key: PRNG key, or a seed, of the first messages.
      num_units: K, odd.
      num_replicas: the number of replicas, y in the equation, or a schedule of the iteration.
      gamma: coupling, or a schedule of the iteration; 2 t / max_iterations by default.
      max_iterations: of 10 K N P operations each. Stops at the first without errors.
      damping: share of the old fields that is kept, in [0, 1).

    Returns:
      The weights; can be vmapped.

    Raises:
      ValueError: see `binary_bp`; less than 1 replica, negative gamma.
      TypeError: a number of units or iterations is not an int, key is no key.

    Examples:
      >>> x = jnp.sign(jax.random.normal(jax.random.key(0), (100, 201)))
      >>> gamma, num_replicas = pseudo_reinforcement(1000)
      >>> found = binary_focusing_bp(
      ...     x, jnp.ones(100), jax.random.key(1), gamma=gamma, num_replicas=num_replicas
      ... )
      >>> bool(found.solved), int(jnp.min(x @ found.weights[0])) > 0
      (True, True)
    """
    if gamma is None:
        gamma = lambda t: 2 * t / max_iterations
    gammas = schedule_values("gamma", gamma, max_iterations)
    replicas = schedule_values("num_replicas", num_replicas, max_iterations, minimum=1.0)
    schedules = Schedules(jnp.zeros_like(gammas), gammas, replicas - 1)
    return _solve(x, y, key, schedules, num_units, damping, 0.0)


def pseudo_reinforcement(num_iterations: int) -> tuple[Schedule, Schedule]:
    r"""Schedules of focusing: coupling and number of replicas rise together, without a limit.

    .. math::
      \tanh \gamma = \sqrt{\rho}, \quad y = 1 + \frac{1}{1 - \rho}, \quad
      \rho = \frac{t}{\text{num\_iterations}}

    as in the authors' program for [Baldassi et al., 2016].

    Args:
      num_iterations: how many it takes; ends just below.

    Returns:
      gamma and num_replicas of `binary_focusing_bp`.

    Raises:
      ValueError: num_iterations is below 1.
      TypeError: num_iterations is not an int, key is no key.

    Examples:
      >>> gamma, num_replicas = pseudo_reinforcement(100)
      >>> round(float(jnp.tanh(gamma(25))), 3), float(num_replicas(75))
      (0.5, 5.0)
    """
    _checks.check_count("num_iterations", num_iterations)
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
    """A number or a schedule at all iterations; or an error."""
    _checks.check_count("max_iterations", num_iterations)
    value: Any = schedule
    if callable(schedule):
        value = jax.vmap(schedule)(jnp.arange(num_iterations))
    if not is_traced(value) and not (np.all(value >= minimum) and np.all(value <= maximum)):
        raise ValueError(f"{name} must be in [{minimum:g}, {maximum:g}], got {np.asarray(value)}.")
    return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (num_iterations,))


def check_binary(x: Any, y: Any, num_units: int, damping: float) -> None:
    """Raises unless there are patterns, labels, an odd number of units and a damping."""
    check_patterns(x, y)
    check_units(num_units)
    check_damping(damping)
