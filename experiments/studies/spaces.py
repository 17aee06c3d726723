"""The settings that a search tries: all of a grid, or points that fill a space evenly."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats.qmc


def grid(space: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All combinations of the values of each field.

    Examples:
      >>> grid({"learning_rate": (0.1, 0.2), "gamma": (1.0,)})
      [{'learning_rate': 0.1, 'gamma': 1.0}, {'learning_rate': 0.2, 'gamma': 1.0}]
    """
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def log_uniform(space: Mapping[str, tuple[float, float]], number: int) -> list[dict[str, float]]:
    """Points of a Halton sequence, log-uniform in a space, to three digits.

    Args:
      space: field -> least and largest value.
      number: of points; the first ones are the same for any number.

    Examples:
      >>> log_uniform({"learning_rate": (0.01, 0.3)}, 2)
      [{'learning_rate': 0.111}, {'learning_rate': 0.0202}]
    """
    points = scipy.stats.qmc.Halton(len(space), rng=0).random(number)
    low, high = np.log(list(space.values())).T
    return [
        {name: float(f"{value:.3g}") for name, value in zip(space, np.exp(row), strict=True)}
        for row in low + points * (high - low)
    ]
