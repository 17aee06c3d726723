r"""Local entropy of the number of errors around a solution, in high dimension.

How many classifiers w at a given angle from a reference :math:`\tilde w` make few errors on the
training set? The potential of Franz and Parisi counts them. It is higher if the surroundings of the
reference are flatter.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jax.typing import ArrayLike

from flatjax._float64 import in_float64, is_traced, vectorized
from flatjax.gaussian_mixture._checks import check_numbers
from flatjax.gaussian_mixture._error_weight import gaussian_nodes, log_weight, log_weight_slope
from flatjax.gaussian_mixture._fixed_point import fixed_point
from flatjax.gaussian_mixture._mixture import classifier_error
from flatjax.gaussian_mixture._training_fields import (
    ARRAYS,
    Reference,
    TrainingFields,
    training_fields,
)

# First guesses of the unknowns: two forces, and the logarithm of fluctuation over freedom.
START = np.array([0.1, 0.1, -3.0])
# If the freedom 1 - q is smaller than the available room by this factor, no w is left.
VANISHING = np.log(1e6)


class LocalEntropy(NamedTuple):
    r"""The surroundings of a reference.

    Attributes:
      phi: the local entropy, at most 0; -inf if no w is left, NaN if not converged.
      overlap: o, the cosine of the angle with the reference, as given; (1 - o) / 2 is a distance.
      m: overlap of a typical w with the signal. This and the next four fields are NaN if phi is not
        finite.
      q: overlap of two w.
      reaction: t, how strongly the w follow the reaction of the reference to a training pattern.
      test_error: test error of a typical w.
      train_error: training error of a typical w, :math:`-\alpha^{-1} d \phi / d \beta`.
      satisfiable: False if beta is infinite and there is no w without errors.
      residual: residual of the equations, in units of order one.
      converged: whether the residual is within the tolerance.
    """

    phi: jax.Array
    overlap: jax.Array
    m: jax.Array
    q: jax.Array
    reaction: jax.Array
    test_error: jax.Array
    train_error: jax.Array
    satisfiable: jax.Array
    residual: jax.Array
    converged: jax.Array


def local_entropy(
    reference: Reference,
    *,
    overlap: ArrayLike,
    beta: ArrayLike = np.inf,
    tolerance: float = 1e-9,
) -> LocalEntropy:
    r"""Computes the local entropy of the number of errors around a reference.

    .. math::
      \phi(o) = \frac{1}{N} \mathbb{E} \log \big\langle e^{-\beta\, \# errors(w)} \big\rangle_w,
      \qquad \frac{w \cdot \tilde w}{\lVert w \rVert \lVert \tilde w \rVert} = o,
      \quad \lVert w \rVert^2 = N. \tag{1}

    The average is over the uniform measure, so :math:`\phi = 0` if there are no errors. For
    infinite beta it is the logarithm of the fraction of w without errors. The replica method gives
    phi from the order parameters of the reference (see `Reference`). These are :math:`\tilde m`,
    :math:`\tilde q_d = \lVert \tilde w \rVert^2 / N` and its variance A. Let :math:`\tilde
    q = \tilde q_d - A` and :math:`p = o \sqrt{\tilde q_d}`. Then

    .. math::
      \phi = \operatorname{extr}_{m, t, q} \frac{1}{2} \Big[ \log \frac{1 - q}{1 - o^2}
        + \frac{q - x}{1 - q} \Big] + \alpha \mathbb{E} \log \big[
        e^{-\beta} + (1 - e^{-\beta})\, \Phi\big(h / \sqrt{\Delta (1 - q)}\big) \big],
        \tag{2}

    .. math:: x = m^2 + 2 t (p - m \tilde m) - t^2 (\tilde q_d - \tilde m^2), \tag{3}

    .. math::
      h = m + \sigma b + \sqrt{\Delta} \Big[ \frac{p - t A}{\sqrt{\tilde q}} z +
        \sqrt{q - \frac{(p - t A)^2}{\tilde q} - t^2 A}\, z' \Big] + t (\tilde u - \omega). \tag{4}

    Here z' is standard normal, and :math:`z, \omega, \tilde u` are the fields of the reference.
    Minima have A = 0. The bias :math:`b = \tilde b / \sqrt{\tilde q_d}` belongs to the reference
    with weights scaled to the norm of w. The ansatz is replica-symmetric. The function may be
    jitted, vmapped and differentiated with respect to the numbers in its arguments.

    Args:
      reference: solution whose surroundings are measured. It also holds alpha, delta and rho.
      overlap: o, in (-1, 1).
      beta: inverse temperature of the number of errors; may be infinite. Arrays are broadcast
        against the arrays of the reference.
      tolerance: largest residual of a solution.

    Returns:
      The local entropy.

    Raises:
      ValueError: a parameter is out of its range.
      TypeError: `reference` is not a Reference.

    Examples:
      Near the Hebb rule, which is Bayes-optimal, there are fewer solutions without errors than near
      a minimum of the cross-entropy, but there are more of them farther away:

      >>> from flatjax.gaussian_mixture import losses
      >>> from flatjax.gaussian_mixture._references import erm_reference, hebb_reference
      >>> best = hebb_reference(alpha=1.0, delta=1.0)
      >>> minimum = erm_reference(losses.logistic(), alpha=1.0, delta=1.0, lam=0.1)
      >>> [local_entropy(it, overlap=[0.9, 0.3]).phi.round(3) for it in (best, minimum)]
      [array([-0.249, -0.861]), array([-0.053, -1.021])]

    See Also:
      `erm_reference` (a reference), `sampling.sample_local_entropy` (the same by sampling),
      `replicated` (coupled replicas).
    """
    if not isinstance(reference, Reference):
        raise TypeError(f"reference must be a Reference, got {type(reference).__name__}.")
    check_numbers("overlap", overlap, lambda o: abs(o) < 1, "strictly between -1 and 1")
    check_numbers("beta", beta, lambda b: b > 0, "positive")
    arrays = {name: getattr(reference, name) for name in ARRAYS}
    statics = {name: getattr(reference, name) for name in ("loss", "law", "has_bias")}
    solve = functools.partial(_solve, tolerance=tolerance, **statics)
    as_array = lambda value: value if is_traced(value) else np.asarray(value)
    return in_float64(solve)(arrays | {"overlap": as_array(overlap), "beta": as_array(beta)})


@functools.partial(jax.jit, static_argnames=("loss", "law", "has_bias", "tolerance"))
def _solve(params, loss, law, has_bias, tolerance):
    def at_point(*, overlap, beta, **arrays):
        missing = dict.fromkeys(("test_error", "train_error", "converged"))
        reference = Reference(**arrays, **missing, loss=loss, law=law, has_bias=has_bias)
        return _solve_point(reference, overlap, beta, tolerance)

    # A point has about ten thousand nodes. The nodes of a few points stay in the cache.
    return vectorized(at_point, chunk=4)(**params)


class _State(NamedTuple):
    """Order parameters of the w, in a basis without cancellations.

    With 1 - q = `freedom`, w is a sum of three parts: t times the reference, `freedom` times the
    mean force of the patterns, and `fluctuation`, because the force depends on w.
    """

    along_signal: jax.Array  # the overlap of freedom times the mean force with the signal
    along_reference: jax.Array  # and with the reference
    t: jax.Array
    m: jax.Array
    freedom: jax.Array
    fluctuation: jax.Array  # variance of h for given fields of the reference, over delta


class _Forces(NamedTuple):
    """Forces of the patterns on w.

    The force of a pattern is d log weight / dh, a vector in the space of w.
    """

    along_signal: jax.Array
    along_reference: jax.Array
    rest: jax.Array  # squared length of the part that is orthogonal to the mean reference


def _solve_point(reference, overlap, beta, tolerance) -> LocalEntropy:
    norm, variance = reference.q, reference.variance
    mean_norm = norm - variance
    p = overlap * jnp.sqrt(norm)
    room = 1 - overlap**2
    # A margin is the overlap times the margin of the reference, plus noise.
    error_width = jnp.sqrt(room * norm / mean_norm) / jnp.maximum(abs(overlap), 1e-3)
    fields = training_fields(reference, error_width=error_width)

    def unpack(x, vanishing=False) -> _State:
        along_signal = jnp.sinh(x[0]) * jnp.sqrt(room)
        along_reference = jnp.sinh(x[1]) * jnp.sqrt(room * norm)
        t = (p - along_reference) / norm
        left = room - variance * along_reference**2 / (norm * mean_norm)
        log_ratio = jnp.where(vanishing, VANISHING, jnp.minimum(x[2], VANISHING))
        return _State(
            along_signal=along_signal,
            along_reference=along_reference,
            t=t,
            m=t * reference.m + along_signal,
            freedom=left * jax.nn.sigmoid(-log_ratio),
            fluctuation=left * jax.nn.sigmoid(log_ratio),
        )

    def update(x, vanishing):
        forces = _forces(reference, fields, unpack(x, vanishing), p, beta)
        # The part orthogonal to the reference itself; the freedom is such that norms add up to one.
        rest = forces.rest + variance * forces.along_reference**2 / (norm * mean_norm)
        freedom = 2 * room / (1 + jnp.sqrt(1 + 4 * rest * room))
        return jnp.stack(
            [
                jnp.arcsinh(freedom * forces.along_signal / jnp.sqrt(room)),
                jnp.arcsinh(freedom * forces.along_reference / jnp.sqrt(room * norm)),
                jnp.log(freedom * forces.rest + 1e-16),  # the force may be almost zero
            ]
        )

    def solve(start, vanishing):
        # Without temperature there may be no w at all. First, keep the freedom close to zero. If it
        # then shrinks further, there is none. The second stage starts where the first one ends.
        skipped = vanishing & jnp.isfinite(beta)
        found = fixed_point(
            lambda x: jnp.where(skipped, start, update(x, vanishing)),
            start,
            tolerance=tolerance,
            max_steps=jnp.where(vanishing, 16, 200),
        )
        none_left = vanishing & found.converged & (found.x[2] > VANISHING)
        return jnp.where(none_left, found.x, START), found

    _, stages = jax.lax.scan(solve, jnp.asarray(START), jnp.array([True, False]))
    found = jax.tree.map(lambda leaf: leaf[1], stages)

    state = unpack(found.x)
    margins = _margins(reference, fields, state, p, beta)
    log_weights = log_weight(margins.x, beta)
    error = jnp.exp(-beta + log_ndtr(-margins.x) - log_weights)
    average = lambda values: margins.average(margins.of_field(values))
    # eq. (2), with x of eq. (3) in terms of the state
    order = state.fluctuation - state.along_signal**2 + state.along_reference**2 / mean_norm
    entropy = (jnp.log(state.freedom / room) + order / state.freedom) / 2
    phi = entropy + reference.alpha * average(log_weights)
    bias = reference.bias / jnp.sqrt(norm)
    satisfiable = found.x[2] < VANISHING
    show = lambda value: jnp.where(found.converged & satisfiable, value, jnp.nan)
    return LocalEntropy(
        phi=jnp.where(found.converged & ~satisfiable, -jnp.inf, show(phi)),
        overlap=overlap,  # o of eq. (1)
        m=show(state.m),
        q=show(1 - state.freedom),
        reaction=show(state.t),
        test_error=show(classifier_error(state.m, 1.0, bias, reference.delta, reference.rho)),
        train_error=show(average(error)),
        satisfiable=satisfiable | ~found.converged,
        residual=found.residual,
        converged=found.converged,
    )


class _Margins(NamedTuple):
    """Nodes of the margins of a w on training patterns.

    Attributes:
      x: margin over its standard deviation, given everything that the w share, shape (j, n, k).
      weight: weight of each of the j nodes, shape (j, n, k).
      fields: fields of the reference: n omegas and k fields for each.
    """

    x: jax.Array
    weight: jax.Array
    fields: TrainingFields

    def of_field(self, values: jax.Array) -> jax.Array:
        """Averages for given fields of the reference, shape (n, k)."""
        return jnp.sum(self.weight * values, axis=0)  # the first axis is vectorized

    def average(self, values: jax.Array) -> jax.Array:
        """Averages values of shape (n, k) over everything."""
        return self.fields.average(self.fields.of_omega(values))


def _margins(reference, fields, state, p, beta) -> _Margins:
    delta, norm = reference.delta, reference.q
    s = jnp.sqrt(delta * state.freedom)
    follow = jnp.sqrt(delta / (norm - reference.variance)) * (p - state.t * reference.variance)
    bias = fields.side * reference.bias / jnp.sqrt(norm)
    # h of eq. (4); the term with z' is the noise of width `shared`
    center = (state.m + bias + follow * fields.z)[:, None] + state.t * fields.reaction
    # A Gaussian reference has no nodes of its own: its fields add to the Gaussian fields of w.
    shared = 1 - state.freedom if reference.law == "gaussian" else state.fluctuation
    center, width = center / s, jnp.sqrt(delta * shared) / s
    z, weight = gaussian_nodes(center, width, beta, num=8 if reference.law == "gibbs" else 10)
    return _Margins(center + width * z, weight, fields)


def _forces(reference, fields, state, p, beta) -> _Forces:
    alpha, delta = reference.alpha, reference.delta
    margins = _margins(reference, fields, state, p, beta)
    force = log_weight_slope(margins.x, beta) / jnp.sqrt(delta * state.freedom)
    mean_force, squared_force = margins.of_field(force), margins.of_field(force**2)

    of_omega, reaction = fields.of_omega(mean_force), fields.of_omega(fields.reaction)
    along_signal = alpha * fields.average(of_omega)
    along_reference = reference.m * along_signal + alpha * fields.average(reaction * of_omega)
    # The reference, too, is V times a sum of forces, reaction / (delta V) for each pattern.
    share = along_reference / (reference.q - reference.variance)
    other = mean_force - (share * reaction / delta)[:, None]
    noise = margins.average(squared_force - mean_force**2 + other**2)
    rest = (along_signal - share * reference.m) ** 2 + alpha * delta * noise
    return _Forces(along_signal, along_reference, rest)
