"""Soups: the mean of the weights of several solutions, all or a selection.

If the barrier between all pairs is about 0 (see `flatjax.flatness.barrier`), weights can be
averaged [Wortsman et al., 2022, arXiv:2203.05482]. The mean needs its own batch statistics, which
`state_fn` measures. Values of the mean say little without those of each solution alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax._center import replica_center
from flatjax._evaluation import EvalFn, check_eval_fn, evaluate
from flatjax.flatness import _inputs, _tables
from flatjax.flatness._inputs import Batches

StateFn = Callable[..., Sequence[Any]]


@_tables.printed
class Soup(NamedTuple):
    """The mean of several solutions, and the values of each solution alone.

    Attributes:
      params: weights of the mean, in the dtypes of the solutions.
      state: the state that `state_fn` measured for the mean, or the given state.
      members: positions of the averaged solutions.
      values: {name: mean over the examples} of the soup.
      alone: {name: values of all given solutions, shape (S,)}, measured in the same way.
    """

    params: chex.ArrayTree
    state: tuple[Any, ...]
    members: tuple[int, ...]
    values: dict[str, float]
    alone: dict[str, np.ndarray]

    def table(self) -> _tables.Table:
        """Tabulates the values, the members and the solutions alone; printing shows it."""
        found = {
            "soup": [_tables.number(value) for value in self.values.values()],
            "alone, mean": [_tables.number(self.alone[name].mean()) for name in self.values],
            "alone, lowest": [_tables.number(self.alone[name].min()) for name in self.values],
        }
        title = [f"Soup of {len(self.members)} solutions: {', '.join(map(str, self.members))}"]
        return _tables.of_quantities(title, "quantity", [*self.values], found)


def described(found: Soup, names: Sequence[str]) -> str:
    """Describes a soup in a sentence, given the names of all S solutions."""
    values = ", ".join(
        f"{name} {_tables.number(value)} (alone {_tables.number(found.alone[name].mean())} on "
        f"average, {_tables.number(found.alone[name].min())} at the lowest)"
        for name, value in found.values.items()
    )
    return f"The soup of {', '.join(names[i] for i in found.members)}: {values}."


def as_dict(found: Soup, names: Sequence[str]) -> dict[str, Any]:
    """Returns names of the members and all values, for JSON."""
    return {
        "members": [names[i] for i in found.members],
        "values": dict(found.values),
        "alone": {name: values.tolist() for name, values in found.alone.items()},
    }


def soup(
    eval_fn: EvalFn, *, greedy: str | None = None, state_fn: StateFn | None = None
) -> Callable[..., Soup]:
    r"""Makes a function that averages the weights of several solutions.

    A *greedy* soup starts with the solution of the lowest value, and tries the others in the order
    of their values. It adds each one if the value of the mean does not rise. It never takes a
    solution whose own value is NaN or infinite. Choose by examples that are used for neither
    training nor testing.

    Cost: an evaluation of the batches (and call of `state_fn`) for each solution, and one more. A
    greedy soup needs twice as many as there are solutions.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`.
      greedy: name of the value that chooses, such as `"error"`; None averages all solutions.
      state_fn: `state_fn(params, *state) -> state`, a sequence, is called for each mean. For
        networks with batch norm, pass a function that calls `flatjax.batch_stats.reestimate`.

    Returns:
      `fn(solutions, batches, *state) -> Soup`, for a list of pytrees. `state` is the state of any
      of the solutions. Do not jit it.

    Raises:
      ValueError: (when called) there are no solutions or no batches, the solutions differ in
        structure, or `greedy` is not the name of a value that is finite for one solution.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax import flatness
      >>> def eval_fn(params, batch):
      ...     return {"loss": len(batch) * jnp.sum(params**2), "count": len(batch)}
      >>> solutions = [jnp.array([1.0]), jnp.array([-1.5]), jnp.array([20.0])]
      >>> found = flatness.soup(eval_fn, greedy="loss")(solutions, [jnp.ones(1)])
      >>> found.members, found.params
      ((0, 1), Array([-0.25], dtype=float32))
      >>> found.values["loss"], found.alone["loss"].tolist()
      (0.0625, [1.0, 2.25, 400.0])

    See Also:
      `barrier` (between two solutions), `compare` (prints it with reports),
      `flatjax.average_params` (the mean over training).
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
            return Soup(params, there, members, {name: float(v) for name, v in found.items()}, {})

        # Only the values are kept: all weights once more would double the memory.
        each = [mean_of((i,)).values for i in range(len(solutions))]
        alone = {name: np.array([values[name] for values in each]) for name in each[0]}
        if greedy is None:
            return mean_of(tuple(range(len(solutions))))._replace(alone=alone)
        if greedy not in alone:
            raise ValueError(
                f"greedy must be a name of eval_fn's values, {sorted(alone)}, got {greedy!r}."
            )
        value_of = alone[greedy]
        finite = np.flatnonzero(np.isfinite(value_of)).tolist()
        if not finite:
            raise ValueError(
                f"solutions must have a finite {greedy!r}, one of them at least, got {value_of}."
            )
        first, *others = sorted(finite, key=lambda i: value_of[i])
        best = mean_of((first,))
        for i in others:
            larger = mean_of(tuple(sorted((*best.members, i))))
            best = larger if larger.values[greedy] <= best.values[greedy] else best
        return best._replace(alone=alone)

    return measure
