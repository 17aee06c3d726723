"""The records of a slot: files of JSON lines that are flushed line by line."""

import pathlib
import time
from typing import Any

import jax

from experiments.report import store

FILES = ("checks", "speed", "runs", "curves", "events")


class Records:
    """The files of one slot.

    Args:
      out: their directory.
      about: what every record says, in addition to the device: the commit, for example.
    """

    def __init__(self, out: pathlib.Path, about: dict[str, Any]):
        self._out, self._began = out, time.monotonic()
        self._about = about | {"device": device_name(), "jax": jax.__version__}
        out.mkdir(parents=True, exist_ok=True)

    def add(self, file: str, **record: Any) -> None:
        """Adds a line to a file; it is on the disk when this returns."""
        if file not in FILES:
            raise ValueError(f"file must be one of {FILES}, got {file!r}.")
        at = {"at_second": round(time.monotonic() - self._began, 1)}
        store.append_line(self._out / f"{file}.jsonl", record | at | self._about)

    def read(self, file: str) -> list[dict[str, Any]]:
        """The lines of a file that are there already."""
        return store.read_lines(self._out / f"{file}.jsonl", must_be_sealed=True)


def device_name() -> str:
    """Platform and kind of the device, for example "gpu, NVIDIA A100-SXM4-40GB"."""
    device = jax.devices()[0]
    return f"{device.platform}, {device.device_kind}"
