"""Adds today's digests and identities to results recorded before November 2026.

Results of the first contest, the flatness study and the committees get the identity of that study
in `experiments/configs`. Before that, their recorded settings and seeds are compared with the
study's. The data are assumed to be those that the same name loads now. Other files get digests.
Configurations of runs need no conversion here: `engine.earlier_versions` converts them whenever
they are read.
"""

import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any, Literal

import tyro

from experiments.configs import committee as committee_configs
from experiments.configs import first_contest as contest_configs
from experiments.configs import flatness_study as flatness_configs
from experiments.engine import console
from experiments.engine.task import dataset_fingerprint
from experiments.report import store
from experiments.studies.committee import records
from experiments.studies.first_contest import run as contest_run
from experiments.studies.flatness_study import run as flatness_run
from experiments.studies.spaces import grid

_UNKNOWN = {store.MADE_BY: None}  # the program that made an old result is unknown


@dataclasses.dataclass(frozen=True)
class Convert:
    """Add digests and the study's identity to results from before November 2026.

    Example: python -m experiments.convert first-contest runs/first-contest
    """

    study: tyro.conf.Positional[Literal["first-contest", "flatness-study", "committee", "other"]]
    """Kind of the recorded results; "other" only adds digests."""
    directory: tyro.conf.Positional[pathlib.Path]
    """Where."""

    def run(self) -> int:
        """Converts the files that are not converted yet."""
        convert = {
            "first-contest": contest,
            "flatness-study": flatness_study,
            "committee": committee,
        }
        if self.study in convert:
            convert[self.study](self.directory)
        others(self.directory)
        return 0


def _wrap(
    path: pathlib.Path, identity: dict[str, Any], is_of: Callable[[Any], bool]
) -> dict[str, Any] | None:
    """Makes a cached value of an old file, if it exists and belongs to the study."""
    if not path.exists():
        return None
    value = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(value, dict) and store.SEAL in value:
        return value["value"]
    if not is_of(value):
        raise ValueError(f"{path} is not of the study in experiments/configs: left as it is.")
    store.write_json(path, {"identity": identity, "value": value} | _UNKNOWN)
    return value


def contest(out: pathlib.Path) -> None:
    """Converts tuning.json and test.json of every setting and contestant."""
    study = contest_configs.STUDY
    data = {"data": dataset_fingerprint(study.base.data.dataset)}
    as_set = lambda settings: {json.dumps(one, sort_keys=True) for one in settings}
    for part in itertools.product([study], study.settings, study.spaces):
        directory = contest_run.directory_of(out, *part[1:])
        identity = contest_run.tuning_identity(*part)
        candidates = as_set(identity["candidates"])
        tuning = _wrap(
            directory / "tuning.json",
            identity | data,
            lambda rows, wanted=candidates: as_set(row["settings"] for row in rows) == wanted,
        )
        if tuning is not None:
            identity = contest_run.test_identity(*part, tuning[0]["settings"])
            _wrap(
                directory / "test.json",
                identity | data,
                lambda test, wanted=identity: (
                    test["settings"] == wanted["settings"]
                    and [run["seed"] for run in test["runs"]] == wanted["seeds"]
                ),
            )


def flatness_study(out: pathlib.Path) -> None:
    """Converts the file of every block."""
    study = flatness_configs.STUDY
    data = {"data": dataset_fingerprint(study.base.data.dataset)}
    for block in itertools.product(study.tasks, study.algorithms, study.batch_sizes):
        _, algorithm, batch_size = block
        wanted = [
            ({"algorithm": algorithm, "batch_size": batch_size, **factors}, seed)
            for factors, seed in itertools.product(grid(study.factors), study.seeds)
        ]
        _wrap(
            flatness_run.path_of(out, *block),
            flatness_run.identity_of(study, *block) | data,
            lambda rows, wanted=wanted: [(row["factors"], row["seed"]) for row in rows] == wanted,
        )


def committee(out: pathlib.Path) -> None:
    """Converts the records of spherical weights."""
    study = committee_configs.STUDY
    chosen: dict[str, Any] = {}
    for kind in records.DEPENDENCIES:
        path = out / f"{kind}.jsonl"
        lines = store.read_lines(path)
        for line in lines:
            solver = study.solvers[line["solver"]]
            if kind == "tuning":
                solver = type(solver).from_json(line["settings"])
            else:
                solver = chosen[line["solver"]]
            line.setdefault("identity", records.identity(study, kind, solver))
        if lines:
            store.write_lines(path, lines)
        if kind == "tuning":
            chosen = records.choose(study, path)


def others(out: pathlib.Path) -> None:
    """Adds digests to JSON files without; a list becomes the `rows` of an object."""
    for path in sorted(out.rglob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, list) or store.SEAL not in found:
            found = {"rows": found} if isinstance(found, list) else found
            store.write_json(path, found | _UNKNOWN)
    for path in sorted(out.rglob("*.jsonl")):
        store.write_lines(path, store.read_lines(path))


if __name__ == "__main__":
    sys.exit(console.run(Convert, "python -m experiments.convert"))
