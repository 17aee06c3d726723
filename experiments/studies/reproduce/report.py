"""The rows of the paper's table, listed with their state."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.report import store
from experiments.report.statistics import with_error
from experiments.report.tables import markdown_table
from experiments.studies.reproduce.costs import read_costs
from experiments.studies.reproduce.description import Row

RESULTS = store.RESULTS / "reproduce"


def default_directory(name: str, *, reduced: bool) -> pathlib.Path:
    """Where a row is run unless something else is asked for."""
    return pathlib.Path("runs", "reproduce", f"{name}-reduced" if reduced else name)


def table(rows: Mapping[str, Row], *, teraflops: float) -> str:
    """Every row and algorithm: what the paper reports, what is here, what it would take.

    Args:
      rows: name -> row.
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
    for name, row in rows.items():
        for label in row.runs:
            lines.append(
                [
                    row.title,
                    label,
                    row.reported.get(label, "-"),
                    _here(name, row, label),
                    _reduced(name, label),
                    *_hours(row, label, costs.get(name), teraflops),
                ]
            )
    return markdown_table(lines)


def _found(name: str, file: str, *, reduced: bool = False) -> Mapping[str, Any]:
    """What a file of a row says: of this machine's own run if there is one, else the recorded."""
    for directory in (default_directory(name, reduced=reduced), RESULTS / name):
        if (found := store.read_if_there(directory / file)) is not None:
            return found
    return {}


def _here(name: str, row: Row, label: str) -> str:
    summary = _found(name, "comparison.json").get("summary", {})
    if label not in summary:
        small = row.num_examples < 50_000
        return "not run here" if small else "not run here: needs an accelerator"
    return with_error(*summary[label]["test_error"], summary[label]["seeds"])


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
    epochs = row.runs[label].get("epochs", row.base.epochs)
    return epochs * row.num_examples * flops_per_example / (1e9 * gflops) / 3600


def _hours(row, label, cost, teraflops):
    """On the machine that timed the network, if one did, and on an accelerator."""
    if cost is None:
        return ["?", "?"]
    of = lambda speed: hours(row, label, cost.flops_per_example, gflops=speed)
    short = functools.partial(np.format_float_positional, precision=2, fractional=False, trim="-")
    timed = cost.gflops_per_second
    return ["?" if timed is None else short(of(timed)), short(of(1e3 * teraflops))]
