r"""Approximate message passing for committees: entropies and marginals of weights.

Patterns are multiplied by their labels sigma, :math:`U_{\mu i} = \sigma_\mu x_{\mu i} / \sqrt{N}`,
so that every pattern should get a majority for the class 1. Weights are independent Gaussian
variables of mean m and variance v. The channel :math:`Z, g, \Gamma` is defined in
`flatjax.committee._channel`. An iteration computes

.. math::
  V_{\mu k} = \sum_i U_{\mu i}^2 v_{ki}, \quad
  \omega_{\mu k} = \sum_i U_{\mu i} m_{ki} - V_{\mu k} g_{\mu k}, \quad
  A_{ki} = \sum_\mu U_{\mu i}^2 \Gamma_{\mu k}, \quad
  B_{ki} = \sum_\mu U_{\mu i} g_{\mu k} + m_{ki} A_{ki}. \tag{1}

The new m and v are mean and variance of :math:`e^{-(A + \lambda) w^2 / 2 + (B + \gamma \tilde w)
w}`. The multipliers lambda and gamma are such that on average :math:`|w_k|^2 = N` and :math:`w_k
\cdot \tilde w_k = p N`. The entropy

.. math::
  F = \sum_\mu \Big[\log Z_\mu + \sum_k \frac{(\omega - U m)^2}{2 V}\Big]
    + \sum_{ki} \Big[\frac12 \log \frac{2 \pi}{\lambda + A}
      + \frac{(B + \gamma \tilde w)^2}{2 (\lambda + A)} + \frac{A (v + m^2)}{2} - B m \Big]
    + \sum_k \Big(\frac{\lambda_k N}{2} - \gamma_k p N\Big) \tag{2}

is stationary at the fixed point. Its error is therefore of second order there.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from flatjax._float64 import vectorized
from flatjax.committee._channel import Output, majority
from flatjax.committee._checks import check_problem
from flatjax.committee._constraints import Gaussian, constrained
from flatjax.committee._marginals import (
    Marginals,
    entropy_per_weight,
    error_of_fields,
    is_possible,
    solved,
)

CHUNK = 1024  # patterns: the channel's arrays stay in the cache
POINTS = 8  # solved at a time: their loop runs until the slowest point is done


def amp(
    x: ArrayLike,
    y: ArrayLike,
    *,
    num_units: int | None = None,
    reference: ArrayLike | None = None,
    overlap: ArrayLike | None = None,
    damping: float = 0.8,
    max_iterations: int = 500,
    tolerance: float = 1e-6,
) -> Marginals:
    r"""Computes the volume of error-free weights, at any overlap or at a given one.

    .. math::
      \Phi = \frac{1}{N K} \log P\big(\text{w makes no error}\big), \quad
      w \text{ uniform on } \lVert w_k \rVert^2 = N \ [\text{and } w_k \cdot \tilde w_k = p N].
      \tag{3}

    This is the entropy of the committee (Gardner), or its local entropy at the distance d = 1 - p
    from a reference (Franz and Parisi). It is exact for large N if the inputs are independent. For
    correlated inputs use `flatjax.committee.expectation_propagation`.

    *Convergence.* The residual is a sum of three root mean square changes before damping: of m over
    :math:`\sqrt{\bar v}`, of v over its mean, and of :math:`g \sqrt V`. Around error-free
    references, a damping of 0.8 converges in 50 to 100 iterations. With less damping it may not
    converge, and the returned values may still look plausible: see `converged`. Without a
    reference, units stay alike, which is the state of a committee that has not specialised.

    *Few inputs.* If N is small, count the weights with `direct_log_fraction`. For samples with
    N = 5 and P = 6, Phi was wrong by up to 0.1. At the overlap 0.8 it was wrong by up to 0.8, where
    the
    share was one in a thousand. Units have the norm and the overlap only on average. With several
    units the iteration also converges if there are no error-free weights: 12 of 15 random labels of
    8 patterns with 2 inputs had none, and Phi was -1.4. Random draws detect this if the claimed
    share is large enough to be seen; see `Marginals.converged`.

    *Cost.* Four matrix products, 8 P N K operations an iteration for each point, and the channel:
    1.5 ms for P = 500, N = 784, K = 9 on two cores, 21 ms for P = 5000. 32 P N bytes of memory, and
    some 10 (P + N) K numbers for each of 8 points at a time: 400 MB at P = 12000.

    Args:
      x: patterns, shape (P, N).
      y: their labels, -1 or 1, shape (P,).
      num_units: K, odd. The default is K of the reference, or 1 without one.
      reference: weights of any norm, shape `(*R, K, N)`.
      overlap: p, cosine of the angle with every unit of the reference, in (-1, 1); broadcast with R
        to the shape S.
      damping: D, in [0, 1): share of the old g, Gamma, m and v that is kept.
      max_iterations: iterations after which it stops without convergence.
      tolerance: largest residual of a converged result.

    Returns:
      Entropy and marginals of weights.

    Raises:
      ValueError: shapes do not fit. There are fewer than 2 inputs (3 with a reference, because
        weights cannot turn otherwise). Labels are not -1 and 1. x is not finite or has a pattern
        that is 0. The number of units is even. The reference has a unit that is 0 or not finite. An
        overlap is out of (-1, 1) or has no reference. damping, max_iterations or tolerance is out
        of range.
      TypeError: num_units or max_iterations is not an int.

    Examples:
      >>> teacher = jnp.ones((1, 20))
      >>> x = jax.random.normal(jax.random.key(0), (10, 20))
      >>> y = jnp.sign(x @ teacher[0])
      >>> found = amp(x, y, reference=teacher, overlap=np.array([0.7, 0.9]))
      >>> bool(found.converged.all() and found.phi[0] < found.phi[1] < 0)
      True

    See Also:
      `expectation_propagation` (for correlated inputs), `belief_propagation` (finds a solution),
      `direct_log_fraction` (the same by sampling).
    """
    problem = check_problem(x, y, num_units, reference, overlap)
    program = functools.partial(_amp, num_units=problem.num_units)
    return solved(program, problem, damping, max_iterations, tolerance)


class Messages(NamedTuple):
    """State of the iteration.

    Attributes:
      mean: m, shape (K, N).
      variance: v, shape (K, N).
      g: shape (K, P).
      gamma: Gamma, shape (K, P).
      log_excess: logarithm for the multiplier of the norm, shape (K,), see `Gaussian`.
      iterations: number of iterations so far.
      residual: residual of the last iteration.
    """

    mean: jax.Array
    variance: jax.Array
    g: jax.Array
    gamma: jax.Array
    log_excess: jax.Array
    iterations: jax.Array
    residual: jax.Array


def first_messages(mean: jax.Array, variance: jax.Array, num_patterns: int) -> Messages:
    """Returns messages that do not depend on the data."""
    zeros = jnp.zeros((len(mean), num_patterns))
    return Messages(
        mean, variance, zeros, zeros, jnp.zeros(len(mean)), jnp.array(0), jnp.array(jnp.inf)
    )


def amp_step(
    patterns: jax.Array,
    squares: jax.Array,
    messages: Messages,
    damping: jax.Array,
    weights: Callable[[jax.Array, jax.Array, jax.Array], Gaussian],
) -> Messages:
    """Makes one iteration, eq. (1).

    `weights` makes a Gaussian of A, B and the last `log_excess`.
    """
    mix = lambda old, new: damping * old + (1 - damping) * new
    output, _, spread, _ = _channel(patterns, squares, messages)
    g, gamma = mix(messages.g, output.g), mix(messages.gamma, output.gamma)
    new = weights(*to_weights(patterns, squares, messages.mean, g, gamma), messages.log_excess)
    scale = jnp.mean(new.variance)
    residual = jnp.sqrt(jnp.mean((new.mean - messages.mean) ** 2) / scale)
    residual += jnp.mean(jnp.abs(new.variance - messages.variance)) / scale
    # If no weights satisfy the patterns, their messages may cancel: m and v stay while g grows
    # without bound.
    residual += jnp.sqrt(jnp.mean((output.g - messages.g) ** 2 * spread))
    return Messages(
        mean=mix(messages.mean, new.mean),
        variance=mix(messages.variance, new.variance),
        g=g,
        gamma=gamma,
        log_excess=new.log_excess,
        iterations=messages.iterations + 1,
        residual=residual,
    )


def _channel(patterns, squares, messages):
    """Returns the channel's output, mean and variance of the cavity, and mean fields."""
    fields, variance = to_patterns(patterns, squares, messages.mean, messages.variance)
    cavity = fields - variance * messages.g
    return majority_in_chunks(cavity, variance), cavity, variance, fields


