"""Counts or estimates the committees with weights of +-1 that make no error."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax import _checks
from flatjax._float64 import in_float64, is_traced
from flatjax._keys import as_key
from flatjax.committee._binary import check_binary, schedule_values
from flatjax.committee._binary_amp import Schedules, iterate
from flatjax.committee._checks import contradictory, signed
from flatjax.committee._marginals import is_seen

COUNTED = 12  # largest number of weights that are counted
POSSIBLE = 1e-9  # rounding error of an entropy


class BinaryEntropy(NamedTuple):
    """Number of weights of +-1 without errors, counted or by belief propagation.

    Attributes:
      entropy: logarithm of the number, divided by the number of weights; log 2 without patterns.
      magnetization: mean of the weights without errors, shape (K, N).
      change: root mean square change of the means in the last iteration; 0 if weights were counted.
      iterations: number of iterations; 0 if weights were counted.
      converged: whether the result can be used; the other values mean nothing otherwise. The
        changes of means and messages must be below the tolerance. The entropy must belong to a
        number between 1 and the number of all weights. Outside `jax.vmap`, two more conditions are
        tested: no two patterns exclude each other, and 2e7 / (N K) draws of weights show error-free
        ones if the claimed share is large enough. If weights were counted and none is without
        errors, `converged` is False, the entropy -inf and the magnetization NaN.
    """

    entropy: jax.Array
    magnetization: jax.Array
    change: jax.Array
    iterations: jax.Array
    converged: jax.Array


def binary_entropy(
    x: jax.Array,
    y: jax.Array,
    key: chex.PRNGKey | int,
    *,
    num_units: int = 1,
    max_iterations: int = 1000,
    damping: float = 0.5,
    tolerance: float = 1e-8,
) -> BinaryEntropy:
    r"""Counts or estimates the weights without errors, in double precision.

    Up to N K = 12 weights are counted. Larger numbers are estimated by belief propagation,

    .. math::
      s = \frac{1}{N K} \Big[ \sum_\mu \log Z_\mu + \sum_{k \mu} \frac{V_k^\mu (g_k^\mu)^2}{2}
        + \sum_{k i} \big(\log 2 \cosh B_{ki} - B_{ki} m_{ki}\big) \Big].

    This is Bethe's free entropy at the fixed point of the messages. B is the field of a weight, m =
    tanh B its mean, V the variance of a field of a pattern, and g the derivative of log Z in that
    field. For large random patterns its mean is the replica-symmetric entropy. For the perceptron
    it vanishes at P = 0.833 N [Krauth and Mezard, 1989].

    A field of 0 counts as positive. If a pattern has an even number of components of one size only,
    its fields are even multiples of that size. The threshold of the Gaussian fields is then put
    between 0 and the next such value.

    Args:
      x: patterns, shape (P, N), with components of order 1.
      y: labels, -1 or 1, shape (P,).
      key: PRNG key, or a seed, of the first messages.
      num_units: K, odd. Units may remain alike, because they can be permuted.
      max_iterations: largest number of iterations, of 10 K N P operations each.
      damping: share of the old fields that is kept, in [0, 1).
      tolerance: largest change of the means of a converged result.

    Returns:
      The entropy. The function can be vmapped.

    Raises:
      ValueError: as `binary_bp`; or x is not traced, and is not finite or has a pattern that is 0.
      TypeError: a number of units or iterations is not an int, or key is not a key.

    Examples:
      >>> x = jnp.sign(jax.random.normal(jax.random.key(0), (50, 501)))
      >>> found = binary_entropy(x, jnp.ones(50), jax.random.key(1))
      >>> bool(found.converged), round(float(found.entropy), 1)  # log 2 without patterns
      (True, 0.6)

    See Also:
      `binary_bp` (marginals by the same messages), `amp` (for continuous weights).
    """
    check_binary(x, y, num_units, damping)
    key = as_key("key", key)
    _checks.check_scalar("tolerance", tolerance)
    nothing = schedule_values("gamma", 0.0, max_iterations)
    solve = functools.partial(_entropy, num_units=num_units)
    schedules = Schedules(nothing, nothing, nothing)
    found = in_float64(solve)(key, x, y, schedules, damping, tolerance)
    if is_traced(x, y, found.entropy):
        return found
    # With several units, neither of the two need show in the messages.
    is_result = not contradictory(signed(x, y)) and _is_seen(found, x, y)
    return found._replace(converged=found.converged & is_result)


def _is_seen(found, x, y):
    """Returns False if draws do not show the estimated share."""
    shape = found.magnetization.shape
    num_weights = found.magnetization.size
    if not found.converged or num_weights <= COUNTED:
        return True
    draw = lambda rng, count: rng.choice([-1.0, 1.0], (count, *shape))
    log_share = num_weights * (float(found.entropy) - np.log(2))
    return is_seen(log_share, draw, num_weights, np.asarray(x), np.asarray(y))


def _entropy(key, x, y, schedules, damping, tolerance, *, num_units) -> BinaryEntropy:
    if num_units * x.shape[1] <= COUNTED:
        return _counted(x, y, num_units)
    limits = {"damping": damping, "tolerance": tolerance, "message_tolerance": tolerance}
    last = iterate(
        *(key, x, y, schedules),
        num_units=num_units,
        stop_when_solved=False,
        offset=_half_distance(x, y),
        **limits,
    )
    b, m = last.cavity, jnp.tanh(last.cavity)
    of_weights = jnp.logaddexp(b, -b) - b * m
    total = jnp.sum(last.log_z) + jnp.sum(last.variance * last.g**2) / 2 + jnp.sum(of_weights)
    entropy = total / m.size
    converged = (last.change < tolerance) & (last.message_change <= tolerance)
    converged &= (entropy > -POSSIBLE) & (entropy < np.log(2) + POSSIBLE)
    return BinaryEntropy(entropy, m, last.change, last.iteration, converged)


def _counted(x, y, num_units) -> BinaryEntropy:
    num_weights = num_units * x.shape[1]
    bits = np.arange(2**num_weights)[:, None] >> np.arange(num_weights) & 1
    weights = jnp.asarray(2.0 * bits - 1).reshape(-1, num_units, x.shape[1])

    def keep(right, pattern):
        x, y = pattern
        votes = jnp.where(weights @ x < 0, -1, 1).sum(axis=-1)
        return right & (votes * y > 0), None

    right, _ = jax.lax.scan(keep, jnp.full(len(weights), True), (x, y))
    number = jnp.sum(right, dtype=float)
    mean = jnp.sum(jnp.where(right[:, None, None], weights, 0.0), axis=0) / number
    entropy = jnp.log(number) / num_weights
    # One value for each instance of a `jax.vmap`, as for the other fields.
    nothing = 0 * number
    return BinaryEntropy(entropy, mean, nothing, nothing.astype(int), number > 0)


def _half_distance(x, y):
    """Returns by how much fields are shifted, shape (P,): see `binary_entropy`."""
    size = jnp.max(jnp.abs(x), axis=1)
    alike = jnp.all((x == 0) | (jnp.abs(x) == size[:, None]), axis=1)
    even = jnp.sum(x != 0, axis=1) % 2 == 0
    return jnp.where(alike & even, y * size / np.sqrt(x.shape[1]), 0.0)
