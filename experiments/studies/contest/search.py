"""The search of one contestant in one setting, as a function of errors."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.report.statistics import standard_error
from experiments.studies.contest.description import Contestant, Tuned
from experiments.studies.halving import Errors, halve
from experiments.studies.spaces import Choice, Range, log_uniform

Settings = dict[str, float]


class Search(NamedTuple):
    """How far a search is.

    Attributes:
      candidates: all settings that are tried, those of extensions last.
      missing: candidate and seed of the runs that come next; none if the search is complete.
      chosen: the candidate of least mean error, once the search is complete.
      ties: other candidates of the last round within one standard error of the paired difference.
      extended: the ranges that were extended, in turn: field and end ("low", "high" or "zero").
      edges: the ends near which the choice still lies, after all extensions that are allowed.
      first_errors: mean validation error of each candidate of the first round, before extensions;
        none while that round is incomplete.
    """

    candidates: list[Settings]
    missing: list[tuple[int, int]]
    chosen: int | None
    ties: list[int]
    extended: list[tuple[str, str]]
    edges: list[tuple[str, str]]
    first_errors: list[float]

    def summary(self) -> dict[str, Any]:
        """Returns what reports say of a complete search, as values for JSON."""
        return {
            "ties": [self.candidates[tie] for tie in self.ties],
            "candidates": len(self.candidates),
            "extended": [f"{field} ({end})" for field, end in self.extended],
            "at_edge": [f"{field} ({end})" for field, end in self.edges],
        }


def search(study: Tuned, contestant: str, errors: Errors) -> Search:
    """Halves the candidates; extends a range where the choice is at its edge.

    Args:
      study: its rounds and ranges.
      contestant: its label.
      errors: (candidate, seed) -> validation error of the runs that are done.
    """
    candidates = study.candidates(contestant)
    ranges: dict[str, Range] = dict(study.contestants[contestant].space)
    extended: list[tuple[str, str]] = []
    first_errors: list[float] = []
    for number in range(study.extensions + 1):
        (_, seeds), *rest = study.rounds
        rounds = [(len(candidates), seeds), *rest]
        field, missing = halve(errors, range(len(candidates)), rounds)
        first_errors = first_errors or _first_errors(study, errors)
        if missing:
            return Search(candidates, missing, None, [], extended, [], first_errors)
        chosen = candidates[field[0]]
        edges = edges_of(study, chosen, ranges)
        last = study.contestants[contestant].last_ends
        edges = [one for one in edges if one not in last]
        edges = [one for one in edges if one[1] != "zero" or one not in extended]
        if not edges or number == study.extensions:
            break
        for edge in edges:
            candidates += _beyond(study, chosen, ranges, edge)
        ranges |= {name: _longer(study, ranges[name], end) for name, end in edges}
        extended += edges
    ties = _ties(errors, field, study.rounds[-1])
    return Search(candidates, [], field[0], ties, extended, edges, first_errors)


def without_search(contestant: Contestant, of: Search) -> Search:
    """Returns the state of a contestant that takes the choice of another one.

    Its only candidate is that choice, changed by its own `fixed`. Before `of` has chosen, there is
    no candidate.
    """
    if of.chosen is None:
        return Search([], [], None, [], [], [], [])
    chosen = of.candidates[of.chosen]
    fixed = {name: value for name, value in contestant.fixed.items() if name in chosen}
    return Search([chosen | fixed], [], 0, [], [], [], [])


def _first_errors(study, errors) -> list[float]:
    """Mean errors of the random candidates, over the seeds of the first round."""
    _, seeds = study.rounds[0]
    runs = [[(one, seed) for seed in range(seeds)] for one in range(study.trials)]
    if not all(run in errors for own in runs for run in own):
        return []
    return [float(np.mean([errors[run] for run in own])) for own in runs]


def edges_of(study: Tuned, chosen: Settings, ranges: Mapping[str, Range]) -> list[tuple[str, str]]:
    """The ends of ranges near which a choice lies: field and "low", "high" or "zero"."""
    edges = []
    for name, part in ranges.items():
        if isinstance(part, Choice) or chosen[name] == 0:
            continue
        low, high = np.log(part)
        position = (math.log(chosen[name]) - low) / (high - low)
        if position < study.edge:
            edges.append((name, "zero" if name in study.ends_at_zero else "low"))
        elif position > 1 - study.edge:
            edges.append((name, "high"))
    return edges


def _beyond(study, chosen, ranges, edge) -> list[Settings]:
    """Candidates beyond one end of a range, and near the choice in all other fields."""
    field, end = edge
    space: dict[str, Range] = {}
    for name, part in ranges.items():
        value = chosen[name]
        if name == field:
            space[name] = _strip(study, part, end)
        elif isinstance(part, Choice) or value == 0:
            space[name] = Choice((value,))
        else:
            low, high = part
            factor = (high / low) ** study.edge
            space[name] = (max(low, value / factor), min(high, value * factor))
    return log_uniform(space, study.extension_trials)


def _strip(study, part, end) -> Range:
    """What an extension adds to a range."""
    if end == "zero":
        return Choice((0.0,))
    low, high = part
    factor = (high / low) ** study.extension
    return (low / factor, low) if end == "low" else (high, high * factor)


def _longer(study, part, end) -> Range:
    """A range with its extension; at 0 nothing is between."""
    if end == "zero":
        return part
    strip = _strip(study, part, end)
    return (strip[0], part[1]) if end == "low" else (part[0], strip[1])


def _ties(errors, field, last_round) -> list[int]:
    keep, seeds = last_round
    column = lambda one: np.array([errors[one, seed] for seed in range(seeds)])
    differences = {one: column(one) - column(field[0]) for one in field[1:keep]}
    return [one for one, d in differences.items() if d.mean() <= standard_error(d)]
