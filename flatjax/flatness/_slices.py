"""Slices of the loss along lines and on planes in weight space; pictures.

A slice has an origin, one or two directions, and coordinates at which the loss is evaluated:

- around one solution, along random directions (`flatjax.flatness.random_direction`) or eigenvectors
  of the Hessian (`flatjax.flatness.top_eigenvalues`);
- through two solutions (`flatjax.flatness.line`) or three (`flatjax.flatness.plane`), in units of
  the distance between weights.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from flatjax import _checks
from flatjax._evaluation import EvalFn, check_eval_fn, evaluate
from flatjax.flatness import _inputs, _optional, _tables
from flatjax.flatness._inputs import Batches


@_tables.printed
class Slice1D(NamedTuple):
    """Values along a line.

    Attributes:
      x: coordinates, shape (X,), in units of the direction.
      values: {name: mean over the examples, shape (X,)}, in the units of `eval_fn`.
    """

    x: np.ndarray
    values: dict[str, np.ndarray]

    def table(self) -> _tables.Table:
        """Tabulates where each quantity is smallest and largest; printing shows it."""
        return _extremes(f"Slice at {len(self.x)} points", self.values, self.x)


@_tables.printed
class Slice2D(NamedTuple):
    """Values on a plane.

    Attributes:
      x: coordinates along the first direction, shape (X,).
      y: coordinates along the second direction, shape (Y,).
      values: {name: mean over the examples, shape (Y, X)}, in the units of `eval_fn`.
    """

    x: np.ndarray
    y: np.ndarray
    values: dict[str, np.ndarray]

    def table(self) -> _tables.Table:
        """Tabulates where each quantity is smallest and largest; printing shows it."""
        title = f"Slice at {len(self.x)} x {len(self.y)} points (x, y)"
        return _extremes(title, self.values, self.x, self.y)


def slice_1d(
    eval_fn: EvalFn, x: ArrayLike, *, state_fn: Callable[..., Sequence[Any]] | None = None
) -> Callable[..., Slice1D]:
    r"""Makes a function that evaluates the loss along a line, :math:`L(w + x \, d)`.

    Cost: X evaluations of the batches (and calls of `state_fn`). Nothing is recompiled for other
    points, or solutions of the same shapes.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`.
      x: coordinates, shape (X,).
      state_fn: `state_fn(params, *state) -> state`, a sequence, is called at each point. Batch
        statistics are valid only for their own weights: for networks with batch norm, pass a
        function that calls `flatjax.batch_stats.reestimate`. Without it, state is fixed.

    Returns:
      `fn(origin, direction, batches, *state) -> Slice1D`. It loops over batches in Python around
      jitted steps; do not jit it.

    Raises:
      ValueError: x is empty, not one-dimensional or not finite. When called: there are no batches,
        or `batches` is an iterator.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax.flatness import line, slice_1d
      >>> def eval_fn(params, batch):
      ...     return {"loss": len(batch) * jnp.sum(params**2), "count": len(batch)}
      >>> through = line(jnp.array([0.0, 0.0]), jnp.array([3.0, 4.0]))
      >>> measure = slice_1d(eval_fn, through.coordinates)
      >>> measure(through.origin, through.direction, [jnp.ones(1)]).values["loss"].round(3)
      array([ 0., 25.])

    See Also:
      `line` (makes the points), `plot_slice` (draws it), `slice_2d` (on a plane).
    """
    points = _check_coordinates("x", x)
    values_at = _values_at(eval_fn, state_fn)

    def measure(
        origin: chex.ArrayTree, direction: chex.ArrayTree, batches: Batches, *state: Any
    ) -> Slice1D:
        values = values_at([(a,) for a in points], origin, (direction,), batches, state)
        return Slice1D(points, values)

    return measure


def slice_2d(
    eval_fn: EvalFn,
    x: ArrayLike,
    y: ArrayLike,
    *,
    state_fn: Callable[..., Sequence[Any]] | None = None,
) -> Callable[..., Slice2D]:
    r"""Makes a function that evaluates the loss on a plane.

    The points are :math:`w + x \, d_1 + y \, d_2`. Cost: X Y evaluations of the batches (and calls
    of `state_fn`). Nothing is recompiled for other points, or solutions of the same shapes.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`.
      x: coordinates along the first direction, shape (X,).
      y: coordinates along the second direction, shape (Y,).
      state_fn: `state_fn(params, *state) -> state`, a sequence, is called at each point; see
        `slice_1d`.

    Returns:
      `fn(origin, (direction, direction), batches, *state) -> Slice2D`. It loops over batches in
      Python around jitted steps; do not jit it.

    Raises:
      ValueError: x or y is empty, not one-dimensional or not finite. When called: there are no
        batches, `batches` is an iterator, or there are not two directions.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax.flatness import slice_2d
      >>> def eval_fn(params, batch):
      ...     return {"loss": len(batch) * jnp.sum(params**2), "count": len(batch)}
      >>> measure = slice_2d(eval_fn, x=[0.0, 1.0, 2.0], y=[0.0, 3.0])
      >>> measure(jnp.zeros(2), tuple(jnp.eye(2)), [jnp.ones(1)]).values["loss"]
      array([[ 0.,  1.,  4.],
             [ 9., 10., 13.]])

    See Also:
      `plane` (makes the points), `plot_slice` (draws it), `slice_1d` (on a line).
    """
    xs, ys = _check_coordinates("x", x), _check_coordinates("y", y)
    values_at = _values_at(eval_fn, state_fn)

    def measure(
        origin: chex.ArrayTree,
        directions: tuple[chex.ArrayTree, chex.ArrayTree],
        batches: Batches,
        *state: Any,
    ) -> Slice2D:
        if len(directions) != 2:
            raise ValueError(f"directions must be a pair of them, got {len(directions)}.")
        points = [(a, b) for b in ys for a in xs]
        values = values_at(points, origin, tuple(directions), batches, state)
        shape = len(ys), len(xs)
        return Slice2D(xs, ys, {name: value.reshape(shape) for name, value in values.items()})

    return measure


def plot_slice(
    found: Slice1D | Slice2D,
    name: str = "loss",
    *,
    ax: Any = None,
    points: ArrayLike | None = None,
    labels: Sequence[str] | None = None,
    log: bool = False,
    levels: int | Sequence[float] = 12,
    **style: Any,
) -> Any:
    """Draws a slice: a curve for one dimension, contours for two.

    Cost: no evaluation.

    Args:
      found: result of `slice_1d` or `slice_2d`.
      name: name of the quantity to draw.
      ax: matplotlib axes; the axes of a new figure by default.
      points: coordinates of solutions to mark, shape (P,), or (P, 2) for two dimensions, such as
        the coordinates of a `line` or `plane`.
      labels: P names of the marked solutions.
      log: whether the values (in two dimensions, the levels and colours) have a logarithmic scale.
        Values of 0 and below are then left blank. Infinite values are always left blank.
      levels: in two dimensions, the number of contours, or their values.
      **style: further arguments of `ax.plot` or `ax.contourf`.

    Returns:
      The axes.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: an unknown name, points or labels of the wrong shape, or no value to draw.

    Examples:
      >>> import matplotlib
      >>> matplotlib.use("Agg")
      >>> import numpy as np
      >>> from flatjax.flatness import Slice1D, plot_slice
      >>> x = np.linspace(-1, 1, 20)
      >>> plot_slice(Slice1D(x, {"loss": x**2}), points=[0.0], labels=["SGD"]).get_ylabel()
      'loss'

    See Also:
      `slice_1d` (makes it), `slice_2d` (makes it).
    """
    _optional.require("matplotlib.pyplot", "plot_slice")
    if name not in found.values:
        raise ValueError(f"name must be one of {sorted(found.values)}, got {name!r}.")
    num_axes = 2 if isinstance(found, Slice2D) else 1
    points = np.zeros((0, num_axes)) if points is None else np.asarray(points, dtype=float)
    points = points[:, None] if points.ndim == 1 else points
    if points.ndim != 2 or points.shape[1] != num_axes:
        raise ValueError(f"points must have {num_axes} coordinates each, got {points.shape}.")
    labels = [""] * len(points) if labels is None else labels
    if len(labels) != len(points):
        raise ValueError(f"labels must name {len(points)} points, got {len(labels)}.")

    values = np.asarray(found.values[name], dtype=float)
    values = np.where(np.isfinite(values) & ((values > 0) | (not log)), values, np.nan)
    if np.isnan(values).all():
        kind = "positive and finite: draw them with log=False" if log else "finite"
        raise ValueError(f"found must have a value of {name!r} to draw, got none that is {kind}.")
    ax = _optional.new_axes("plot_slice", ax)
    if num_axes == 1:
        ax.plot(found.x, values, **{"label": name, **style})
        ax.set(xlabel="x (1 = length of d)", ylabel=name, yscale="log" if log else "linear")
        ax.legend(frameon=False)
        points = np.column_stack([points, np.interp(points[:, 0], found.x, values)])
    else:
        _draw_contours(ax, found, values, name, levels, log, style)
    if len(points):
        _mark(ax, points, labels)
    return ax


def _draw_contours(ax, found, values, name, levels, log, style):
    from matplotlib import colors, ticker

    extend = "both" if np.ndim(levels) else "neither"  # only given levels may exclude values
    if np.ndim(levels) == 0:
        levels = _levels(np.nanmin(values), np.nanmax(values), levels, log)
    style = {"norm": colors.LogNorm() if log else None, "extend": extend, **style}
    masked = np.ma.masked_invalid(values)
    filled = ax.contourf(found.x, found.y, masked, levels, **style)
    ax.contour(found.x, found.y, masked, filled.levels, colors="white", linewidths=0.4)
    ax.figure.colorbar(filled, ax=ax, label=name, format=ticker.FormatStrFormatter("%.3g"))
    ax.set(xlabel="x (1 = length of d₁)", ylabel="y (1 = length of d₂)", aspect="equal")


def _levels(low, high, number, log):
    """Makes levels from the lowest to the highest value, or around a constant value."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        margin = abs(low) / 2 or 1.0
        low, high = low - margin, high + margin
    elif not log:
        return number  # matplotlib chooses round values
    return np.geomspace(low, high, number) if log else np.linspace(low, high, number)


