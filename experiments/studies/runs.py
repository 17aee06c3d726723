"""Trains the runs of a search in units; records are written between units."""

import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.engine.config import TrainConfig
from experiments.engine.plan import HYPERPARAMETERS, Plan
from experiments.engine.population import Population, Trained, Watch, meeting_record
from experiments.engine.population_files import Nested, PopulationFile
from experiments.engine.programs import train_together
from experiments.engine.task import make_tasks
from experiments.engine.time_limit import TimeLimit
from experiments.report import provenance

# Where runs are trained one after another, each of them is a unit. Where they are trained in
# parallel, a unit ends within 20 minutes if a gradient of one run takes 7 ms.
RUNS_PER_UNIT = 24
GRADIENTS_PER_UNIT = 150_000


class Unit(NamedTuple):
    """Runs that were trained together.

    Attributes:
      positions: positions of the runs in the requested list.
      models: final models of the runs.
      seconds: wall time per run.
      gradient_evaluations: gradient evaluations of each run.
    """

    positions: list[int]
    models: list[Trained]
    seconds: float
    gradient_evaluations: int


def train_in_units(
    config: TrainConfig,
    settings: Sequence[Mapping[str, float]],
    seeds: Sequence[int],
    *,
    normalized_by: int | None = None,
    progress: bool = True,
    watch: Watch | None = None,
    limit: TimeLimit | None = None,
    checkpoint: pathlib.Path | None = None,
) -> Iterator[Unit]:
    """Trains one run for each of the settings; a seed also draws the data.

    Args:
      config: settings that all runs share.
      settings: the fields that differ; all runs have the same fields. Fields that are no
        hyperparameters shape the program: runs that differ in them are in different units.
      seeds: one for each run.
      normalized_by: seed whose data normalise the images of all runs; results then do not depend on
        the runs that are requested together. The default is the smallest of `seeds`.
      progress: show progress bars.
      watch: called after every epoch, see `experiments.engine.population`. It counts runs as in
        `settings`.
      limit: limit of the wall time.
      checkpoint: file for a unit that would not end in time. It is deleted when the next unit is
        requested, because the unit's records are written by then.

    Yields:
      The units, as they are complete.

    Raises:
      TimeIsUp: the limit is reached; the unit was saved first.
    """
    data_seeds = seeds_of_data(seeds, normalized_by)
    tasks = make_tasks(config, data_seeds)
    for shape, group in _groups(settings).items():
        population = Population(config.changed(**dict(shape)), tasks)
        size = _runs_per_unit(population.plan)
        for start in range(0, len(group), size):
            unit = group[start : start + size]
            file = unit_file(checkpoint, config, [(settings[one], seeds[one]) for one in unit])
            began = time.perf_counter()
            models = population.train(
                [settings[position] for position in unit],
                [seeds[position] for position in unit],
                [data_seeds.index(seeds[position]) for position in unit],
                progress=progress,
                watch=_Shifted(watch, unit) if watch else None,
                limit=limit,
                file=file,
            )
            seconds = round((time.perf_counter() - began) / len(unit), 2)
            yield Unit(unit, models, seconds, population.plan.gradient_evaluations)
            if file is not None:
                file.remove()


def unit_file(
    path: pathlib.Path | None, config: TrainConfig, runs: object
) -> PopulationFile | None:
    """Returns the checkpoint of a population with this configuration and these runs."""
    if path is None:
        return None
    identity = {"config": config.to_json(), "runs": runs, "revision": provenance.TRAINING}
    return PopulationFile(path, identity)


def seeds_of_data(seeds: Sequence[int], normalized_by: int | None) -> list[int]:
    """Returns the seeds that have tasks; the first one's data normalise all images."""
    others = sorted(set(seeds) - {normalized_by})
    return others if normalized_by is None else [normalized_by, *others]


def held_out_errors(model: Trained, name: str) -> dict[str, float | None]:
    """Returns `<name>_error` in % (100 for a run that diverged) and `<name>_loss`."""
    found = model.task.evaluate(model.params, model.batch_stats)
    finite = bool(np.isfinite(found["loss"]))
    return {
        f"{name}_error": 100 * float(found["error"]) if finite else 100.0,
        f"{name}_loss": float(found["loss"]) if finite else None,
    }


def validation_errors(model: Trained) -> dict[str, Any]:
    """Returns the held-out error in % (100 for a run that diverged), losses, meeting."""
    return {
        **held_out_errors(model, "validation"),
        "train_loss": model.train_loss if np.isfinite(model.train_loss) else None,
        **meeting_record(model),
    }


def _runs_per_unit(plan: Plan) -> int:
    if not train_together():
        return 1
    return max(1, min(RUNS_PER_UNIT, GRADIENTS_PER_UNIT // plan.gradient_evaluations))


def _groups(settings) -> dict[tuple[tuple[str, Any], ...], list[int]]:
    """Groups the positions of runs that one program can train."""
    groups: dict[tuple[tuple[str, Any], ...], list[int]] = {}
    for position, run in enumerate(settings):
        shape = tuple((name, value) for name, value in run.items() if name not in HYPERPARAMETERS)
        groups.setdefault(shape, []).append(position)
    return groups


class _Shifted(Watch):
    """A watch that numbers the runs of a unit by their positions among all runs."""

    def __init__(self, watch: Watch, unit: Sequence[int]):
        self._watch, self._unit = watch, unit
        self.arrays, self.restore = watch.arrays, watch.restore  # type: ignore[method-assign]

    def __call__(self, run: int, done: float, read: Callable[[], Nested]) -> None:
        self._watch(self._unit[run], done, read)
