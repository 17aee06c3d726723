"""The barrier between two solutions: the rise of the loss between them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import numpy as np

from flatjax import _checks
from flatjax._evaluation import EvalFn
from flatjax.flatness import _optional, _tables
from flatjax.flatness._directions import line
from flatjax.flatness._inputs import Batches
from flatjax.flatness._slices import slice_1d


@_tables.printed
class Barrier(NamedTuple):
    """Values on the line between two solutions.

    Attributes:
      t: position on the line: 0 at the first solution, 1 at the second, shape (X,).
      values: {name: mean over the examples, shape (X,)}.
      height: {name: largest value above the straight line between the two ends, 0 or more}.
      distance: distance between the solutions.
    """

    t: np.ndarray
    values: dict[str, np.ndarray]
    height: dict[str, float]
    distance: float

    def table(self) -> _tables.Table:
        """Tabulates the values at the ends and the barrier; printing shows it."""
        found = {
            "first": [_tables.number(v[0]) for v in self.values.values()],
            "second": [_tables.number(v[-1]) for v in self.values.values()],
            "barrier": [_tables.number(self.height[name]) for name in self.values],
        }
        title = [f"Barrier between two solutions at a distance of {self.distance:.4g}"]
        return _tables.of_quantities(title, "quantity", [*self.values], found)

    def plot(self, name: str = "loss", ax: Any = None, **style: Any) -> Any:
        """Draws one quantity along the line, with the height of the barrier.

        Args:
          name: name of the quantity.
          ax: matplotlib axes; the axes of a new figure by default.
          **style: style of the curve, for matplotlib; `label` names it.

        Returns:
          The axes.

        Raises:
          ImportError: matplotlib is not installed.
          ValueError: the quantity is unknown.
        """
        if name not in self.values:
            raise ValueError(f"name must be one of {sorted(self.values)}, got {name!r}.")
        ax = _optional.new_axes("Barrier.plot", ax)
        values = self.values[name]
        chord = _chord(self.t, values)
        style = {"color": "#0072B2", "label": name} | style
        (curve,) = ax.plot(self.t, values, **style)
        above = np.argmax(np.nan_to_num(values - chord, nan=-np.inf))
        between = f"between the ends; barrier {_tables.number(self.height[name], 3)}"
        ax.plot(self.t, chord, "--", color=curve.get_color(), linewidth=1, label=between)
        ax.vlines(self.t[above], chord[above], values[above], color=curve.get_color(), linewidth=1)
        ax.set(xlabel="t, weights (1 − t) w₀ + t w₁", ylabel=f"{name}, mean over examples")
        ax.legend(frameon=False, loc="upper left")
        return ax


def described(found: Barrier, name: str, first: str) -> str:
    """Describes a barrier in a sentence, given the names of the two solutions."""
    rises = ", ".join(f"{of} {_tables.number(rise)}" for of, rise in found.height.items())
    return f"The barrier between {name} and {first}: {rises}."


def barrier(
    eval_fn: EvalFn,
    *,
    num_points: int = 21,
    state_fn: Callable[..., Sequence[Any]] | None = None,
) -> Callable[..., Barrier]:
    r"""Measures the loss on the line between two solutions, and how high it rises.

    .. math::
      \max_{t \in [0, 1]} \Big[ L\big((1 - t) w_0 + t w_1\big) - (1 - t) L(w_0) - t L(w_1) \Big]

    [Frankle et al., 2020; Entezari et al., 2022]. Solutions without a barrier are called linearly
    connected. Networks that were trained separately usually have a barrier. One reason is that
    their hidden units are in a different order.

    Cost: `num_points` evaluations of the batches. Nothing is recompiled for other solutions of the
    same shapes.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`.
      num_points: number of points on the line, including both ends.
      state_fn: `state_fn(params, *state) -> state`, called at each point, see
        `flatjax.flatness.slice_1d`. For networks with batch norm, pass a function that calls
        `flatjax.batch_stats.reestimate`.

    Returns:
      `fn(first, second, batches, *state) -> Barrier`. Do not jit it.

    Raises:
      ValueError: num_points < 3. When called: the solutions are equal or differ in shape, or there
        are no batches.

    Examples:
      Two minima of a double well, :math:`(w^2 - 1)^2`:

      >>> import jax.numpy as jnp
      >>> from flatjax.flatness import barrier
      >>> def eval_fn(params, batch):
      ...     return {"loss": len(batch) * (params**2 - 1) ** 2, "count": len(batch)}
      >>> found = barrier(eval_fn)(jnp.array(-1.0), jnp.array(1.0), [jnp.ones(1)])
      >>> round(found.height["loss"], 4)
      1.0

    See Also:
      `soup` (the mean of several solutions), `slice_1d` (the loss on any line), `line` (the points
      between two solutions).
    """
    _checks.check_count("num_points", num_points, minimum=3)
    t = np.linspace(0.0, 1.0, num_points)

    def measure(
        first: chex.ArrayTree, second: chex.ArrayTree, batches: Batches, *state: Any
    ) -> Barrier:
        through = line(first, second)
        distance = float(through.coordinates[1])
        along = slice_1d(eval_fn, distance * t, state_fn=state_fn)
        values = along(through.origin, through.direction, batches, *state).values
        height = {name: float(np.max(value - _chord(t, value))) for name, value in values.items()}
        return Barrier(t, values, height, distance)

    return measure


def _chord(t: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the straight line between the values at the two ends."""
    return (1 - t) * values[0] + t * values[-1]
