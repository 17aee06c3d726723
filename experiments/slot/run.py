"""A slot from its first second to its last: images, checks, speed, queue."""

import pathlib
import time
from collections.abc import Collection

from experiments.benchmarks import device
from experiments.engine.time_limit import EXIT_STATUS, TimeLimit
from experiments.report import store
from experiments.report.meeting import warn_of
from experiments.slot.bundle import check_bundle, unpack_images
from experiments.slot.checks import CHECKS, run_checks
from experiments.slot.queue import run_queue, units
from experiments.slot.records import FILES, Records

PARTS = ("checks", "speed", "runs")


def run_slot(
    bundle: pathlib.Path,
    out: pathlib.Path,
    work: pathlib.Path,
    limit: TimeLimit,
    *,
    parts: Collection[str] = PARTS,
    only: Collection[str] = (),
    toy: bool = False,
) -> int:
    """Runs a slot; returns the exit status.

    Args:
      bundle: its folder.
      out: where the records go.
      work: where the decoded images go.
      limit: of the wall time.
      parts: what is done, of `PARTS`.
      only: labels of the algorithms that are trained; all if empty.
      toy: whether everything is small.

    Raises:
      ValueError: a part is unknown; the bundle is damaged.
    """
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"parts must be of {', '.join(PARTS)}; got {', '.join(sorted(unknown))}.")
    made_from = check_bundle(bundle)
    records = Records(out, {"commit": made_from["commit"]})
    earlier = lambda name: (
        records.read(name)
        + store.read_lines(bundle / "earlier" / f"{name}.jsonl", must_be_sealed=True)
    )
    failures = 0
    if "checks" in parts:
        of_commit = [one for one in earlier("checks") if one["commit"] == made_from["commit"]]
        passed = {record["check"] for record in of_commit if record["passed"]}
        checks = {name: check for name, check in CHECKS.items() if name not in passed}
        failures = run_checks(records, limit, checks)
    needs_images = {"speed", "runs"} & set(parts)
    dataset = _decoded_images(bundle, work, records) if needs_images else ""
    if "speed" in parts:
        measured = {record["part"] for record in earlier("speed") if "error" not in record}
        options = {"dataset": dataset, "toy": toy, "rounds": 2 if toy else 5}
        for found in device.measure(limit, done=measured, **options):
            records.add("speed", **found)
    if "runs" in parts:
        done = {record["unit"] for record in earlier("runs")}
        run_queue(records, limit, dataset, done, only=only, toy=toy)
    meetings = {
        record["unit"]: [(f"seed {run['seed']}", run.get("meeting")) for run in record["runs"]]
        for record in records.read("runs")
    }
    warn_of(meetings)
    records.add("events", event="end", unfinished=limit.unfinished, seconds_left=round(limit.left))
    if failures:
        return 1
    return EXIT_STATUS if limit.unfinished else 0


def _decoded_images(bundle, work, records) -> str:
    """The name of the data set, after decoding it where no other process has."""
    start = time.perf_counter()
    images = work / "images.npz"
    if not images.exists():
        unpack_images(bundle / "images.tar.xz", images)
        seconds = round(time.perf_counter() - start, 2)
        records.add("events", event="images decoded", seconds=seconds)
    return f"npz:{images}"


def check_records(out: pathlib.Path) -> str:
    """Counts the records of a rehearsal, after checking that nothing is missing.

    Raises:
      RuntimeError: something is missing, failed, or names no device.
    """
    found = {name: store.read_lines(out / f"{name}.jsonl", must_be_sealed=True) for name in FILES}
    problems = [
        f"{name}: {record}"
        for name, records in found.items()
        for record in records
        if "error" in record or "device" not in record or record.get("passed") is False
    ]
    if missing := CHECKS.keys() - {record["check"] for record in found["checks"]}:
        problems.append(f"checks that are missing: {sorted(missing)}")
    if missing := {unit.key for unit in units(toy=True)} - {r["unit"] for r in found["runs"]}:
        problems.append(f"units that are missing: {sorted(missing)}")
    if not found["speed"] or not found["curves"]:
        problems.append("no speeds, or no curves")
    if problems:
        raise RuntimeError("; ".join(problems))
    return ", ".join(f"{len(records)} records of {name}" for name, records in found.items())