def to_patterns(
    patterns: jax.Array, squares: jax.Array, mean: jax.Array, variance: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns means U m and variances V of the fields, both (K, P)."""
    # Patterns first: the transposed product m U^T takes XLA half as long again.
    return (patterns @ mean.T).T, (squares @ variance.T).T


def majority_in_chunks(mean: jax.Array, variance: jax.Array) -> Output:
    """Applies `majority` to fields of shape (K, P), about `CHUNK` patterns at a time."""
    num_units, num = mean.shape
    num_chunks = -(-num // CHUNK)
    if num_chunks == 1:
        return majority(mean, variance)
    size = -(-num // num_chunks)
    pad = lambda array: jnp.pad(array, ((0, 0), (0, num_chunks * size - num)), mode="edge")
    split = lambda array: pad(array).reshape(num_units, num_chunks, size).swapaxes(0, 1)
    found = jax.lax.map(lambda chunk: majority(*chunk), (split(mean), split(variance)))
    join = lambda chunks: chunks.swapaxes(0, 1).reshape(num_units, -1)[:, :num]
    return Output(found.log_z.reshape(-1)[:num], join(found.g), join(found.gamma))


def to_weights(
    patterns: jax.Array, squares: jax.Array, mean: jax.Array, g: jax.Array, gamma: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns A and B of eq. (1), the messages to the weights, both (K, N)."""
    precision = gamma @ squares
    return precision, g @ patterns + mean * precision


@functools.partial(jax.jit, static_argnames="num_units")
def _amp(patterns, references, overlaps, damping, tolerance, max_iterations, *, num_units):
    squares = patterns**2

    def at_point(reference, overlap):
        weights = lambda *sums: constrained(*sums[:2], reference, overlap, sums[2])
        go_on = lambda now: (now.residual > tolerance) & (now.iterations < max_iterations)
        step = lambda now: amp_step(patterns, squares, now, damping, weights)
        if reference is None:
            mean, spread = jnp.zeros((num_units, patterns.shape[1])), 1.0
        else:
            mean, spread = overlap * reference, 1 - overlap**2
        first = first_messages(mean, jnp.full_like(mean, spread), len(patterns))
        last = jax.lax.while_loop(go_on, step, first)
        return _summary(patterns, squares, last, weights, reference, overlap, tolerance)

    if references is None:
        return jax.tree.map(lambda leaf: leaf[None], at_point(None, None))
    by_index = lambda *, index: at_point(references[index], overlaps[index])
    return vectorized(by_index, chunk=POINTS)(index=jnp.arange(len(overlaps)))


def _summary(patterns, squares, messages, weights, reference, overlap, tolerance):
    output, cavity, variance, fields = _channel(patterns, squares, messages)
    m, v = messages.mean, messages.variance
    a, b = to_weights(patterns, squares, m, messages.g, messages.gamma)
    prior = weights(a, b, messages.log_excess)
    of_patterns = jnp.sum(output.log_z) + jnp.sum((cavity - fields) ** 2 / (2 * variance))
    of_weights = -jnp.log(prior.norm_multiplier[:, None] + a) / 2 + a * (v + m**2) / 2 - b * m
    of_weights += prior.mean**2 / (2 * prior.variance) + np.log(2 * np.pi) / 2
    entropy = of_patterns + jnp.sum(of_weights)  # eq. (2) without the constraints
    # eq. (3), with the constraints of eq. (2)
    phi = entropy_per_weight(entropy, prior.norm_multiplier, prior.overlap_multiplier, m, overlap)
    train_error = error_of_fields(fields)
    return Marginals(
        mean=m,
        variance=v,
        phi=phi,
        train_error=train_error,
        iterations=messages.iterations,
        residual=messages.residual,
        converged=(messages.residual <= tolerance) & is_possible(phi, train_error, len(m)),
    )
