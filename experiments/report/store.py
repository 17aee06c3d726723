"""The one place that reads and writes results: whole files, lines of records, what is made once.

A whole file is written atomically: after a crash the old file or the new one is there. Records of a
long study are lines of JSON, appended as they come, so that an interrupted study continues where
it stopped.
"""

import json
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

_EXPERIMENTS = pathlib.Path(__file__).parents[1]
RESULTS = _EXPERIMENTS / "results"  # recorded results, in the repository
FIGURES = _EXPERIMENTS / "figures"  # the pictures of the pages


def slug(label: str) -> str:
    """Turns a label into the name of a file or directory.

    Examples:
      >>> slug("rSGD x 3"), slug("MLP, 20% noise")
      ('rsgd-x-3', 'mlp-20-noise')
    """
    return re.sub(r"[^a-z0-9.=_]+", "-", label.lower()).strip("-")


# --- whole files --------------------------------------------------------------------------------


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: pathlib.Path) -> Any:
    """Reads a JSON file.

    Raises:
      ValueError: the file is damaged; the message names it.
    """
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): delete it to start over.") from error


def read_if_there(path: pathlib.Path) -> Any | None:
    """Reads a JSON file; None if it is missing."""
    return read_json(path) if path.exists() else None


def cached(path: pathlib.Path, make: Callable[[], Any]) -> Any:
    """Reads a JSON file, and makes its value first if the file is missing.

    Args:
      path: the file; its directory is made with it.
      make: called without arguments for the value.

    Returns:
      The value as the file holds it, so that it does not matter who made it.

    Examples:
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "sgd" / "test.json"
      >>> cached(path, lambda: (1, 2)), cached(path, lambda: (3, 4))
      ([1, 2], [1, 2])
    """
    if not path.exists():
        value = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)
    return read_json(path)


# --- lines of records ---------------------------------------------------------------------------


def append_line(path: pathlib.Path, record: dict[str, Any]) -> None:
    """Adds a record to a file of JSON lines."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def read_lines(path: pathlib.Path, *, mend: bool = True) -> list[dict[str, Any]]:
    r"""Reads the records of a file of JSON lines; none if the file is missing.

    Args:
      path: the file.
      mend: removes a line that was half written, so that the next record starts a line of its own.
        With False it is skipped, and the file stays as it is.

    Examples:
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "records.jsonl"
      >>> append_line(path, {"seed": 0})
      >>> _ = path.write_text(path.read_text() + '{"se')
      >>> read_lines(path), path.read_text()
      ([{'seed': 0}], '{"seed": 0}\n')
    """
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    records = []
    for number, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if mend:
                write_text(path, "".join(lines[:number]))
            break
    return records


def write_lines(path: pathlib.Path, records: Iterable[dict[str, Any]]) -> None:
    """Writes a file of JSON lines whole or not at all."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))
