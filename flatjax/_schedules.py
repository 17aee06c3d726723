"""Scoping: schedules of the coupling gamma, and an automatic start."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from flatjax import _checks

# () -> loss and mean squared distance, both averaged over the replicas.
ScalarOrSchedule: TypeAlias = chex.Numeric | optax.Schedule
Measure: TypeAlias = Callable[[], tuple[chex.Numeric, jax.Array]]

SCOPING_KINDS = ("exponential", "linear", "cosine")


def scoping(
    init_value: float, steps: int, factor: float = 1e4, kind: str = "exponential"
) -> optax.Schedule:
    r"""Returns a schedule of gamma from `init_value` to `factor * init_value`.

    With the step t and :math:`s = \min(t, T) / T`:

    .. math::
      \gamma_t = \gamma_0 f^s \text{ (exponential)}, \quad
      \gamma_0 (1 + (f - 1) s) \text{ (linear)}, \quad
      \gamma_0 \left(1 + (f - 1) \tfrac{1 - \cos \pi s}{2}\right) \text{ (cosine)}. \tag{1}

    The exponential form is the paper's, :math:`\gamma_0 (1 + \gamma_1)^t` with a total factor of
    1e4 [Pittorino et al., 2021, section 4].

    Args:
      init_value: :math:`\gamma_0`, the value at step 0.
      steps: T, the number of steps over which gamma grows; it is constant afterwards. These are
        gradient steps for `couple_replicas`, and *outer* steps for `entropy_sgd`.
      factor: f, the total growth.
      kind: `"exponential"` (default), `"linear"` or `"cosine"`.

    Returns:
      A schedule, `count -> gamma`.

    Raises:
      ValueError: steps < 1, negative or non-finite `init_value`, `factor` not positive, or an
        unknown kind.

    Examples:
      >>> import flatjax
      >>> gamma = flatjax.schedules.scoping(1e-3, steps=100)
      >>> [round(float(gamma(t)), 4) for t in (0, 50, 100, 200)]
      [0.001, 0.1, 10.0, 10.0]

    See Also:
      `meeting` (needs no first gamma), `BalancedScoping` (measures the first gamma).
    """
    init_value = _checks.check_scalar("init_value", init_value)
    _checks.check_count("steps", steps)
    factor = _checks.check_scalar("factor", factor, exclusive_minimum=True)
    if kind not in SCOPING_KINDS:
        raise ValueError(f"kind must be one of {SCOPING_KINDS}, got {kind!r}.")

    log = jnp.log if isinstance(factor, jax.core.Tracer) else math.log

    def schedule(count):  # eq. (1)
        progress = jnp.minimum(count, steps) / steps
        if kind == "exponential":
            return init_value * jnp.exp(log(factor) * progress)
        if kind == "cosine":
            progress = 0.5 * (1 - jnp.cos(jnp.pi * progress))
        return init_value * (1 + (factor - 1) * progress)

    return schedule


def balanced_gamma(value: chex.Numeric, distance: chex.Numeric) -> jax.Array:
    r"""Computes the gamma_0 at which the coupling energy equals the loss.

    .. math::
      \tfrac{\gamma_0}{2} \langle \lVert w_a - \bar w \rVert^2 \rangle = \langle L \rangle \tag{2}

    Args:
      value: the loss, averaged over replicas.
      distance: the mean squared distance, see `flatjax.replica_distance`.

    Returns:
      gamma_0, a scalar.

    Raises:
      ValueError: `distance` is zero (replicas with a common initialisation cannot be balanced), or
        one of the two is negative or not finite. Traced values cannot be checked.

    Examples:
      >>> import flatjax
      >>> float(flatjax.schedules.balanced_gamma(2.0, 100.0))
      0.04...

    See Also:
      `BalancedScoping` (measures it at the first update), `scoping` (lets it grow).
    """
    value = _checks.check_scalar("value", value)
    distance = _checks.check_scalar("distance", distance)
    if not isinstance(distance, jax.core.Tracer) and float(distance) == 0.0:
        raise ValueError(
            "distance must be positive, got 0: with a common initialisation the replicas coincide "
            "and no gamma balances the loss. Initialise them independently or give gamma a value."
        )
    return value / (0.5 * distance)  # eq. (2)


class BalancedScopingState(NamedTuple):
    """State of `BalancedScoping`.

    Attributes:
      count: number of updates since gamma_0 was measured.
      gamma_0: the measured start of gamma; 0 until it is measured.

    See Also:
      `BalancedScoping` (its schedule).
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    gamma_0: jax.Array


