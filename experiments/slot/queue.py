"""What a slot trains: units in the order of their value."""

import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import chex
import jax
import numpy as np

import flatjax
from experiments.configs.deep import row_of
from experiments.engine import evaluate
from experiments.engine.config import TrainConfig
from experiments.engine.objective import Objective
from experiments.engine.population import Population, Trained, Watch, meeting_record
from experiments.engine.task import Task, is_task_of, make_task
from experiments.engine.time_limit import TimeIsUp, TimeLimit
from experiments.slot.records import Records
from flatjax import flatness

# The paper's algorithms, then in its own form, then what they are compared with.
MAIN = ("SGD", "eSGD", "rSGD")
PUBLISHED = ("rSGD, as published", "eSGD, as published")
SMALL_CONVNET = (*MAIN, *PUBLISHED, "SAM", "SWA", "SGD x 3", "rSGD x 3")

# What makes a unit small enough for a CPU, whatever the row.
TOY = {"epochs": 3.0, "train_size": 48, "held_out_size": 48, "batch_size": 16}
TOY |= {"sigmas": (0.3,), "local_energy_samples": 2, "local_energy_examples": 48}


@dataclasses.dataclass(frozen=True)
class Unit:
    """Runs of one algorithm that are trained together.

    Attributes:
      row: of the paper's table.
      label: of the algorithm in that row.
      seeds: of the runs.
    """

    row: str
    label: str
    seeds: tuple[int, ...]

    @property
    def key(self) -> str:
        """Names the unit in records."""
        return f"{self.row}, {self.label}, seeds {self.seeds[0]}-{self.seeds[-1]}"


def units(toy: bool = False) -> list[Unit]:
    """Lists the queue: small networks run side by side, large ones in turn."""
    if toy:
        return [Unit("cifar10-smallconvnet", label, (0, 1)) for label in ("SGD", "rSGD")]
    small = [Unit("cifar10-smallconvnet", label, tuple(range(5))) for label in SMALL_CONVNET]
    large = [
        Unit(row, label, (seed,))
        for row, seeds, labels in (
            ("cifar10-resnet18", (0,), MAIN),
            ("cifar10-resnet18", (0,), ("rSGD, as published", "SGD, flip and crop")),
            ("cifar10-resnet18", (1, 2), MAIN),
            ("cifar10-vit", (0,), MAIN),
        )
        for seed in seeds
        for label in labels
    ]
    return small + large


def config_of(unit: Unit, dataset: str, toy: bool = False) -> TrainConfig:
    """The settings of a unit on the data of the slot."""
    row = row_of(unit.row).with_runs([unit.label])
    config = row.configs()[unit.label].changed(dataset=dataset)
    if not toy:
        options = (*config.network.model_options, "dtype=bfloat16")
        return config.changed(model_options=options)
    own = {"model_options": (*config.network.model_options, *row.reduced_options)}
    return config.changed(**TOY, **own)


def run_queue(
    records: Records,
    limit: TimeLimit,
    dataset: str,
    done: Collection[str],
    *,
    only: Collection[str] = (),
    toy: bool = False,
) -> None:
    """Trains the units that are not done and fit into the time.

    A unit that would not end in time is left, and shorter units are tried.

    Args:
      records: of the slot.
      limit: of the slot; it counts what is left.
      dataset: name of the data.
      done: keys of units that earlier slots have completed.
      only: labels of the algorithms; all if empty.
      toy: whether everything is small.
    """
    runner = _Runner(records, limit, dataset, toy)
    for unit in units(toy):
        if unit.key not in done and (not only or unit.label in only):
            runner.run(unit)


class _Runner:
    """Trains units and records them; units that share data load them once."""

    def __init__(self, records, limit, dataset, toy):
        self._records, self._limit = records, limit
        self._dataset, self._toy = dataset, toy
        self._task: Task | None = None

    def run(self, unit: Unit) -> None:
        """Trains a unit, or says why not."""
        limit, add = self._limit, self._records.add
        start = time.perf_counter()
        try:
            limit.require(unit.key, "start")
            config = config_of(unit, self._dataset, self._toy)
            if self._task is None or not is_task_of(self._task, config):
                self._task = make_task(config)
            models = self._trained(unit, config)
            seconds = time.perf_counter() - start
            with limit.part(unit.key, "finish"):
                runs = list(_results(models, unit))
        except TimeIsUp as reason:
            limit.unfinished += 1
            add("events", unit=unit.key, event=f"left to a later slot: {reason}")
        except Exception as error:  # whatever it is, the next units are trained
            problem = f"{type(error).__name__}: {error}"[:2000]
            add("events", unit=unit.key, event="failed", error=problem)
        else:
            of = {"unit": unit.key, "row": unit.row, "label": unit.label}
            about = {"config": config.to_json(), "data": self._task.fingerprint}
            add("runs", **of, seconds=round(seconds, 2), runs=runs, **about)

    def _trained(self, unit, config) -> list[Trained]:
        count = len(unit.seeds)
        return Population(config, [self._task]).train(
            *([{}] * count, unit.seeds, [0] * count),
            progress=False,
            watch=_Curve(unit, self._task, self._records),
            limit=self._limit,
        )


def _results(models: list[Trained], unit: Unit) -> Iterator[dict[str, Any]]:
    """Errors (in %) and local energy of the final models."""
    for seed, model in zip(unit.seeds, models, strict=True):
        test = model.task.evaluate(model.params, model.batch_stats)
        yield {
            "seed": seed,
            "test_error": 100 * float(test["error"]),
            "test_loss": float(test["loss"]),
            "last_epoch_loss": model.train_loss,
            **_local_energy(model.task, (model.params, model.batch_stats)),
            **meeting_record(model),
        }


def _local_energy(task: Task, network: tuple[chex.ArrayTree, chex.ArrayTree]) -> dict[str, Any]:
    params, batch_stats = network
    energy = task.objective.local_energy(params, task.train_batches, jax.random.key(0), batch_stats)
    return {
        "train_error": 100 * float(energy.reference["error"]),
        "sigma": energy.sigma.tolist(),
        "local_energy": (100 * energy.mean["error"]).tolist(),
    }


class _Curve(Watch):
    """Records local energy and the distance of replicas, ten times a run."""

    def __init__(self, unit: Unit, task: Task, records: Records, moments: int = 10):
        self._unit, self._task, self._records, self._moments = unit, task, records, moments
        self._measure = _few_draws(task.objective)
        self._count: dict[int, int] = {}

    def __call__(self, run: int, done: float, read: Callable[[], dict[str, Any]]) -> None:
        """Records a point of the curve of the first seed, and distances of all."""
        count = int(done * self._moments + 1e-9)
        if count <= self._count.get(run, 0):
            return
        self._count[run] = count
        arrays = read()
        params = arrays["params"]
        record = {"distance": float(flatjax.replica_distance(params, replica_axis=0))}
        if run == 0:
            center = flatjax.replica_center(params, replica_axis=0)
            stats = evaluate.statistics(self._task, center, arrays["batch_stats"])
            energy = self._measure(center, self._task.train_batches, jax.random.key(0), stats)
            record |= {
                "train_error": 100 * float(energy.reference["error"]),
                "local_energy": (100 * np.asarray(energy.mean["error"])).tolist(),
            }
        seed = self._unit.seeds[run]
        self._records.add("curves", unit=self._unit.key, seed=seed, done=round(done, 4), **record)


@functools.lru_cache(maxsize=2)
def _few_draws(objective: Objective) -> Callable[..., flatness.LocalEnergy]:
    return flatness.local_energy(objective.eval_fn, sigmas=objective.sigmas, num_samples=3)
