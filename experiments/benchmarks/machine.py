"""What machine a benchmark ran on."""

import importlib.metadata
import os
import platform
import sys

import jax


def describe_machine() -> str:
    """Version of jax, cores, processor and device, in one line."""
    device = jax.devices()[0]
    kind = platform.processor() or platform.machine()
    return f"jax {jax.__version__}, {os.cpu_count()} cores, {kind}, {device.platform}"


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