class BalancedScoping:
    r"""Automatic gamma_0: the transformation measures it when training starts.

    Pass an instance as `gamma`, and pass the loss to `update` as optax's extra argument `value`.
    `couple_replicas` measures gamma_0 at its first update. `entropy_sgd` measures it at the end of
    its first inner loop, which runs uncoupled. In both, gamma_0 is `balanced_gamma(value,
    distance)` and then grows as :math:`\gamma_t = \gamma_0 g(t)`. The class is an
    `optax.schedules.StatefulSchedule`.

    If the loss is negative, or if the loss or the distance is not finite, no gamma balances them.
    Then gamma stays 0 and the next update measures again. Replicas that coincide at the first
    update stay uncoupled.

    Attributes:
      growth: g, a schedule that starts at 1.

    Raises:
      TypeError: growth is not a function.
      ValueError: growth does not start at 1.

    Examples:
      >>> import jax.numpy as jnp, flatjax
      >>> gamma = flatjax.schedules.BalancedScoping(flatjax.schedules.scoping(1.0, steps=100))
      >>> tx = flatjax.couple_replicas(gamma, replica_axis=0)
      >>> params = jnp.array([[0.0], [2.0]])  # distance 1
      >>> state = tx.init(params)
      >>> grads, state = tx.update(jnp.zeros((2, 1)), state, params, value=3.0)
      >>> float(state.gamma)
      6.0

    See Also:
      `balanced_gamma` (the same before training), `scoping` (with a first gamma of your own).
    """

    def __init__(self, growth: optax.Schedule):
        if not callable(growth):
            raise TypeError(f"growth must be a schedule, a function of a count; got {growth!r}.")
        with jax.ensure_compile_time_eval():
            start = growth(jnp.zeros([], jnp.int32))
        if not isinstance(start, jax.core.Tracer) and not np.allclose(start, 1, rtol=1e-4):
            raise ValueError(
                f"growth must start at 1, got {float(start):g} at count 0: gamma_0 is measured. "
                "With schedules.scoping, pass 1.0 as the first gamma."
            )
        self.growth = growth

    def init(self) -> BalancedScopingState:
        """Returns the state before anything is measured."""
        return BalancedScopingState(jnp.zeros([], jnp.int32), jnp.zeros([]))

    def update(
        self,
        state: BalancedScopingState,
        *,
        value: chex.Numeric | None = None,
        distance: chex.Numeric | None = None,
        **extra_args: Any,
    ) -> BalancedScopingState:
        """Counts a step; the first one measures gamma_0 from the loss and the distance."""
        del extra_args
        if value is None or distance is None:
            raise ValueError(
                "value and distance must be passed, as flatjax's transformations do. Inside "
                "optax.inject_hyperparams, list gamma in static_args."
            )
        return self.step(state, lambda: (loss_of({"value": value}), distance), {})[1]

    def __call__(
        self,
        state: BalancedScopingState,
        *,
        value: chex.Numeric | None = None,
        distance: chex.Numeric | None = None,
        **extra_args: Any,
    ) -> jax.Array:
        """Returns the gamma of this step."""
        del extra_args
        if value is None or distance is None:
            return self.current(state, {})
        return self.step(state, lambda: (loss_of({"value": value}), distance), {})[0]

    # --- the methods that transformations call, see `Scoping` ---------------------------------

    def check_start(self, distance: Callable[[], jax.Array]) -> None:
        """Raises if the replicas visibly coincide: then no gamma_0 balances the loss."""
        balanced_gamma(1.0, distance())

    def current(self, state: BalancedScopingState, extra_args: Mapping[str, Any]) -> jax.Array:
        """Returns the gamma of this step; 0 until gamma_0 is measured."""
        del extra_args
        return state.gamma_0 * self.growth(state.count)

    def step(
        self, state: BalancedScopingState, measure: Measure, extra_args: Mapping[str, Any]
    ) -> tuple[jax.Array, BalancedScopingState]:
        """Returns the gamma of this step, measured at the first step, and the next state."""
        del extra_args

        def balance():
            value, distance = (jnp.asarray(one) for one in measure())
            can_balance = (value >= 0) & jnp.isfinite(value) & jnp.isfinite(distance)
            # A zero distance (the replicas still coincide) leaves gamma_0 unmeasured, at 0.
            is_apart = can_balance & (distance > 0)
            gamma_0 = value / (0.5 * jnp.where(is_apart, distance, 1.0))  # eq. (2)
            gamma_0 = jnp.where(is_apart, gamma_0, 0.0)
            return gamma_0.astype(state.gamma_0.dtype), can_balance

        # A cond, not a select: replicas on different devices communicate only at the measurement.
        gamma_0, is_balanced = jax.lax.cond(
            state.count == 0, balance, lambda: (state.gamma_0, jnp.asarray(True))
        )
        counted = jnp.where(is_balanced, optax.safe_increment(state.count), state.count)
        return gamma_0 * self.growth(state.count), BalancedScopingState(counted, gamma_0)


