"""Records as lines of JSON, written as they come: what was interrupted goes on where it was."""

import json
import pathlib
from typing import Any


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    r"""The records of a file, none if it is missing; a line half written is dropped from it.

    Examples:
      >>> import tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "records.jsonl"
      >>> append(path, {"seed": 0})
      >>> _ = path.write_text(path.read_text() + '{"se')
      >>> read(path), path.read_text()
      ([{'seed': 0}], '{"seed": 0}\n')
    """
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    records = []
    for number, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            path.write_text("".join(lines[:number]))
            break
    return records


def append(path: pathlib.Path, record: dict[str, Any]) -> None:
    """Adds a line."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
