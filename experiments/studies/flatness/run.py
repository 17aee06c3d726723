"""Measures networks on disk by `flatjax.flatness.report`."""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import flatjax
from experiments.engine.task import Task
from experiments.engine.train import load_final_model, load_run
from experiments.studies.flatness import report as reporting
from experiments.studies.flatness.files import Description, load_network, read_variables
from experiments.studies.flatness.merging import Merged, evaluation_of, merge
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

    Also measures barriers and means: of the replicas of a run, and of runs of one network on the
    same data.

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
    networks, models = [], {}
    for directory in directories:
        config, task, params, batch_stats = load_final_model(directory, trust=trust)
        if first is None or task.objective.network != first.network:
            first = task.objective  # whose programs serve all runs of its network
        networks.append(task.objective.network)
        models[names[directory]] = params
        held_out = task.evaluate(params, batch_stats)
        about = {
            "run": str(directory),
            "algorithm": config.algorithm.name,
            "seed": config.seed,
            "test_error": 100 * float(held_out["error"]),
        }
        found = _report(effort, first.eval_fn, params, task.train_batches, batch_stats)
        replicas = None
        if config.num_replicas > 1:
            replicas = _merged_replicas(directory, task, batch_stats, trust)
        rows.append(reporting.Measured(names[directory], about, found, replicas))
        _say(effort, directory)
    merged = None
    if reporting.are_comparable(rows) and all(one == networks[0] for one in networks):
        merged = merge(evaluation_of(task), models, batch_stats)
    return reporting.report(rows, out, merged)


def _merged_replicas(
    directory: pathlib.Path, task: Task, batch_stats: Any, trust: bool
) -> Merged | None:
    """Merges the replicas in the newest checkpoint; None if it cannot be read."""
    try:
        state = load_run(directory, trust=trust).state
    except (FileNotFoundError, ValueError) as error:
        print(f"the replicas of {directory} are not measured: {error}", file=sys.stderr)
        return None
    members = flatjax.unstack_replicas(flatjax.eval_params(state.opt_state, state.params))
    named = {f"replica {number}": member for number, member in enumerate(members, start=1)}
    return merge(evaluation_of(task), named, batch_stats)


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
    how = network.evaluation
    rows, models, names = [], {}, _names(files, 1)
    for file in files:
        params, state = read_variables(file, network.shapes)
        models[names[file]] = params
        held_out = flatjax.evaluate(how.eval_fn, params, how.held_out_batches, state)
        about: dict[str, Any] = {"run": str(file), "model": description.model}
        about["test_error"] = 100 * float(held_out["error"])
        found = _report(effort, how.eval_fn, params, how.train_batches, state)
        rows.append(reporting.Measured(names[file], about, found))
        _say(effort, file)
    merged = merge(how, models, state) if reporting.are_comparable(rows) else None
    return reporting.report(rows, out, merged)


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
