r"""Gamma in units of strength: how much one step contracts the replicas.

In one step the pull multiplies the displacement of a replica by :math:`e^{-s_t}`. The *strength* is

.. math:: s_t = \eta_t \gamma_t \tag{1}

for the learning rate :math:`\eta_t`. A pull after every K-th step multiplies it by
:math:`e^{-K s_t}`. After t steps without gradients the distance has shrunk by :math:`e^{-C_t}` with
:math:`C_t = \sum_{t' < t} s_{t'}`. A strength that starts at a / T and grows by a factor f in T
steps,

.. math::
  s_t = \frac{a}{T} f^{t / T}, \qquad C_t \approx \frac{a}{\log f} \big(f^{t / T} - 1\big), \tag{2}

gives a curve C of t / T that depends on neither T nor the learning rate. The replicas are free at
first, begin to meet when C is about 1, and have met at the end, when C is :math:`a f / \log f`.

A force in the gradient stays in the momentum, and meets the learning rates of later steps. If the
learning rate rises, they are larger. The strength of the force therefore refers to the largest one,

.. math:: \eta^*_t = \max_k b^k \eta_{t + k} \tag{3}

for the momentum b, and to the largest learning rate of the loop for the pull to an anchor.
"""

import functools
import math
import warnings
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from flatjax import _checks
from flatjax._schedules import BalancedScoping, at_step

# The default a and f of `meeting`: C is 1 after half of the training, and 109 at the end.
INITIAL, FACTOR = 0.1, 1e4


def stability_limit(momentum: float | None = None, nesterov: bool = True) -> float:
    r"""Returns the learning_rate * gamma below which the gradient force is stable.

    The force of `couple_replicas` with SGD is an explicit Euler step of the coupling energy. It
    diverges if the product reaches

    .. math::
      2 \text{ (plain SGD)}, \quad 2 (1 + b) \text{ (heavy ball)}, \quad
      \frac{2 (1 + b)}{1 + 2 b} \text{ (Nesterov)}.

    Args:
      momentum: b, in [0, 1); None for plain SGD.
      nesterov: whether the momentum is Nesterov's.

    Returns:
      The limit. Divide it by K if the force acts on every K-th step with K times the strength.

    Examples:
      >>> import flatjax
      >>> round(flatjax.schedules.stability_limit(0.9), 3)
      1.357

    See Also:
      `flatjax.couple_replicas` (the force that it is for), `flatjax.pull_to_center` (has no limit).
    """
    b = _check_momentum(momentum)
    return 2 * (1 + b) / (1 + 2 * b) if nesterov else 2 * (1 + b)


def meeting(
    learning_rate: chex.Numeric | optax.Schedule,
    steps: int,
    *,
    initial: float = INITIAL,
    factor: float = FACTOR,
    momentum: float | None = None,
    nesterov: bool = True,
    period: int = 1,
) -> optax.Schedule:
    r"""Returns a gamma schedule: replicas start nearly free and always meet.

    .. math:: \gamma_t = s_t / \eta_t, \qquad s_t = \frac{a}{T} f^{\min(t, T) / T}

    With the defaults the replicas are free for the first half of the training and have met well
    before its end. This holds for every learning rate and schedule, and from three steps on. The
    module's docstring explains the numbers.

    Args:
      learning_rate: :math:`\eta_t`, the optimizer's learning rate, a number or a schedule. Where it
        is 0, gamma is 0. For the force, the next learning rates count, too: see `momentum`.
      steps: T, the number of steps of the transformation that gets this gamma.
      initial: a, the contraction (in logarithm) of T steps with the initial strength.
      factor: f, the total growth of the strength.
      momentum: b, for the force in the gradient (`couple_replicas`). SGD with momentum amplifies
        the force by 1 / (1 - b). Therefore gamma is smaller by this factor, and its product with
        the largest of :math:`b^k \eta_{t + k}` stays below half of `stability_limit`. Pass 0 for
        the force without momentum, and None for the pull (`pull_to_center`), which is not
        amplified.
      nesterov: whether the momentum is Nesterov's.
      period: K, the number of steps between couplings; it matters only for the limit of the force.

    Returns:
      A schedule, `count -> gamma`.

    Raises:
      ValueError: steps or period < 1, a negative or non-finite number, momentum not in [0, 1).

    Examples:
      >>> import flatjax
      >>> gamma = flatjax.schedules.meeting(0.1, steps=1000)
      >>> [round(float(gamma(t)), 3) for t in (0, 500, 1000)]  # the strength is a tenth of it
      [0.001, 0.1, 10.0]

    See Also:
      `scoping` (with a first gamma of your own), `stability_limit` (of the force in the gradient),
      `flatjax.check_collapsed` (checks the end).
    """
    learning_rate = _checks.check_schedule("learning_rate", learning_rate)
    _checks.check_count("steps", steps)
    _checks.check_count("period", period)
    initial = _checks.check_number("initial", initial, minimum=0.0)
    factor = _checks.check_number("factor", factor, minimum=0.0, exclusive_minimum=True)
    most, share, eta = math.inf, 1.0, learning_rate
    if momentum is not None:
        share = 1 - _check_momentum(momentum)
        most = 0.5 * stability_limit(momentum, nesterov) / period
        eta = largest(learning_rate, _decay(momentum))

    def strength(count):
        growth = jnp.exp(math.log(factor) * jnp.minimum(count, steps) / steps)
        return jnp.minimum(share * initial / steps * growth, most)  # eq. (2)

    return of_strength(strength, eta)


def largest(learning_rate: Any, weights: Mapping[int, float]) -> Any:
    """Returns the largest of the next learning rates, eq. (3).

    Args:
      learning_rate: a number or a schedule.
      weights: k -> factor of the learning rate k steps later.
    """
    if not callable(learning_rate):
        return learning_rate

    def schedule(count):
        rates = [share * jnp.asarray(learning_rate(count + k)) for k, share in weights.items()]
        return functools.reduce(jnp.maximum, rates)

    return schedule


