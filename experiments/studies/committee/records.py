"""The records of the study of committees, each with the settings of its result."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.report import provenance, store
from experiments.studies.committee.description import CommitteeStudy, Solver
from experiments.studies.spaces import grid

# The dependencies of each file's records, in addition to task, number of units and solver.
DEPENDENCIES = {
    "tuning": (),
    "solutions": ("overlaps", "sampled_overlaps", "sigmas", "num_samples", "direct_samples"),
    "estimators": ("sampled_overlaps", "direct_samples"),
    "tempering": ("betas", "chain_steps"),
}

# Settings that are newer than recorded results. Records omit them at their defaults, so that the
# identities of those results do not change.
NEWER = ("common_start",)


def identity(study: CommitteeStudy, kind: str, solver: Solver) -> dict[str, Any]:
    """Returns everything on which a record depends, as values for JSON.

    Args:
      study: study of the record.
      kind: a name of `DEPENDENCIES`, the name of the file without its suffix.
      solver: solver that found the solution.
    """
    found = {
        "task": {name: plain(value) for name, value in dataclasses.asdict(study.task).items()},
        "num_units": study.num_units,
        "settings": as_json(solver),
        "revision": provenance.COMMITTEE,
    }
    if kind in ("estimators", "tempering"):  # they use one solution of each algorithm
        found |= {"subset": study.subsets[0], "seed": study.seeds[0]}
    return found | {name: plain(getattr(study, name)) for name in DEPENDENCIES[kind]}


def read(
    study: CommitteeStudy,
    chosen: Mapping[str, Solver],
    path: pathlib.Path,
    data: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Reads a file's records, checks their identities and removes them.

    Args:
      study: study to which the records must belong.
      chosen: label -> settings.
      path: tuning.jsonl, solutions.jsonl, estimators.jsonl or tempering.jsonl.
      data: fingerprint of the data set. It is not compared if None, or if a record has none.

    Raises:
      ValueError: a record is damaged, or belongs to other settings.
    """
    records = store.read_lines(path)
    for number, record in enumerate(records, start=1):
        place = f"{path}, line {number}"
        label = record["solver"]
        if label not in study.solvers:
            raise store.OtherIdentityError(
                f"{place} belongs to another study: this one has no solver {label!r}."
            )
        if "identity" not in record:
            raise store.DamagedFileError(f"{place} does not know its settings. Delete the file.")
        solver = study.solvers[label] if path.stem == "tuning" else chosen[label]
        if path.stem == "tuning":
            solver = type(solver).from_json(record["settings"])
        found = record.pop("identity")
        wanted = identity(study, path.stem, solver)
        wanted |= {"data": data} if data is not None and "data" in found else {}
        store.check_identity(wanted, found, place)
    return records


def candidates(study: CommitteeStudy, label: str) -> list[Solver]:
    """Returns the settings to try for one label: all combinations of its space."""
    solver = study.solvers[label]
    return [dataclasses.replace(solver, **values) for values in grid(study.spaces.get(label, {}))]


def choose(study: CommitteeStudy, path: pathlib.Path) -> dict[str, Solver]:
    """Returns the settings of least validation error in tuning.jsonl; see `run.tune`."""
    records = read(study, {}, path)

    def errors(label, solver):
        keys = {"solver": label, "settings": as_json(solver)}
        found = [record for record in records if keys.items() <= record.items()]
        names = ("validation_error", "train_error")
        return [np.mean([record[name] for record in found]) if found else 0.0 for name in names]

    return {
        label: min(candidates(study, label), key=functools.partial(errors, label))
        for label in study.solvers
    }


def as_json(solver: Solver) -> dict[str, Any]:
    """Converts the settings of a solver to values for JSON."""
    return {
        field.name: plain(value)
        for field in dataclasses.fields(solver)
        if (value := getattr(solver, field.name)) != field.default or field.name not in NEWER
    }


def plain(value: Any) -> Any:
    """Converts a tuple to a list, as in JSON."""
    return list(value) if isinstance(value, tuple) else value
