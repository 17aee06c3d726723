"""Measures saved runs and reports."""

import dataclasses
import pathlib

from experiments.engine.train import load_final_model
from experiments.report import store
from experiments.studies.flatness.description import Effort
from experiments.studies.flatness.measures import Measures
from experiments.studies.flatness.report import report


def measure_runs(
    directories: list[pathlib.Path],
    out: pathlib.Path,
    effort: Effort,
    *,
    progress: bool = True,
    trust: bool = False,
) -> str:
    """Measures saved runs; writes flatness.json, flatness.md and flatness.png.

    Args:
      directories: of runs: the final model of each is measured, or the newest checkpoint of one
        that is not complete.
      out: directory of the report.
      effort: how accurately.
      trust: import the modules of models that are not flatjax's.
      progress: print a line for each run as it is measured.

    Returns:
      The table.

    Raises:
      FileNotFoundError: a directory that holds no run, or no checkpoint.
      ValueError: a damaged file, or a module that is not trusted.
    """
    rows = []
    measures = None
    for directory in directories:
        config, task, params, batch_stats = load_final_model(directory, trust=trust)
        held_out = task.evaluate(params, batch_stats)
        if measures is None or task.objective.network != measures.objective.network:
            measures = Measures(task.objective, effort)
        found = measures(task, params, batch_stats)
        rows.append(
            {
                "run": str(directory),
                "algorithm": config.algorithm.name,
                "seed": config.seed,
                "test_error": 100 * float(held_out["error"]),
                **found,
            }
        )
        if progress:
            print(f"measured {directory}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    store.write_json(out / "flatness.json", {"effort": dataclasses.asdict(effort), "runs": rows})
    return report(rows, effort, out)