def _mark(ax, points, labels):
    ax.plot(*points.T, linestyle="", marker="o", color="white", markeredgecolor="black", zorder=3)
    box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}
    for point, label in zip(points, labels, strict=True):
        if label:
            ax.annotate(label, point, (6, 6), textcoords="offset points", fontsize=9, bbox=box)


def _values_at(eval_fn, state_fn):
    """Makes values_at(points, origin, directions, batches, state) -> {name: means}."""
    check_eval_fn(eval_fn)
    eval_fn = jax.jit(eval_fn)

    def measured(tree, name):  # complex leaves move too, and are wide enough
        return _inputs.measured(tree, lambda tree: jax.tree.map(_inputs.is_real, tree), name)

    def values_at(points, origin, directions, batches, state):
        data = _inputs.repeatable(batches)
        origin = measured(origin, "origin")
        directions = [measured(direction, "direction") for direction in directions]

        def evaluate_at(coordinates):
            params = _move(origin, directions, coordinates)
            state_there = state if state_fn is None else state_fn(params, *state)
            return evaluate(eval_fn, params, data, *state_there)

        means = [evaluate_at(coordinates) for coordinates in points]
        return {name: np.array([m[name] for m in means], dtype=float) for name in means[0]}

    return values_at


@jax.jit  # once for all slices: a barrier makes a new slice at each call
def _move(origin, directions, coordinates):
    def move_leaf(w, *ds):
        if not jnp.issubdtype(w.dtype, jnp.inexact):
            return w
        step = sum(a * d for a, d in zip(coordinates, ds, strict=True))
        return (w + step).astype(w.dtype)

    return jax.tree.map(move_leaf, origin, *directions)


def _extremes(title, values, *axes) -> _tables.Table:
    """Tabulates the smallest and largest finite values, with coordinates."""

    def shown(value, choose):
        finite = np.where(np.isfinite(value), value, np.nan)
        if np.isnan(finite).all():
            return _tables.MISSING
        index = np.unravel_index(choose(finite), value.shape)[::-1]  # values are (Y, X)
        place = ", ".join(f"{axis[i]:.3g}" for axis, i in zip(axes, index, strict=True))
        return f"{_tables.number(value[index[::-1]])} at ({place})"

    found = {
        "smallest": [shown(value, np.nanargmin) for value in values.values()],
        "largest": [shown(value, np.nanargmax) for value in values.values()],
    }
    return _tables.of_quantities([title], "quantity", [*values], found)


def _check_coordinates(name, values):
    values = _checks.real_array(name, values)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"{name} must be a list of finite coordinates, got {values}.")
    return values
