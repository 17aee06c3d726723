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

    Virtual machines may hide the model: a name without digits is followed by the numbers of its
    family and model, as in "AMD EPYC, family 26, model 2".

    Examples:
      >>> len(processor()) > 0
      True
    """
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    return processor_in(text) or platform.processor() or platform.machine()


def processor_in(cpuinfo: str) -> str:
    r"""Reads the name of a processor from the text of /proc/cpuinfo; may be empty.

    Examples:
      >>> processor_in("cpu family: 26\nmodel: 2\nmodel name: AMD EPYC")
      'AMD EPYC, family 26, model 2'
    """
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        field, _, value = line.partition(":")
        fields.setdefault(field.strip(), value.strip())
    name = fields.get("model name", "")
    if not name or any(letter.isdigit() for letter in name):
        return name
    numbers = {"family": fields.get("cpu family"), "model": fields.get("model")}
    return ", ".join([name, *(f"{key} {number}" for key, number in numbers.items() if number)])


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
