"""Successive halving with cumulative records."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

Errors = Mapping[tuple[int, int], float]  # (candidate, seed) -> validation error
Rounds = Sequence[tuple[int, int]]


class Halving(NamedTuple):
    """The state of a halving.

    Attributes:
      field: the candidates of the current round; after the last round, the best first.
      missing: candidate and seed of the missing runs of this round; none after the last round.
    """

    field: list[int]
    missing: list[tuple[int, int]]


def halve(errors: Errors, candidates: Sequence[int], rounds: Rounds) -> Halving:
    """Goes through the rounds for which there are errors.

    Each round has `keep` candidates, the best of the previous round, on seeds 0 ... `seeds` - 1.
    They are ranked by their mean error over these seeds; equal ones keep their order.

    Args:
      errors: errors of the complete runs.
      candidates: candidates of the first round.
      rounds: (keep, seeds) of each round.

    Examples:
      >>> errors = {(0, 0): 3.0, (1, 0): 2.0, (2, 0): 1.0, (1, 1): 2.0, (2, 1): 4.0}
      >>> halve(errors, range(3), [(3, 1), (2, 2)])
      Halving(field=[1, 2], missing=[])
      >>> halve(errors, range(4), [(4, 1), (2, 2)]).missing
      [(3, 0)]
    """
    field = list(candidates)
    for keep, seeds in rounds:
        field = field[:keep]
        missing = [
            (one, seed) for one in field for seed in range(seeds) if (one, seed) not in errors
        ]
        if missing:
            return Halving(field, missing)
        field.sort(key=lambda one: np.mean([errors[one, seed] for seed in range(seeds)]))
    return Halving(field, [])
