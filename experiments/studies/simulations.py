"""Simulated points, and their comparison with the theory."""

import dataclasses
import json
import pathlib
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import numpy as np

from experiments.report import bars, provenance, store
from experiments.report.statistics import standard_error
from experiments.studies.units import lacking


@dataclasses.dataclass(frozen=True)
class Point:
    """A value of the theory that is simulated at finite size.

    Attributes:
      curve: curve of a figure on which the point is.
      x: position on that curve.
      params: everything on which it depends, including size; recorded, and part of its name.
      theory: quantity -> value of the theory.
      simulate: function (key) -> quantity -> value of one simulation.
      seeds: number of simulations.
    """

    curve: str
    x: float
    params: Mapping[str, Any]
    theory: Mapping[str, float]
    simulate: Callable[[chex.PRNGKey], Mapping[str, float]]
    seeds: int

    @property
    def name(self) -> str:
        """The name of the point, which no other point has."""
        return f"{self.curve}: {json.dumps(dict(self.params), sort_keys=True)}"

    def key(self, seed: int) -> chex.PRNGKey:
        """Returns the key of one simulation, so that points are independent."""
        return jax.random.fold_in(jax.random.key(seed), zlib.crc32(self.name.encode()))


def simulate_points(
    points: Sequence[Point], path: pathlib.Path, *, progress: bool = True
) -> dict[str, list[dict[str, Any]]]:
    """Simulates what `path` does not hold yet.

    Args:
      points: the points.
      path: file of JSON lines; each simulation is written when it is complete.
      progress: show a progress bar.

    Returns:
      Name of a point -> its simulations: seed, values and seconds.
    """
    wanted = [(seed, point) for point in points for seed in range(point.seeds)]
    with store.claimed(path):
        done = read_simulations(path)
        known = ({"point": name, "seed": run["seed"]} for name, own in done.items() for run in own)
        missing = lacking(known, wanted, lambda run: {"point": run[1].name, "seed": run[0]})
        for seed, point in (bar := bars.bar(missing, progress=progress, desc="simulations")):
            bar.set_postfix_str(point.curve)
            run = _simulated(point, seed)
            about = {"point": point.name, "revision": provenance.of_simulation(point.name)}
            store.append_line(path, store.signed(about | run))
            done.setdefault(point.name, []).append(run)
    return done


def _simulated(point: Point, seed: int) -> dict[str, Any]:
    start = time.perf_counter()
    values = {name: float(value) for name, value in point.simulate(point.key(seed)).items()}
    seconds = round(time.perf_counter() - start, 2)
    return {"seed": seed, "values": values, "seconds": seconds}


def read_simulations(path: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """Reads the simulations of a file, each once, by the name of their point.

    Raises:
      ValueError: a line is damaged, or a program made it that computes other numbers.
    """
    done: dict[str, dict[int, dict[str, Any]]] = {}
    for number, run in enumerate(store.read_lines(path), start=1):
        found = {"revision": run.pop("revision", 1)}
        wanted = {"revision": provenance.of_simulation(run["point"])}
        store.check_identity(wanted, found, f"{path}, line {number}")
        done.setdefault(run.pop("point"), {}).setdefault(run["seed"], run)
    return {name: list(runs.values()) for name, runs in done.items()}


def compare(
    points: Sequence[Point], simulations: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Compares theory and simulation, with a row for each quantity of each point."""
    rows = []
    for point in points:
        runs = [run for run in simulations.get(point.name, []) if run["seed"] < point.seeds]
        if len(runs) < 2:
            continue
        for quantity, theory in point.theory.items():
            values = [run["values"][quantity] for run in runs]
            mean, sem = float(np.mean(values)), float(standard_error(values))
            rows.append(
                {
                    "curve": point.curve,
                    "x": point.x,
                    "params": dict(point.params),
                    "quantity": quantity,
                    "theory": float(theory),
                    "mean": mean,
                    "sem": sem,
                    "z": (mean - float(theory)) / sem if sem > 0 else float("nan"),
                    "seeds": len(runs),
                    "seconds": round(sum(run["seconds"] for run in runs), 1),
                }
            )
    return rows
