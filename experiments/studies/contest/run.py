"""Tunes every contestant alike, then tests each once on fresh seeds.

Each setting and contestant has a file of JSON lines, one for each run, with what the run belongs
to. Lines are written when a unit of runs is done, and the same command continues from them; one
process at a time works on a file.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

import flatjax
from experiments.engine.config import TrainConfig
from experiments.engine.population import Watch, meeting_record
from experiments.engine.population_files import Nested
from experiments.engine.task import dataset_digest, make_tasks
from experiments.engine.time_limit import TimeIsUp, TimeLimit
from experiments.report import provenance, store
from experiments.report.store import slug
from experiments.studies.contest.description import Contest
from experiments.studies.contest.outcomes import Measures
from experiments.studies.contest.search import Search, search, without_search
from experiments.studies.runs import seeds_of_data, train_in_units, validation_errors
from experiments.studies.units import lacking, run_units

Records = list[dict[str, Any]]


def run_contest(
    contest: Contest, out: pathlib.Path, *, progress: bool = True, limit: TimeLimit | None = None
) -> None:
    """Runs what `out` has no record of.

    Args:
      contest: what to run.
      out: directory; each setting has its own, with a file for each contestant.
      progress: show progress bars.
      limit: of the wall time; it counts what is left.

    Raises:
      ValueError: the length of a setting is not known, or a file in `out` is damaged, or of another
        contest.
    """
    contest.require_lengths(list(contest.settings))
    limit = limit or TimeLimit()
    options = {"progress": progress, "limit": limit}
    units = [
        ((setting, name), functools.partial(_run_part, contest, setting, name, out, options))
        for setting in contest.settings
        for name in contest.contestants
    ]
    for _ in run_units(units, limit):
        pass


def path_of(out: pathlib.Path, setting: str, contestant: str) -> pathlib.Path:
    """The file of a setting and contestant."""
    return out / slug(setting) / f"{slug(contestant)}.jsonl"


def read_records(
    contest: Contest, setting: str, contestant: str, out: pathlib.Path
) -> tuple[Search, Records]:
    """Reads the state of the search and the records of the test.

    All records must belong to the contest.

    Raises:
      ValueError: a record is damaged, or of other settings; the message names file and line.
    """
    path = path_of(out, setting, contestant)
    records = store.read_lines(path)
    parts: dict[str, Records] = {"validation": [], "test": []}
    for record in records:
        parts[record["part"]].append(record)
    errors = {(r["candidate"], r["seed"]): r["validation_error"] for r in parts["validation"]}
    parent = contest.contestants[contestant].choice_of
    if parent is None:
        found = search(contest, contestant, errors)
    else:
        searched = read_records(contest, setting, parent, out)[0]
        found = without_search(contest.contestants[contestant], searched)
    data = _data(contest)
    for number, record in enumerate(records, start=1):
        place = f"{path}, line {number}"
        if not record["candidate"] < len(found.candidates):
            raise store.OtherIdentityError(
                f"{place} belongs to another contest: candidate {record['candidate']} is none of "
                "this one."
            )
        config = config_of(contest, setting, contestant, record["part"])
        settings = found.candidates[record["candidate"]]
        wanted = {"config": config.to_json(), "settings": settings, "data": data}
        wanted |= {"revision": provenance.TRAINING}
        store.check_identity(wanted, record, place)
    if parts["test"]:
        # A test is of the choice, or the records are not those of one search.
        store.check_identity({"candidate": found.chosen}, parts["test"][0], f"the test in {path}")
    return found, parts["test"]


def config_of(contest: Contest, setting: str, contestant: str, part: str) -> TrainConfig:
    """Settings that all runs of a part share.

    The baseline's test also follows the average of its weights.
    """
    config = contest.config(setting, contestant, part)
    if part == "test" and contestant == contest.baseline:
        decay = contest.outcomes.ema_decay[config.network.model]
        config = config.changed(algorithm="ema", ema_decay=decay)
    return config


def _data(contest) -> str:
    return dataset_digest(contest.base.data.dataset)


def _run_part(contest, setting, contestant, out, options):
    path = path_of(out, setting, contestant)
    options = options | {"checkpoint": path.with_suffix(".npz")}
    with store.claimed(path):
        read = functools.partial(read_records, contest, setting, contestant, out)
        while (found := read()[0]).missing:
            _validate(contest, setting, contestant, path, found, options)
        found, tested = read()
        if found.chosen is None:  # the other one's runs are left to another process or call
            other = contest.contestants[contestant].choice_of
            raise TimeIsUp(f"{contestant} waits for the choice of {other}.")
        seeds = lacking(tested, contest.seeds_of_test(setting), lambda seed: {"seed": seed})
        if seeds:
            _test(contest, setting, contestant, path, found, seeds, options)


def _append(contest, path, config, unit, keys, settings, outcomes):
    """Writes the record of one run."""
    about = {
        "settings": settings,
        "seconds": unit.seconds,
        "gradient_evaluations": unit.gradient_evaluations,
        "config": config.to_json(),
        "data": _data(contest),
        "revision": provenance.TRAINING,
    }
    store.append_line(path, store.signed(keys | outcomes | about))


def _validate(contest, setting, contestant, path, found, options):
    """The runs that the search lacks."""
    config = config_of(contest, setting, contestant, "validation")
    settings = [found.candidates[candidate] for candidate, _ in found.missing]
    seeds = [seed for _, seed in found.missing]
    units = train_in_units(config, settings, seeds, normalized_by=0, **options)
    for unit in units:
        for position, model in zip(unit.positions, unit.models, strict=True):
            keys = {"part": "validation", "candidate": found.missing[position][0]}
            keys |= {"seed": seeds[position]}
            _append(contest, path, config, unit, keys, settings[position], validation_errors(model))


def _test(contest, setting, contestant, path, found, seeds, options):
    """The chosen candidate on the seeds of the test that are missing."""
    config = config_of(contest, setting, contestant, "test")
    settings = found.candidates[found.chosen]
    held_out = contest.config(setting, contestant, "validation")
    first = contest.first_test_seed
    data_seeds = seeds_of_data(seeds, first)
    tasks = dict(zip(data_seeds, make_tasks(held_out, data_seeds), strict=True))
    limit, is_baseline = options["limit"], contestant == contest.baseline
    follow = _Follow(contest.outcomes.watched, tasks, seeds) if is_baseline else None
    measures = None
    units = train_in_units(
        config, [settings] * len(seeds), seeds, normalized_by=first, watch=follow, **options
    )
    for unit in units:
        measures = measures or Measures(contest.outcomes, unit.models[0].task)
        for position, model in zip(unit.positions, unit.models, strict=True):
            keys = {"part": "test", "candidate": found.chosen, "seed": seeds[position]}
            with limit.part(config, "finish"):
                tuned_on = tasks[seeds[position]]
                outcomes = _outcomes(measures, model, tuned_on, follow, position)
            _append(contest, path, config, unit, keys, settings, outcomes)


def _outcomes(measures, model, tuned_on, follow, position):
    """Outcomes of a model; if followed, also of its best moment and average."""
    validation = tuned_on.batches(tuned_on.held_out)
    quality = lambda network: measures.quality(*network, validation)
    network, besides = (model.params, model.batch_stats), {}
    if follow is not None:
        followed = follow.models.pop(position)
        besides = {"ema": quality(network), "stopped early": quality(followed.best)}
        besides["stopped early"]["stopped_at"] = followed.best_at
        network = followed.last
    found = quality(network)
    if found["test_loss"] is not None:
        train = model.task.batches(model.task.train[: measures.examples])
        found |= measures.robustness(*network, train)
    return found | ({"besides": besides} if besides else {}) | meeting_record(model)


class _Followed:
    """One run of the baseline: its best and its last weights."""

    def __init__(self):
        self.best = self.last = None
        self.best_error, self.best_at = float("inf"), 0.0
        self.count = 0

    def arrays(self) -> Nested:
        numbers = np.array([self.best_error, self.best_at, self.count])
        networks = {"best": self.best, "last": self.last}
        return {"numbers": numbers} | {
            name: {"params": params, "batch_stats": batch_stats}
            for name, (params, batch_stats) in networks.items()
        }

    def restore(self, arrays: Nested) -> "_Followed":
        self.best_error, self.best_at, count = map(float, arrays["numbers"])
        self.count = int(count)
        network = lambda found: (found["params"], found.get("batch_stats", {}))
        self.best, self.last = network(arrays["best"]), network(arrays["last"])
        return self


class _Follow(Watch):
    """Looks at runs of one network while they train, a number of times, evenly.

    Attributes:
      models: run -> what was seen of it.
    """

    def __init__(self, number, tasks, seeds):
        self._number, self._tasks, self._seeds = number, tasks, seeds
        self.models: dict[int, _Followed] = {}

    def __call__(self, run: int, done: float, read: Callable[[], dict[str, Any]]) -> None:
        """Called after every epoch."""
        count = int(done * self._number + 1e-9)
        followed = self.models.setdefault(run, _Followed())
        if count <= followed.count:
            return
        followed.count = count
        arrays = read()
        network = flatjax.replica_center((arrays["params"], arrays["batch_stats"]), replica_axis=0)
        task = self._tasks[self._seeds[run]]
        error = float(task.evaluate(*network, task.batches(task.held_out))["error"])
        followed.last = network
        if followed.best is None or error < followed.best_error:
            followed.best, followed.best_error, followed.best_at = network, error, round(done, 4)

    def arrays(self) -> Nested:
        """The networks that were seen so far."""
        seen = {run: one for run, one in self.models.items() if one.count}
        return {str(run): followed.arrays() for run, followed in seen.items()}

    def restore(self, arrays: Nested) -> None:
        """Goes back to what `arrays` returned."""
        self.models = {int(run): _Followed().restore(one) for run, one in arrays.items()}
