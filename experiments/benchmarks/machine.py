"""What machine a benchmark ran on."""

import importlib.metadata
import os
import pathlib
import platform
import sys

import jax


def describe_machine() -> str:
    """Version of jax, cores, processor and device, in one line."""
    device = jax.devices()[0]
    # The kind of a CPU device is "cpu": its name is the processor's.
    kind = device.platform if device.platform == "cpu" else device.device_kind
    return f"jax {jax.__version__}, {os.cpu_count()} cores, {processor()}, {kind}"


def processor() -> str:
    """The name of the processor, as Linux gives it, else what Python knows of it.

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
    """Numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def torch_version() -> str | None:
    """Version of PyTorch; None if it is not installed."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def hint_at_torch() -> None:
    """Says on stderr how to get the comparison with PyTorch, where it is not installed."""
    if torch_version() is None:
        print("PyTorch is not installed: pip install -e '.[benchmarks]'", file=sys.stderr)
