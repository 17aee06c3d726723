"""Measures networks on disk by `flatjax.flatness.report`."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

import flatjax
from experiments.engine.train import load_final_model
from experiments.studies.flatness import report as reporting
from experiments.studies.flatness.files import Description, load_network, read_variables
from flatjax import flatness

KEY = 0  # the same noise for all networks


class Effort(NamedTuple):
    """How accurately networks are measured.

    Attributes:
      level: of `flatjax.flatness.report`.
      num_samples: draws of the noise, and random vectors of the trace; None for the level's number.
      progress: print a line for each network as it is measured; where stderr is a terminal, also
        the cost beforehand and a bar.
    """

    level: str = "standard"
    num_samples: int | None = None
    progress: bool = True


def measure_runs(
    directories: Sequence[pathlib.Path],
    out: pathlib.Path,
    effort: Effort,
    *,
    trust: bool = False,
) -> str:
    """Measures saved runs; writes flatness.json, flatness.md and flatness.png.

    Args:
      directories: of runs: the final model of each is measured, or the newest checkpoint of one
        that is not complete.
      out: directory of the report.
      effort: how accurately.
      trust: import the modules of models that are not flatjax's.

    Returns:
      The tables.

    Raises:
      FileNotFoundError: a directory that holds no run, or no checkpoint.
      ValueError: a damaged file, or a module that is not trusted.
    """
    rows, first, names = [], None, _names(directories, 2)
    for directory in directories:
        config, task, params, batch_stats = load_final_model(directory, trust=trust)
        if first is None or task.objective.network != first.network:
            first = task.objective  # whose programs serve all runs of its network
        held_out = task.evaluate(params, batch_stats)
        about = {
            "run": str(directory),
            "algorithm": config.algorithm.name,
            "seed": config.seed,
            "test_error": 100 * float(held_out["error"]),
        }
        found = _report(effort, first.eval_fn, params, task.train_batches, batch_stats)
        rows.append(reporting.Measured(names[directory], about, found))
        _say(effort, directory)
    return reporting.report(rows, out)


def measure_files(
    description: Description,
    files: Sequence[pathlib.Path],
    out: pathlib.Path,
    effort: Effort,
) -> str:
    """Measures networks that were trained elsewhere, as `measure_runs` does.

    Args:
      description: of the network and its data.
      files: parameters, and batch statistics if the network has them, of each network.
      out: directory of the report.
      effort: how accurately.

    Returns:
      The tables.

    Raises:
      FileNotFoundError: a file that does not exist.
      ValueError: a file of an unknown format, or arrays of another network.
    """
    network = load_network(description)
    eval_fn = flatness.classification(network.module)
    rows, names = [], _names(files, 1)
    for file in files:
        params, state = read_variables(file, network.shapes)
        held_out = flatjax.evaluate(jax.jit(eval_fn), params, network.test_batches, state)
        about: dict[str, Any] = {"run": str(file), "model": description.model}
        about["test_error"] = 100 * float(held_out["error"])
        found = _report(effort, eval_fn, params, network.train_batches, state)
        rows.append(reporting.Measured(names[file], about, found))
        _say(effort, file)
    return reporting.report(rows, out)


def _names(paths: Sequence[pathlib.Path], parts: int) -> dict[pathlib.Path, str]:
    """Names of paths in tables: last parts, or whole paths if these are alike."""
    short = {path: "/".join(path.parts[-parts:]) for path in paths}
    return short if len(set(short.values())) == len(short) else {path: str(path) for path in paths}


def _say(effort: Effort, path: pathlib.Path) -> None:
    if effort.progress:
        print(f"measured {path}", flush=True)


def _report(effort: Effort, eval_fn: Any, params: Any, batches: Any, state: Any) -> flatness.Report:
    options: dict[str, Any] = {"level": effort.level, "num_samples": effort.num_samples}
    progress = None if effort.progress else False
    return flatness.report(eval_fn, params, batches, KEY, state, progress=progress, **options)