Gamma: TypeAlias = ScalarOrSchedule | BalancedScoping


class Scoping:
    """A given gamma: a number, a schedule or a stateful schedule.

    It has the three methods by which the transformations ask for gamma. `BalancedScoping` has the
    same methods, and measures gamma_0.
    """

    def __init__(self, gamma: Any):
        if hasattr(gamma, "init"):
            self._schedule = gamma
        else:
            constant = lambda count: gamma
            self._schedule = optax.schedules.WrappedSchedule(gamma if callable(gamma) else constant)

    def init(self) -> optax.OptState:
        """Returns the schedule's own state."""
        return self._schedule.init()

    def check_start(self, distance: Callable[[], jax.Array]) -> None:
        """Accepts any start: nothing is measured."""
        del distance

    def current(self, state: optax.OptState, extra_args: Mapping[str, Any]) -> jax.Array:
        """Returns the gamma of this step."""
        return as_array(self._schedule(state, **extra_args))

    def step(
        self, state: optax.OptState, measure: Measure, extra_args: Mapping[str, Any]
    ) -> tuple[jax.Array, optax.OptState]:
        """Returns the gamma of this step, and the next state."""
        del measure
        return self.current(state, extra_args), self._schedule.update(state, **extra_args)


def as_scoping(gamma: Any) -> Scoping | BalancedScoping:
    """Converts a number, a schedule or a stateful schedule into a `Scoping`."""
    return gamma if isinstance(gamma, BalancedScoping) else Scoping(gamma)


def at_step(schedule: Any, count: jax.Array) -> jax.Array:
    """Evaluates a number or a schedule at a step."""
    return as_array(schedule(count) if callable(schedule) else schedule)


def as_array(number: chex.Numeric) -> jax.Array:
    """Makes an array of a number; integers beyond JAX's 32 bits become floats."""
    if isinstance(number, int):
        return jnp.asarray(float(number))
    is_numpy = isinstance(number, np.integer | np.ndarray)
    if is_numpy and jnp.issubdtype(number.dtype, jnp.integer):
        number = number.astype(float)
    return jnp.asarray(number)


def loss_of(extra_args: Mapping[str, Any], num_stacked: int | None = None) -> jax.Array:
    """Returns the loss that was passed to `update`; raises if it is missing.

    Args:
      extra_args: extra arguments of `update`.
      num_stacked: number of stacked replicas, each of which may have its own loss; None if they are
        not stacked.
    """
    if extra_args.get("value") is None:
        raise ValueError(
            "value (the loss) must be passed to update(updates, state, params, value=...): "
            "BalancedScoping measures gamma_0 from it."
        )
    value = as_array(extra_args["value"])
    if value.ndim and value.shape != (num_stacked,):
        expected = "a scalar" if num_stacked is None else f"a scalar or of shape ({num_stacked},)"
        raise ValueError(f"value (the loss) must be {expected}, got shape {value.shape}.")
    return value