def _decay(momentum: float | None) -> dict[int, float]:
    """Powers of the momentum at next steps; neighbours differ by a half at most."""
    b = _check_momentum(momentum)
    weights, k = {0: 1.0}, 1
    half = max(int(math.log(0.5) / math.log(b)), 1) if b > 0 else 1
    while b**k > 0.01:
        weights[k] = b**k
        k += min(k, half)
    return weights


def _loop(inner_steps: int) -> dict[int, float]:
    """Some steps of a loop, the first and last included, with equal weights."""
    ahead = {0, inner_steps - 1, *(2**k for k in range((inner_steps - 1).bit_length()))}
    return dict.fromkeys(sorted(ahead), 1.0)


def of_strength(
    strength: optax.Schedule, learning_rate: chex.Numeric | optax.Schedule
) -> optax.Schedule:
    """Returns the gamma of a given strength, eq. (1); 0 where the learning rate is 0."""

    def gamma(count):
        eta = at_step(learning_rate, count)
        return jnp.where(eta > 0, strength(count) / jnp.where(eta > 0, eta, 1.0), 0.0)

    return gamma


def anchoring(
    learning_rate: chex.Numeric | optax.Schedule,
    steps: int,
    inner_steps: int,
    most: float | None = None,
) -> optax.Schedule:
    """Returns the default gamma of `esgd` and `parle`: their pull to the anchor.

    The strength of an inner step grows from 1e-3 to 1 over the training, as in the paper's
    experiments. If the learning rate rises during a loop, that is the strength of its last step.

    Args:
      learning_rate: learning rate of the inner loop, a number or a schedule of the gradient count.
      steps: number of gradients of the training.
      inner_steps: L, gradients per outer step.
      most: the largest strength, for the force in the gradient.

    Returns:
      A schedule of the count of outer steps.
    """
    _checks.check_count("steps", steps)
    loops = max(steps // inner_steps, 1)

    def strength(count):
        growing = 1e-3 * jnp.exp(math.log(1e3) * jnp.minimum(count, loops) / loops)
        return growing if most is None else jnp.minimum(growing, most)

    return of_strength(strength, _of_loops(learning_rate, inner_steps))


def _of_loops(learning_rate: Any, inner_steps: int) -> Any:
    """The largest learning rate of each loop; a schedule counts loops."""
    if not callable(learning_rate):
        return learning_rate
    of_steps = largest(learning_rate, _loop(inner_steps))
    return lambda count: of_steps(count * inner_steps)


def check_given(name: str, gamma: Any, steps: int | None) -> None:
    """Raises unless exactly one of gamma and the number of steps is given."""
    if (gamma is None) == (steps is None):
        given = "neither" if gamma is None else "both"
        raise ValueError(
            f"either steps or {name} must be given, got {given}: steps=N, the number of updates, "
            f"for a {name} that needs no tuning; or {name}, a number or a schedule."
        )


def check_stability(
    gamma: Any,
    learning_rate: Any,
    period: int,
    momentum: float | None,
    nesterov: bool,
    inner_steps: int | None = None,
) -> None:
    """Refuses a force in the gradient if numbers or schedules show that it diverges.

    Args:
      gamma: a number, a schedule or `BalancedScoping`.
      learning_rate: a number or a schedule.
      period: number of steps between couplings.
      momentum: momentum of the SGD that follows.
      nesterov: whether it is Nesterov's.
      inner_steps: of the loops which gamma counts; None if gamma counts steps.

    Raises:
      ValueError: gamma and the learning rate are numbers and their product is above the limit.

    Warns:
      UserWarning: one of them is a schedule, and the product is above the limit at some step.
    """
    numbers = (gamma, learning_rate, momentum)
    is_traced = any(isinstance(value, jax.core.Tracer) for value in numbers)
    if is_traced or isinstance(gamma, BalancedScoping | optax.schedules.StatefulSchedule):
        return
    limit = stability_limit(momentum, nesterov) / period
    if inner_steps is None:
        eta = largest(learning_rate, _decay(momentum))
    else:
        eta = _of_loops(learning_rate, inner_steps)
    counts = [0]
    if callable(gamma) or callable(learning_rate):
        counts = [0, *np.unique(np.geomspace(1, 1e6, 49).astype(int)).tolist()]
    try:
        with jax.ensure_compile_time_eval():
            products = [
                float(at_step(gamma, count) * at_step(eta, count))
                for count in map(jnp.asarray, counts)
            ]
    except Exception:  # some schedules need more than a count
        return
    worst = int(np.argmax(products))
    if products[worst] <= limit:
        return
    message = (
        f"learning_rate * gamma is {products[worst]:.3g} at step {counts[worst]}, above the "
        f"{limit:.3g} at which a coupling in the gradient diverges (schedules.stability_limit). "
        "Take a smaller gamma, or decoupled=True, which is stable for every gamma."
    )
    if len(counts) == 1:
        raise ValueError(message)
    warnings.warn(message, stacklevel=3)


def or_0(momentum: Any) -> Any:
    """Returns the momentum; 0 for None."""
    return 0.0 if momentum is None else momentum


def _check_momentum(momentum: float | None) -> float:
    if isinstance(momentum, jax.core.Tracer):
        raise ValueError(
            "momentum must be a number here, got a traced value: name it in the static_args of "
            "optax.inject_hyperparams."
        )
    bounds: dict[str, Any] = {"minimum": 0.0, "maximum": 1.0, "exclusive_maximum": True}
    return _checks.check_number("momentum", or_0(momentum), **bounds)
