"""The rows of the paper's table, listed with their state."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.report import store
from experiments.report.statistics import with_error
from experiments.report.tables import markdown_table
from experiments.studies.reproduce import slots
from experiments.studies.reproduce.costs import read_costs
from experiments.studies.reproduce.description import Row

RESULTS = store.RESULTS / "reproduce"


def default_directory(name: str, *, reduced: bool) -> pathlib.Path:
    """Returns the default directory of a row."""
    return pathlib.Path("runs", "reproduce", f"{name}-reduced" if reduced else name)


def table(rows: Mapping[str, Row], *, teraflops: float | None = None) -> str:
    """Lists every row and algorithm: the paper's result, ours, and the time needed.

    Variants that have not been run are listed after the table.

    Args:
      rows: name -> row.
      teraflops: speed that the accelerator sustains, in 10^12 operations per second. The default is
        the speed that a slot has measured (`measured_teraflops`), else 20.
    """
    teraflops = teraflops or measured_teraflops() or 20.0
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
        for label in (*row.runs, *(one for one in row.variants if _summary(name, one))):
            lines.append(
                [
                    row.title,
                    label,
                    row.baseline_of(label) or "-",
                    _here(name, row, label),
                    _reduced(name, label),
                    *_hours(row, label, costs.get(name), teraflops),
                ]
            )
    return f"{markdown_table(lines)}\n{_waiting_variants(rows)}".rstrip("\n")


def _found(name: str, file: str, *, reduced: bool = False) -> Mapping[str, Any]:
    """Reads a file of a row: from this machine's own run, or else the recorded one."""
    for directory in (default_directory(name, reduced=reduced), RESULTS / name):
        if (found := store.read_if_there(directory / file)) is not None:
            return found
    return {}


def _summary(name: str, label: str) -> Mapping[str, Any] | None:
    found = _found(name, "comparison.json").get("summary", {}).get(label)
    return found or slots.summary_of(name, label)


def _here(name: str, row: Row, label: str) -> str:
    """Formats the result and its difference to the paper's, or says that it waits."""
    found = _summary(name, label)
    if found is None:
        return "waiting"
    mean, error = found["test_error"]
    reported = row.baseline_of(label)
    distance = f" ({mean - float(reported.split()[0]):+.2f})" if reported else ""
    note = f", {found['note']}" if found.get("note") else ""
    return f"run here: {with_error(mean, error, found['seeds'])}{distance}{note}"


def _waiting_variants(rows: Mapping[str, Row]) -> str:
    lines = []
    for name, row in rows.items():
        if left := [label for label in row.variants if not _summary(name, label)]:
            lines.append(f"- {name}: {'; '.join(left)}")
    return "\n".join(["", "Variants that wait:", "", *lines]) if lines else ""


def measured_teraflops() -> float | None:
    """Returns the measured speed of a ResNet-18 step on an accelerator, or None."""
    for record in store.read_lines(slots.DIRECTORY / "speed.jsonl"):
        if record["part"] == "steps, ResNet-18, bfloat16" and "images a second" in record:
            return 1e-3 * record["images a second"] * record["GFLOP an image"]
    return None


def _reduced(name: str, label: str) -> str:
    row = _found(name, "reduced.json", reduced=True).get(label)
    return "{first_loss:.2f} → {last_loss:.2f}, {test_error:.0f}%".format(**row) if row else ""


def hours(row: Row, label: str, flops_per_example: float, *, gflops: float) -> float:
    """Estimated time of a run.

    Args:
      row: row of the table.
      label: label of the algorithm.
      flops_per_example: operations of a gradient of one image.
      gflops: 10^9 operations per second.
    """
    own = row.runs.get(label, row.variants.get(label, {}))
    epochs = own.get("epochs", row.base.epochs)
    return epochs * row.num_examples * flops_per_example / (1e9 * gflops) / 3600


def _hours(row, label, cost, teraflops):
    """Estimates hours on the machine that timed the network, and on an accelerator."""
    if cost is None:
        return ["?", "?"]
    of = lambda speed: hours(row, label, cost.flops_per_example, gflops=speed)
    short = functools.partial(np.format_float_positional, precision=2, fractional=False, trim="-")
    timed = cost.gflops_per_second
    return ["?" if timed is None else short(of(timed)), short(of(1e3 * teraflops))]
