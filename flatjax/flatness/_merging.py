r"""Merging: how high the loss rises between two solutions, and the mean of many.

For two solutions :math:`w_0, w_1` and the values L of an evaluation function,

.. math::
  w(t) = (1 - t)\, w_0 + t\, w_1, \qquad
  B = \max_{0 \le t \le 1} \left[ L(w(t)) - (1 - t)\, L(w_0) - t\, L(w_1) \right] \tag{1}

is the *barrier* between them (Frankle et al. 2020, arXiv:1912.05671; Entezari et al. 2022,
arXiv:2110.06296). Where it is about 0 for all pairs, weights can be averaged: the mean
:math:`\bar w` of several solutions is a *soup* (Wortsman et al. 2022, arXiv:2203.05482).

The weights in between, and their mean, have batch statistics that belong to no solution. Both
functions take `state_fn`, which measures them again.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax._center import replica_center
from flatjax._checks import check_count
from flatjax._evaluation import EvalFn, check_eval_fn, evaluate
from flatjax.flatness import _inputs
from flatjax.flatness._directions import line
from flatjax.flatness._inputs import Batches
from flatjax.flatness._slices import slice_1d

StateFn = Callable[..., Sequence[Any]]


class Barrier(NamedTuple):
    """What is between two solutions.

    Attributes:
      t: fractions of the way, shape (T,), from 0 to 1.
      values: {name: mean over the examples, shape (T,)}, in the units of `eval_fn`.
      height: {name: the barrier of eq. (1)}, 0 at least, in the same units.
      place: {name: the fraction t at which it is reached}.
    """

    t: np.ndarray
    values: dict[str, np.ndarray]
    height: dict[str, float]
    place: dict[str, float]


class Soup(NamedTuple):
    """The mean of several solutions.

    Attributes:
      params: its weights, of the dtypes of the solutions.
      state: what `state_fn` measured of it, or the state that was given.
      members: positions of the solutions that are in it.
      values: {name: mean over the examples} of the soup.
    """

    params: chex.ArrayTree
    state: tuple[Any, ...]
    members: tuple[int, ...]
    values: dict[str, float]


def barrier(
    eval_fn: EvalFn, *, points: int = 11, state_fn: StateFn | None = None
) -> Callable[..., Barrier]:
    r"""The barrier between two solutions, along the segment that joins them: eq. (1).

    A barrier of about 0 says that both lie in one basin: their mean is as good as they are. Of
    networks trained from different initial weights it is high, unless their units are put in one
    order first, which this function does not do.

    Cost: `points` evaluations of the batches (and calls of `state_fn`).

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`.
      points: T, the number of points from one solution to the other, both included. The maximum is
        taken over them.
      state_fn: `state_fn(params, *state) -> state`, a sequence, is called at each point, both ends
        included. Of networks with batch norm, pass a `flatjax.batch_stats.reestimate`.

    Returns:
      `fn(start, end, batches, *state) -> Barrier`. It loops over batches in Python around jitted
      steps, and is not to be jitted itself.

    Raises:
      ValueError: `points` is below 3, or (when called) the solutions are the same or of different
        shapes, or there are no batches.

    Examples:
      Two minima of a double well, and two points of the same minimum:

      >>> import jax.numpy as jnp
      >>> from flatjax import flatness
      >>> def eval_fn(params, batch):
      ...     return {"loss": len(batch) * jnp.sum((params**2 - 1) ** 2), "count": len(batch)}
      >>> measure = flatness.barrier(eval_fn)
      >>> found = measure(jnp.array([-1.0]), jnp.array([1.0]), [jnp.ones(1)])
      >>> round(found.height["loss"], 3), found.place["loss"]
      (1.0, 0.5)
      >>> measure(jnp.array([0.9]), jnp.array([1.1]), [jnp.ones(1)]).height["loss"] < 1e-6
      True
    """
    t = np.linspace(0, 1, check_count("points", points, minimum=3))
    check_eval_fn(eval_fn)
    eval_fn = jax.jit(eval_fn)  # once for all pairs

    def measure(
        start: chex.ArrayTree, end: chex.ArrayTree, batches: Batches, *state: Any
    ) -> Barrier:
        through = line(start, end)
        values_at = slice_1d(eval_fn, t * through.coordinates[1], state_fn=state_fn)
        values = values_at(through.origin, through.direction, batches, *state).values
        rises = {name: v - (1 - t) * v[0] - t * v[-1] for name, v in values.items()}
        place = {name: float(t[np.argmax(rise)]) for name, rise in rises.items()}
        height = {name: max(float(rise.max()), 0.0) for name, rise in rises.items()}
        return Barrier(t, values, height, place)

    return measure


def soup(
    eval_fn: EvalFn, *, greedy: str | None = None, state_fn: StateFn | None = None
) -> Callable[..., Soup]:
    r"""The mean of the weights of several solutions, all of them or those that help.

    A *greedy* soup takes the solution of the lowest value first, then the others in the order of
    their values, each if the value of the mean does not rise. Choose by examples that are neither
    trained on nor tested on.

    Cost: one evaluation of the batches (and call of `state_fn`); if greedy, up to twice as many as
    there are solutions.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`.
      greedy: name of the value that chooses, such as `"error"`; None takes all solutions.
      state_fn: `state_fn(params, *state) -> state`, a sequence, is called for each mean. Of
        networks with batch norm, pass a `flatjax.batch_stats.reestimate`.

    Returns:
      `fn(solutions, batches, *state) -> Soup` of a list of pytrees. `state` is that of any of the
      solutions. It is not to be jitted.

    Raises:
      ValueError: (when called) there are no solutions, they differ in structure, `greedy` is no
        name of a value, or there are no batches.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax import flatness
      >>> def eval_fn(params, batch):
      ...     return {"loss": len(batch) * jnp.sum(params**2), "count": len(batch)}
      >>> solutions = [jnp.array([1.0]), jnp.array([-1.5]), jnp.array([20.0])]
      >>> found = flatness.soup(eval_fn, greedy="loss")(solutions, [jnp.ones(1)])
      >>> found.members, found.params
      ((0, 1), Array([-0.25], dtype=float32))
    """
    check_eval_fn(eval_fn)
    eval_fn = jax.jit(eval_fn)

    def measure(solutions: Sequence[chex.ArrayTree], batches: Batches, *state: Any) -> Soup:
        data, solutions = _inputs.repeatable(batches), list(solutions)
        if not solutions:
            raise ValueError("solutions must hold one at least, got none.")

        def mean_of(members: tuple[int, ...]) -> Soup:
            stack = jax.tree.map(
                lambda *leaves: jnp.stack(leaves), *(solutions[i] for i in members)
            )
            params = replica_center(stack, replica_axis=0)
            there = state if state_fn is None else tuple(state_fn(params, *state))
            found = evaluate(eval_fn, params, data, *there)
            return Soup(params, there, members, {name: float(v) for name, v in found.items()})

        if greedy is None:
            return mean_of(tuple(range(len(solutions))))
        alone = [mean_of((i,)) for i in range(len(solutions))]
        if greedy not in alone[0].values:
            raise ValueError(
                f"greedy must be a name of eval_fn's values, {sorted(alone[0].values)}, "
                f"got {greedy!r}."
            )
        first, *others = sorted(alone, key=lambda one: one.values[greedy])
        best = first
        for one in others:
            larger = mean_of(tuple(sorted(best.members + one.members)))
            best = larger if larger.values[greedy] <= best.values[greedy] else best
        return best

    return measure
