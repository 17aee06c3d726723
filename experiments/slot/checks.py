"""All checks on the present device, and the records of their results.

Each check returns numbers, or raises AssertionError. They are small: most of their time is
compilation. Products are computed in full float32, so that their values can be compared with values
from a CPU.
"""

import time
from collections.abc import Callable
from typing import Any

import jax

from experiments.engine.time_limit import TimeIsUp, TimeLimit
from experiments.slot import library_checks, training_checks
from experiments.slot.records import Records

Check = Callable[[], dict[str, Any]]

CHECKS: dict[str, Check] = {
    "contract of the transformations": library_checks.contract,
    "placements agree": library_checks.placements,
    "convolutions and normal numbers of the platform": library_checks.lowerings,
    "bfloat16 with float32 coupling": training_checks.half_precision,
    "local energy and Hessian as on a CPU": library_checks.reference_values,
    "resume": training_checks.resume,
    "memory of y = 3": training_checks.memory,
    "no recompilation": training_checks.compilations,
    "no transfer between steps": training_checks.transfers,
}


def run_checks(records: Records, limit: TimeLimit, checks: dict[str, Check]) -> int:
    """Runs checks and records each; returns how many failed."""
    failures = 0
    with jax.default_matmul_precision("highest"):
        for name, check in checks.items():
            start = time.perf_counter()
            try:
                with limit.part("check", "part"):
                    found = {"passed": True, "found": check()}
            except TimeIsUp:
                limit.unfinished += 1
                continue
            except Exception as error:  # whatever it is, the next checks are run
                failures += 1
                found = {"passed": False, "error": f"{type(error).__name__}: {error}"[:2000]}
            seconds = round(time.perf_counter() - start, 2)
            records.add("checks", check=name, seconds=seconds, **found)
    return failures
