"""The complete parts of a contest and all differences, from the records."""

import pathlib
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.report.statistics import (
    holm,
    holm_levels,
    least_detectable,
    or_nan,
    p_below,
    paired_difference,
)
from experiments.studies.contest.description import Contest, Tuned
from experiments.studies.contest.run import Records, read_records
from experiments.studies.contest.search import Search

LEVEL = 0.05
PRIMARY = "primary"
COMPARED = ("test_error", "test_loss", "scaled_loss")


class Part(NamedTuple):
    """A contestant in a setting.

    Attributes:
      search: how its settings were chosen; None for arms that have no search of their own.
      records: of the test, one for each seed, in their order.
    """

    search: Search | None
    records: Records

    @property
    def diverged(self) -> int:
        """The number of runs that diverged: they have a test error of 100%, and no loss."""
        return sum(record["test_loss"] is None for record in self.records)

    def column(self, name: str) -> np.ndarray:
        """One outcome of all seeds; NaN where a run diverged."""
        return np.array([or_nan(record.get(name)) for record in self.records])

    def rise(self, name: str, quantity: str = "error") -> np.ndarray:
        """One rise of all seeds."""
        return np.array([or_nan(record["rises"][name][quantity]) for record in self.records])


Results = dict[str, dict[str, Part]]


def read_contest(contest: Contest, out: pathlib.Path) -> Results:
    """What is complete: settings with their baseline and another contestant.

    What was recorded along the baseline's runs follows it, as "<baseline>, ema" and so on.

    Raises:
      ValueError: a record is damaged, or of another contest.
    """
    results: Results = {}
    for setting in contest.settings:
        if setting not in contest.lengths:
            continue
        seeds = contest.seeds_of_test(setting)
        parts: dict[str, Part] = {}
        for name in contest.contestants:
            found, tested = read_records(contest, setting, name, out)
            records = {record["seed"]: record for record in tested}
            if found.chosen is not None and all(seed in records for seed in seeds):
                parts[name] = Part(found, [records[seed] for seed in seeds])
        baseline = parts.get(contest.baseline)
        if baseline is not None and len(parts) > 1:
            results[setting] = parts | _besides(contest.baseline, baseline)
    return results


def _besides(baseline, part) -> dict[str, Part]:
    names = part.records[0].get("besides", {})
    take = lambda name: [{"seed": r["seed"]} | r["besides"][name] for r in part.records]
    return {f"{baseline}, {name}": Part(None, take(name)) for name in names}


def comparisons(
    study: Tuned, results: Results, settings: Collection[str], quantities: Sequence[str] = COMPARED
) -> list[dict[str, Any]]:
    """All paired differences of interest, with 95% and corrected intervals.

    The protocol fixes the primary family and its size: hypotheses whose records are
    missing count as p = 1. Every other family is of one quantity and one reference. A run that
    diverged has no loss: differences of its losses count in their families, and are left out.

    Args:
      study: who is compared.
      results: what is complete.
      settings: all settings of the study.
      quantities: names of outcomes; the primary comparisons use the first one.
    """
    families: dict[str, list[dict[str, Any]]] = {}
    for quantity in quantities:
        for reference in (study.baseline, *study.references):
            for setting, parts in results.items():
                for name in _compared_with(study, reference, parts):
                    row = _difference(parts, setting, name, reference, quantity)
                    is_primary = (
                        quantity == quantities[0]
                        and reference == study.baseline
                        and name in study.primary
                    )
                    row["family"] = PRIMARY if is_primary else f"{quantity} to {reference}"
                    families.setdefault(row["family"], []).append(row)
    planned = len(study.primary) * len(settings)
    for family, rows in families.items():
        _correct(rows, planned if family == PRIMARY else len(rows), results)
    return [row for rows in families.values() for row in rows if np.isfinite(row["difference"])]


def _compared_with(study, reference, parts) -> Sequence[str]:
    """The baseline is compared with all, a reference with the algorithms under test."""
    if reference not in parts:
        return ()
    besides = (study.baseline, *study.references)
    if reference == study.baseline:
        return [name for name in parts if name != reference]
    return [name for name in parts if name not in besides and parts[name].search is not None]


def _difference(parts, setting, name, reference, quantity) -> dict[str, Any]:
    values, others = parts[name].column(quantity), parts[reference].column(quantity)
    mean, interval, p = paired_difference(values, others)
    return {
        "setting": setting,
        "contestant": name,
        "reference": reference,
        "quantity": quantity,
        "seeds": len(values),
        "difference": mean,
        "interval": interval,
        "p": p,
    }


def _correct(rows, size, results) -> None:
    """Adds the corrected p-value and interval of each row of a family."""
    p = np.array([row["p"] for row in rows] + [1.0] * (size - len(rows)))
    p = np.where(np.isnan(p), 1.0, p)
    for row, corrected, level in zip(rows, holm(p), holm_levels(p, LEVEL), strict=False):
        parts, name = results[row["setting"]], row["quantity"]
        columns = [parts[row[who]].column(name) for who in ("contestant", "reference")]
        row["family_size"] = size
        row["p_corrected"] = float(corrected)
        row["corrected_interval"] = paired_difference(*columns, confidence=1 - level)[1]


def reaches(contest: Contest, results: Results) -> list[dict[str, Any]]:
    """Who is at most `margin` points worse than the first reference.

    All others are tested in each setting, what was recorded along the baseline's runs too. Holm's
    method corrects the one-sided tests of a setting; contestants without records count as p = 1.
    """
    if contest.margin is None:
        return []
    reference, rows = contest.references[0], []
    for setting, parts in results.items():
        if reference not in parts:
            continue
        others = [name for name in parts if name != reference]
        own = [_difference(parts, setting, name, reference, "test_error") for name in others]
        errors = parts[reference].column("test_error")
        p = [p_below(parts[name].column("test_error"), errors, contest.margin) for name in others]
        missing = [1.0 for name in contest.contestants if name not in parts]
        for row, one, corrected in zip(own, p, holm(p + missing).tolist(), strict=False):
            changes = {"p": one, "p_corrected": corrected, "reaches": corrected < LEVEL}
            rows.append(row | changes | {"family_size": len(p) + len(missing)})
    return rows


def least_differences(contest: Contest, results: Results) -> dict[str, float]:
    """Setting -> the least difference that both primary tests detect."""
    if not contest.primary:
        return {}
    level = LEVEL / (len(contest.primary) * len(contest.settings))
    found = {}
    for setting, parts in results.items():
        errors = parts[contest.baseline].column("test_error")
        least = [
            least_detectable(parts[name].column("test_error") - errors, level)
            for name in contest.primary
            if name in parts
        ]
        if least:
            found[setting] = max(least)
    return found
