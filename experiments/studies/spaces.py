"""The settings that a search tries: a grid, or points that fill a space evenly."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats.qmc


def grid(space: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Returns all combinations of the values of each field.

    Examples:
      >>> grid({"learning_rate": (0.1, 0.2), "gamma": (1.0,)})
      [{'learning_rate': 0.1, 'gamma': 1.0}, {'learning_rate': 0.2, 'gamma': 1.0}]
    """
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


@dataclasses.dataclass(frozen=True)
class Choice:
    """A field that takes one of a few values, instead of a range.

    Attributes:
      values: the values.
    """

    values: tuple[float, ...]


Range = tuple[float, float] | Choice


def log_uniform(space: Mapping[str, Range], number: int) -> list[dict[str, float]]:
    """Returns points of a Halton sequence, log-uniform in a space, to three digits.

    Args:
      space: field -> smallest and largest value, or a choice of equally likely values.
      number: number of points; the first ones are the same for any number.

    Examples:
      >>> log_uniform({"learning_rate": (0.01, 0.3)}, 2)
      [{'learning_rate': 0.111}, {'learning_rate': 0.0202}]
      >>> log_uniform({"inner_steps": Choice((5, 20))}, 3)
      [{'inner_steps': 20}, {'inner_steps': 5}, {'inner_steps': 20}]
    """
    points = scipy.stats.qmc.Halton(len(space), rng=0).random(number)
    return [
        {name: _value(part, float(u)) for (name, part), u in zip(space.items(), row, strict=True)}
        for row in points
    ]


def _value(part: Range, u: float) -> float:
    """Returns the value at a position from 0 to 1 of a range or choice."""
    if isinstance(part, Choice):
        return part.values[int(u * len(part.values))]
    low, high = np.log(part)
    return float(f"{np.exp(low + u * (high - low)):.3g}")
