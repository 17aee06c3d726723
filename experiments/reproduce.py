"""The rows of the paper's table: run, checked after a restart, and listed with their state."""

import functools
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.compare import compare
from experiments.configs import Study
from experiments.configs.deep import ROWS, Row, row_of
from experiments.costs import read_costs
from experiments.engine.evaluate import held_out_errors
from experiments.engine.run_directory import read_result
from experiments.engine.train import load_run
from experiments.report.store import read_json, slug, write_json
from experiments.report.tables import markdown_table
from flatjax import data

RESULTS = pathlib.Path(__file__).parent / "results" / "reproduce"


def reproduce(study: Study, out: pathlib.Path, *, reduced: bool, progress: bool = True) -> int:
    """Runs a row (see `experiments.compare`); a reduced one is restored and evaluated again.

    Args:
      study: of the row, whole or reduced.
      out: its directory.
      reduced: whether to write reduced.json: did losses fall, do saved models evaluate alike.
      progress: show progress bars.

    Returns:
      The exit status.
    """
    status = compare(study, out, progress=progress)
    if reduced:
        found = {label: _check(out / slug(label) / "seed-0") for label in study.runs}
        write_json(out / "reduced.json", {label: row for label, row in found.items() if row})
    return status


def _check(directory: pathlib.Path) -> dict[str, Any] | None:
    """What a reduced run shows; None if it is not complete."""
    result = read_result(directory)
    if result is None:
        return None
    trainer, state, _ = load_run(directory)
    losses = [record["train_loss"] for record in result["history"]]
    found = {
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "test_error": result["test_error"],
        "restored_test_error": held_out_errors(trainer, state)["test_error"],
        "local_energy": result["local_energy"]["error"][-1],
        "seconds": result["seconds"],
    }
    averaged = "test_error_averaged_statistics"
    return found | ({averaged: result[averaged]} if averaged in result else {})


def available_dataset() -> str:
    """Fashion-MNIST, or digits where it is missing (and says how to get it)."""
    try:
        data.load("fashion_mnist")
    except (FileNotFoundError, ConnectionError) as error:
        print(f"{error}\nDigits are taken instead.", file=sys.stderr)
        return "digits"
    return "fashion_mnist"


def default_directory(name: str, *, reduced: bool) -> pathlib.Path:
    """Where a row is run unless something else is asked for."""
    return pathlib.Path("runs", "reproduce", f"{name}-reduced" if reduced else name)


def table(*, teraflops: float) -> str:
    """Every row and algorithm: what the paper reports, what is here, what it would take.

    Args:
      teraflops: 10^12 operations a second that the accelerator in question sustains.
    """
    header = [
        "data, network",
        "algorithm",
        "reported by the paper",
        "here",
        "reduced: loss, test error",
        "hours on 2 cores",
        f"hours at {teraflops:g} TFLOP/s",
    ]
    costs = read_costs()
    lines = [header]
    for name in ROWS:
        row = row_of(name)
        for label in row.algorithms:
            lines.append(
                [
                    row.title,
                    label,
                    row.reported.get(label, "-"),
                    _here(name, label),
                    _reduced(name, label),
                    *_hours(name, label, costs.get(name), teraflops),
                ]
            )
    return markdown_table(lines)


def _found(name: str, file: str, *, reduced: bool = False) -> Mapping[str, Any]:
    """What a file of a row says: of this machine's own run if there is one, else the recorded."""
    for directory in (default_directory(name, reduced=reduced), RESULTS / name):
        if (directory / file).exists():
            return read_json(directory / file)
    return {}


def _here(name: str, label: str) -> str:
    summary = _found(name, "comparison.json").get("summary", {})
    if label not in summary:
        small = row_of(name).num_examples < 50_000
        return "not run here" if small else "not run here: needs an accelerator"
    return "{:.2f} ± {:.2f}".format(*summary[label]["test_error"])


def _reduced(name: str, label: str) -> str:
    row = _found(name, "reduced.json", reduced=True).get(label)
    return "{first_loss:.2f} → {last_loss:.2f}, {test_error:.0f}%".format(**row) if row else ""


def hours(row: Row, label: str, flops_per_example: float, *, gflops: float) -> float:
    """Estimated time of a run.

    Args:
      row: of the table.
      label: algorithm.
      flops_per_example: operations of a gradient of one image.
      gflops: 10^9 operations a second.
    """
    epochs = row.algorithms[label].get("epochs", row.base.epochs)
    return epochs * row.num_examples * flops_per_example / (1e9 * gflops) / 3600


def _hours(name, label, cost, teraflops):
    """On the machine that timed the network, if one did, and on an accelerator."""
    if cost is None:
        return ["?", "?"]
    of = lambda speed: hours(row_of(name), label, cost.flops_per_example, gflops=speed)
    short = functools.partial(np.format_float_positional, precision=2, fractional=False, trim="-")
    timed = cost.gflops_per_second
    return ["?" if timed is None else short(of(timed)), short(of(1e3 * teraflops))]
