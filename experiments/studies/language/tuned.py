"""The primary arms again, with settings that validation data choose for each.

Settings are searched one after another on a grid of powers, again and again until none changes.
While the best value is at an edge, the grid has one more value there.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.engine.time_limit import TimeLimit
from experiments.studies.language.description import Language
from experiments.studies.language.run import read_study, run_study

Choice = tuple[tuple[str, float], ...]  # setting and value, in the order of the axes


class Search(NamedTuple):
    """The state of a search.

    Attributes:
      choice: the chosen settings; None while candidates are missing.
      missing: candidates that the search needs next.
      tried: setting -> value -> bits, of the settings whose candidates are complete; the last ones
        of each setting.
    """

    choice: Choice | None
    missing: list[Choice]
    tried: dict[str, dict[float, float]]


class Tuned(NamedTuple):
    """What is known of the tuned arms.

    Attributes:
      searches: arm -> state of its search.
      records: arm -> seed -> record of a run with the chosen settings.
    """

    searches: dict[str, Search]
    records: dict[str, dict[int, dict[str, Any]]]

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return any(found.tried for found in self.searches.values())


def search(axes: Mapping[str, Sequence[float]], bits: Mapping[Choice, float]) -> Search:
    """Goes through the settings as far as candidates are complete.

    Args:
      axes: setting -> values that are tried first, at least two.
      bits: bits of complete candidates; less is better, and NaN is worst.

    Examples:
      >>> bits = {(("rate", 1.0),): 3.0, (("rate", 2.0),): 2.0}
      >>> search({"rate": (1.0, 2.0)}, bits).missing
      [(('rate', 4.0),)]
      >>> search({"rate": (1.0, 2.0)}, bits | {(("rate", 4.0),): 2.5}).choice
      (('rate', 2.0),)
    """
    current = {name: values[len(values) // 2] for name, values in axes.items()}
    before: dict[str, float] = {}
    tried: dict[str, dict[float, float]] = {}
    while current != before:
        before = dict(current)
        for name, first in axes.items():
            missing, found = _search_axis(current, name, first, bits)
            if missing:
                return Search(None, missing, tried)
            current[name], tried[name] = best_of(found), found
    return Search(tuple(current.items()), [], tried)


def _search_axis(current, name, first, bits) -> tuple[list[Choice], dict[float, float]]:
    """Grows the grid of a setting until its best value is inside.

    Returns the candidates that are missing, or else the bits of all values.
    """
    values, ratio = list(first), first[1] / first[0]
    best = current[name]
    while True:
        # A value that was chosen before is on the grid, too, and not at its edge.
        while best >= values[-1]:
            values.append(values[-1] * ratio)
        while best <= values[0]:
            values.insert(0, values[0] / ratio)
        keys = {value: tuple((current | {name: value}).items()) for value in values}
        if missing := [key for key in keys.values() if key not in bits]:
            return missing, {}
        found = {value: bits[key] for value, key in keys.items()}
        if values[0] < (best := best_of(found)) < values[-1]:
            return [], found


def best_of(bits: Mapping[float, float]) -> float:
    """Returns the value with the fewest bits; NaN is worst."""
    return min(bits, key=lambda value: (math.isnan(bits[value]), bits[value]))


def candidates_of(study: Language, arm: str, choices: Sequence[Choice]) -> Language:
    """Returns the study of some candidates of an arm, on validation data."""
    own = study.tuning
    base = study.base.changed(validation=own.validation, evaluate_on="validation")
    arms = {label(arm, choice): study.arms[arm] | dict(choice) for choice in choices}
    part = dataclasses.replace(study, base=base, points=1, flat_points=0)
    return _other_runs(part, arms, own.seeds)


def final_of(study: Language, searches: Mapping[str, Search]) -> Language:
    """Returns the study of arms with chosen settings: fresh seeds, test data."""
    chosen = {arm: found.choice for arm, found in searches.items() if found.choice is not None}
    arms = {arm: study.arms[arm] | dict(choice) for arm, choice in chosen.items()}
    return _other_runs(study, arms, study.tuning.final_seeds)


def label(arm: str, choice: Choice) -> str:
    """Names a candidate.

    Examples:
      >>> label("AdamW", (("learning_rate", 0.002),))
      'AdamW, learning_rate=0.002'
    """
    return ", ".join([arm, *(f"{name}={value:g}" for name, value in choice)])


def run_tuned(
    study: Language, out: pathlib.Path, *, progress: bool = True, limit: TimeLimit | None = None
) -> None:
    """Searches and trains what has no record in `out` yet.

    The arguments are those of `run_study`. Arms that are not in `study.tuning.axes` are left out.
    """
    limit = limit or TimeLimit()
    for arm in _arms(study):
        before: list[Choice] | None = None
        while (missing := _search(study, arm, out).missing) and missing != before:
            part = candidates_of(study, arm, missing)
            run_study(part, _folder(out, "search"), progress=progress, limit=limit)
            before = missing  # the same again: left to another process, or to a later call
    searches = {arm: _search(study, arm, out) for arm in _arms(study)}
    final = final_of(study, searches)
    run_study(final, _folder(out, "final"), progress=progress, limit=limit)


def read_tuned(study: Language, out: pathlib.Path) -> Tuned:
    """Reads the searches and the complete runs with chosen settings."""
    searches = {arm: _search(study, arm, out) for arm in _arms(study)}
    records = read_study(final_of(study, searches), _folder(out, "final"))
    return Tuned(searches, records)


def _arms(study: Language) -> list[str]:
    return [arm for arm in study.tuning.axes if arm in study.arms]


def _folder(out: pathlib.Path, name: str) -> pathlib.Path:
    return out / "tuned" / name


def _search(study: Language, arm: str, out: pathlib.Path) -> Search:
    """Repeats the search of an arm on the records that are there."""
    bits: dict[Choice, float] = {}
    while missing := (found := search(study.tuning.axes[arm], bits)).missing:
        records = read_study(candidates_of(study, arm, missing), _folder(out, "search"))
        complete = {
            choice: sum(unit["final"]["bits"] for unit in units.values()) / len(units)
            for choice in missing
            if len(units := records.get(label(arm, choice), {})) == len(study.tuning.seeds)
        }
        if not complete:
            break
        bits |= complete
    return found


def _other_runs(study: Language, arms, seeds: Sequence[int]) -> Language:
    """Replaces arms and seeds; learning coefficients are not measured."""
    own = dataclasses.replace(study.coefficient, seeds=())
    return dataclasses.replace(study, arms=arms, seeds=seeds, coefficient=own, primary=())
