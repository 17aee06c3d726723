"""Approximate message passing for weights of +-1, reinforced or with replicas."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from flatjax.committee._channel import majority

LEAST_VARIANCE = 1e-5  # largest field, reached when a weight is almost decided


class Schedules(NamedTuple):
    """Forces on the weights that do not come from patterns; shape (T,) each.

    Attributes:
      reinforcement: share r of its field that a weight keeps.
      gamma: coupling of replicas to their center.
      others: number of the other replicas, y - 1.
    """

    reinforcement: jax.Array
    gamma: jax.Array
    others: jax.Array


class Messages(NamedTuple):
    """The state of the iteration.

    Attributes:
      field: half of the log odds of the weights, from all sources, shape (K, N).
      cavity: the part of the field that the patterns contribute, shape (K, N).
      g: messages of the patterns about fields, shape (K, P).
      log_z: log probability of each pattern, shape (P,).
      variance: variance of the fields, shape (K, P).
      num_errors: number of errors of the signs of the weights.
      change: root mean square of the last change of the mean weights.
      message_change: the same for g, in units of the standard deviation of a field.
      iteration: number of iterations so far.
    """

    field: jax.Array
    cavity: jax.Array
    g: jax.Array
    log_z: jax.Array
    variance: jax.Array
    num_errors: jax.Array
    change: jax.Array
    message_change: jax.Array
    iteration: jax.Array


@functools.partial(jax.jit, static_argnames="num_units")
def iterate(
    key: chex.PRNGKey,
    x: jax.Array,
    y: jax.Array,
    schedules: Schedules,
    *,
    num_units: int,
    damping: jax.Array,
    tolerance: jax.Array,
    message_tolerance: jax.Array,
    stop_when_solved: jax.Array,
    offset: jax.Array | float = 0.0,
) -> Messages:
    r"""Passes messages until no errors are left, nothing changes or schedules end.

    .. math::
      V = (1 - m^2) \, U_2^T, \quad \omega = m U^T - V g + \text{offset}, \quad
      (g, \Gamma) = \text{output}(\omega, V), \tag{1}

    .. math::
      B = g U + m \, (\Gamma U_2), \quad
      h \leftarrow B + r_t h + u_t(B), \quad m = \tanh h. \tag{2}

    Here U = sigma x / sqrt(N) with the labels sigma, and U_2 is its elementwise square.

    Args:
      key: PRNG key of the first fields, normal numbers of standard deviation 0.1.
      x: patterns, shape (P, N).
      y: labels, shape (P,).
      schedules: values for T iterations.
      num_units: K.
      damping: share of the old fields that is kept.
      tolerance: largest `change` at which iteration stops.
      message_tolerance: largest `message_change` at which iteration stops.
      stop_when_solved: whether to stop when there are no errors.
      offset: added to the fields of the patterns, shape (P,).

    Returns:
      The last messages.
    """
    num_patterns, num_features = x.shape
    design = y[:, None] * x / jnp.sqrt(num_features)
    squares = design**2
    num_steps = len(schedules.gamma)

    def step(now: Messages) -> Messages:
        m = jnp.tanh(now.field)
        variance = jnp.maximum((1 - m**2) @ squares.T, LEAST_VARIANCE)
        omega = m @ design.T - variance * now.g + offset  # eq. (1)
        output = majority(omega, variance)
        cavity = output.g @ design + m * (output.gamma @ squares)  # eq. (2)
        at_time = jax.tree.map(lambda values: values[now.iteration], schedules)
        field = cavity + at_time.reinforcement * now.field
        field += from_center(cavity, at_time.gamma, at_time.others)
        field = damping * now.field + (1 - damping) * field
        change = jnp.sqrt(jnp.mean((jnp.tanh(field) - m) ** 2))
        return Messages(
            field=field,
            cavity=cavity,
            g=output.g,
            log_z=output.log_z,
            variance=variance,
            num_errors=_num_errors(field, x, y),
            change=change,
            message_change=jnp.sqrt(jnp.mean((output.g - now.g) ** 2 * variance)),
            iteration=now.iteration + 1,
        )

    def goes_on(now: Messages) -> jax.Array:
        solved = stop_when_solved & (now.num_errors == 0)
        rests = (now.change < tolerance) & (now.message_change <= message_tolerance)
        return (now.iteration < num_steps) & ~solved & ~rests

    field = 0.1 * jax.random.normal(key, (num_units, num_features), x.dtype)
    nothing = jnp.zeros((num_units, num_patterns), x.dtype)
    start = Messages(
        field=field,
        cavity=field,
        g=nothing,
        log_z=nothing[0],
        variance=nothing,
        num_errors=jnp.asarray(num_patterns),
        change=jnp.asarray(jnp.inf, x.dtype),
        message_change=jnp.asarray(jnp.inf, x.dtype),
        iteration=jnp.asarray(0),
    )
    return jax.lax.while_loop(goes_on, step, start)


def from_center(field: jax.Array, gamma: jax.Array, others: jax.Array) -> jax.Array:
    r"""Returns the field of the other replicas on a weight.

    .. math::
      u = c_\gamma\big((y - 1) \, c_\gamma(B)\big), \qquad
      c_\gamma(B) = \operatorname{atanh}(\tanh \gamma \tanh B) \tag{3}
    """
    return _across_coupling(others * _across_coupling(field, gamma), gamma)  # eq. (3)


def _across_coupling(field, gamma):
    # Half the logarithm of cosh(gamma + B) / cosh(gamma - B): exact at an infinite gamma, too.
    size = jnp.abs(field)
    log_ratio = jnp.logaddexp(0.0, -2 * gamma - 2 * size) - jnp.logaddexp(-2 * gamma, -2 * size)
    return jnp.sign(field) * log_ratio / 2


def signs(field: jax.Array) -> jax.Array:
    """Returns the more probable values of the weights."""
    return jnp.where(field < 0, -1.0, 1.0).astype(field.dtype)


def _num_errors(field, x, y):
    # x is not divided by sqrt(N): components of +-1 would then not add up to exactly 0.
    votes = jnp.where(signs(field) @ x.T < 0, -1, 1).sum(axis=0)
    return jnp.sum(votes * y <= 0)
