"""Describes the machine on which a benchmark runs."""

import importlib.metadata
import os
import pathlib
import platform
import sys

import jax


def describe_machine() -> str:
    """Returns version of jax, cores, processor and device, in one line."""
    device = jax.devices()[0]
    # The kind of a CPU device is just "cpu"; the processor's name says more.
    kind = device.platform if device.platform == "cpu" else device.device_kind
    return f"jax {jax.__version__}, {os.cpu_count()} cores, {processor()}, {kind}"


def processor() -> str:
    """Returns the name of the processor, from Linux or else from Python.

    Examples:
      >>> len(processor()) > 0
      True
    """
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    named = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return next(iter(named), "") or platform.processor() or platform.machine()


def available_cores() -> list[int]:
    """Returns the numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def torch_version() -> str | None:
    """Returns the version of PyTorch; None if it is not installed."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def hint_at_torch() -> None:
    """Says on stderr how to install PyTorch for the comparison, if it is missing."""
    if torch_version() is None:
        print("PyTorch is not installed: pip install -e '.[benchmarks]'", file=sys.stderr)
