"""Runs a row of the paper's table; a reduced row is checked after a restart."""

import pathlib
import sys
from typing import Any

from experiments.engine.run_directory import read_result
from experiments.engine.time_limit import TimeLimit
from experiments.engine.train import load_final_model
from experiments.report import store
from experiments.report.store import slug
from experiments.studies.compare.description import Comparison
from experiments.studies.compare.run import compare
from flatjax import data


def reproduce(
    study: Comparison,
    out: pathlib.Path,
    *,
    reduced: bool,
    progress: bool = True,
    limit: TimeLimit | None = None,
) -> int:
    """Runs a row (see `compare`); a reduced one is restored and evaluated again.

    Args:
      study: study of the row, whole or reduced.
      out: directory of the row.
      reduced: whether to write reduced.json, which says whether losses fell and whether saved
        models evaluate to the same results.
      progress: show progress bars.
      limit: limit of the wall time.

    Returns:
      The exit status.
    """
    status = compare(study, out, progress=progress, limit=limit)
    if reduced:
        found = {label: _check(out / slug(label) / "seed-0") for label in study.runs}
        store.write_json(out / "reduced.json", {label: row for label, row in found.items() if row})
    return status


def _check(directory: pathlib.Path) -> dict[str, Any] | None:
    """Checks a reduced run; returns None if it is not complete."""
    result = read_result(directory)
    if result is None:
        return None
    _, task, params, batch_stats = load_final_model(directory)
    losses = [record["train_loss"] for record in result["history"]]
    found = {
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "test_error": result["test_error"],
        "restored_test_error": round(100 * float(task.evaluate(params, batch_stats)["error"]), 4),
        "local_energy": result["local_energy"]["error"][-1],
        "seconds": result["seconds"],
    }
    averaged = "test_error_averaged_statistics"
    return found | ({averaged: result[averaged]} if averaged in result else {})


def available_dataset() -> str:
    """Returns Fashion-MNIST, or digits and a message if it is missing."""
    try:
        data.load("fashion_mnist")
    except (FileNotFoundError, ConnectionError) as error:
        print(f"{error}\nDigits are taken instead.", file=sys.stderr)
        return "digits"
    return "fashion_mnist"
