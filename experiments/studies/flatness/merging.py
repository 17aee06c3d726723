"""Barriers between networks, and their mean: of replicas, runs or files.

Barriers are measured on training examples. Networks, their mean and their ensemble are evaluated on
held-out examples. Batch statistics are re-estimated at every point.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import optax

import flatjax
from experiments.engine.task import Task
from flatjax import flatness
from flatjax.flatness import Barrier, Soup
from flatjax.flatness._soup import as_dict

NUM_POINTS = 11


class Evaluation(NamedTuple):
    """How networks of one kind are evaluated.

    Attributes:
      eval_fn: `eval_fn(params, batch, state)` sums loss and error.
      state_fn: `state_fn(params, state)` measures batch statistics, as a tuple of one state.
      train_batches: batches for barriers.
      held_out_batches: batches for the mean.
      ensemble_error: error of the mean of predictions, of lists of parameters and states; or None.
    """

    eval_fn: flatjax.EvalFn
    state_fn: Callable[..., Sequence[Any]]
    train_batches: list[dict[str, jax.Array]]
    held_out_batches: list[dict[str, jax.Array]]
    ensemble_error: Callable[..., Any] | None = None


class Merged(NamedTuple):
    """Several networks and their mean.

    Attributes:
      names: names of the networks.
      barriers: {name: barrier to the first network}; networks that equal the first one have none.
      soup: mean of all networks.
      ensemble: held-out error of the mean of their predictions; None if it is not measured.
    """

    names: tuple[str, ...]
    barriers: dict[str, Barrier]
    soup: Soup
    ensemble: float | None

    def height(self, quantity: str) -> float:
        """The highest barrier; 0 if all networks are equal."""
        return max((one.height[quantity] for one in self.barriers.values()), default=0.0)

    def as_json(self) -> dict[str, Any]:
        """All numbers as JSON holds them: errors as fractions, None if not finite."""
        found = {
            "barriers": {name: one.height for name, one in self.barriers.items()},
            "soup": as_dict(self.soup, self.names),
            "ensemble_error": self.ensemble,
        }
        is_bad = lambda leaf: isinstance(leaf, float) and not math.isfinite(leaf)
        return jax.tree.map(lambda leaf: None if is_bad(leaf) else leaf, found)


def evaluation_of(task: Task) -> Evaluation:
    """How networks of a task are evaluated."""
    update, batches = task.objective.update_stats, task.statistics_batches
    reestimate = flatjax.batch_stats.reestimate
    return Evaluation(
        task.objective.eval_fn,
        lambda params, stats: (reestimate(update, params, stats, batches),),
        task.train_batches,
        task.held_out_batches,
        task.ensemble_error,
    )


def merge(how: Evaluation, networks: Mapping[str, chex.ArrayTree], state: Any) -> Merged:
    """Measures barriers from the first network to the others, and the mean of all.

    Args:
      how: data and functions.
      networks: {name: parameters}, two or more of equal shapes.
      state: state of any of them, such as batch statistics.
    """
    first, *others = networks.values()
    measure = flatness.barrier(how.eval_fn, num_points=NUM_POINTS, state_fn=how.state_fn)
    barriers = {
        name: measure(first, other, how.train_batches, state)
        for name, other in list(networks.items())[1:]
        if float(optax.tree.norm(optax.tree.sub(other, first))) > 0
    }
    every = [first, *others]
    soup = flatness.soup(how.eval_fn, state_fn=how.state_fn)(every, how.held_out_batches, state)
    ensemble = None
    if how.ensemble_error is not None:
        states = [how.state_fn(params, state)[0] for params in every]
        ensemble = float(how.ensemble_error(every, states))
    return Merged(tuple(networks), barriers, soup, ensemble)
