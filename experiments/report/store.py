"""Reads and writes all results: whole files, lines of records, cached values.

- A whole file is written atomically, as UTF-8: after a crash it is either old or new.
- Every record has a digest (`SEAL`) of its content, which is checked when it is read, and names the
  program that made it (`MADE_BY`).
- A cached value has an identity: the settings with which it was made. Values with other settings
  are refused, and the message names the setting that differs. One of them is the program's revision
  (see `provenance`).
- Nothing is written if another process has taken over this process's lock.
- Records of a long study are lines of JSON, appended during the study, so that an interrupted study
  continues where it stopped.

Where digests are not required, records from before digests are read without that check: the first
lines of the ladder have none.
"""

import contextlib
import hashlib
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from experiments.report import atomic, lock, provenance

_EXPERIMENTS = pathlib.Path(__file__).parents[1]
RESULTS = _EXPERIMENTS / "results"  # recorded results, in the repository
FIGURES = _EXPERIMENTS / "figures"  # the pictures of the pages
SEAL = "digest"
MADE_BY = "made_by"


class DamagedFileError(ValueError):
    """A file differs from what was written; the message names the file."""


class OtherIdentityError(ValueError):
    """A file belongs to other settings; the message names the file and the settings."""


def slug(label: str) -> str:
    """Converts a label to the name of a file or directory.

    Examples:
      >>> slug("rSGD x 3"), slug("MLP, 20% noise")
      ('rsgd-x-3', 'mlp-20-noise')
    """
    return re.sub(r"[^a-z0-9.=_]+", "-", label.lower()).strip("-")


# --- digests and identities ---------------------------------------------------------------------


def digest(value: Any) -> str:
    """Computes a digest of a JSON value; the order of keys does not matter.

    Examples:
      >>> digest({"a": 1, "b": 2.0}) == digest({"b": 2.0, "a": 1})
      True
    """
    text = json.dumps(json.loads(json.dumps(value)), sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record with its digest."""
    content = {name: value for name, value in record.items() if name != SEAL}
    return content | {SEAL: digest(content)}


def signed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record with the program that made it, unless it is already there."""
    return {MADE_BY: provenance.made_by()} | dict(record)


def unsealed(record: Any, place: str, *, must_be_sealed: bool = True) -> dict[str, Any]:
    """Checks and removes a record's digest, and removes the program that made it.

    Args:
      record: the record that was read.
      place: name of the file (and line), for errors.
      must_be_sealed: whether to refuse a record without a digest.

    Raises:
      DamagedFileError: it is no record, or differs from what was written.
    """
    damaged = f"{place} is damaged"
    if not isinstance(record, dict) or not record:
        shown = json.dumps(record)[:20]
        raise DamagedFileError(f"{damaged}: expected a JSON object, got {shown}. Delete it.")
    content = {name: value for name, value in record.items() if name != SEAL}
    if SEAL in record and record[SEAL] != digest(content):
        raise DamagedFileError(
            f"{damaged}: its content does not fit its digest. Delete it, or restore it from a copy."
        )
    if SEAL not in record and must_be_sealed:
        raise DamagedFileError(f"{damaged}: it has no digest. Delete it.")
    content.pop(MADE_BY, None)
    return content


def _parsed(content: bytes, place: str, *, must_be_sealed: bool) -> dict[str, Any]:
    try:
        record = json.loads(content.decode())
    except ValueError as error:
        raise DamagedFileError(
            f"{place} is damaged: not valid JSON ({error}). Delete it."
        ) from error
    return unsealed(record, place, must_be_sealed=must_be_sealed)


def differences(wanted: Any, found: Any, name: str = "") -> list[str]:
    """Lists the fields in which two identities differ; extra fields do not matter.

    Examples:
      >>> differences({"config": {"seed": 1, "epochs": 2}}, {"config": {"seed": 0, "epochs": 2}})
      ['config.seed: wanted 1, found 0']
    """
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        join = lambda key: f"{name}.{key}" if name else str(key)
        missing = object()
        return [
            line
            for key, value in wanted.items()
            for line in differences(value, found.get(key, missing), join(key))
        ]
    plain = lambda value: list(value) if isinstance(value, tuple) else value
    if plain(wanted) == plain(found):
        return []
    is_there = isinstance(found, str | int | float | bool | list | dict | tuple | None)
    return [f"{name}: wanted {_short(wanted)}, found {_short(found) if is_there else 'nothing'}"]


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_identity(wanted: Any, found: Any, place: str) -> None:
    """Refuses records that belong to other settings.

    Args:
      wanted: identity of the current settings.
      found: identity of the record; without a revision, it has revision 1.
      place: name of the file (and line), for errors.

    Raises:
      OtherIdentityError: the identities differ; the message says in which fields.
    """
    wanted = json.loads(json.dumps(wanted))  # tuples become lists; NumPy's numbers are refused
    if isinstance(found, Mapping):
        found = {"revision": 1} | found
    if lines := differences(wanted, found):
        raise OtherIdentityError(
            f"{place} belongs to other settings ({listed(lines)}). Choose another directory "
            "(--out DIRECTORY), or delete this file to make it again."
        )


def listed(lines: list[str]) -> str:
    """Formats the first of many differences for a message."""
    more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
    is_revision = any(line.startswith("revision: ") for line in lines)
    more += f". {provenance.EXPLANATION}" if is_revision else ""
    return f"{'; '.join(lines[:5])}{more}"


# --- whole files --------------------------------------------------------------------------------


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a whole UTF-8 file or nothing."""
    atomic.write_bytes(path, text.encode())


def write_json(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Writes a JSON object with digest and program, as a whole or not at all.

    A file that holds the same is left alone, with the program that made it.
    """
    if MADE_BY in record or not _holds(path, record):
        write_text(path, json.dumps(sealed(signed(record)), indent=1) + "\n")


def _holds(path: pathlib.Path, record: Mapping[str, Any]) -> bool:
    try:
        return read_json(path, must_be_sealed=True) == json.loads(json.dumps(record))
    except (OSError, DamagedFileError):
        return False


def read_json(path: pathlib.Path, *, must_be_sealed: bool = False) -> dict[str, Any]:
    """Reads a JSON object and checks its digest, which is not returned.

    Args:
      path: the file.
      must_be_sealed: whether to refuse an object without a digest.

    Raises:
      DamagedFileError: the file is damaged.
    """
    return _parsed(path.read_bytes(), str(path), must_be_sealed=must_be_sealed)


def read_if_there(path: pathlib.Path, *, must_be_sealed: bool = False) -> dict[str, Any] | None:
    """Reads a JSON object like `read_json`; returns None if the file is missing."""
    return read_json(path, must_be_sealed=must_be_sealed) if path.exists() else None


# --- cached values ------------------------------------------------------------------------------


def cached(path: pathlib.Path, identity: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """Reads a cached value, and makes it first if the file is missing.

    Only one process makes it; other processes that ask in the meantime are refused.

    Args:
      path: the file; its directory is made with it.
      identity: all settings on which the value depends.
      make: function without arguments that returns the value.

    Returns:
      The value as read from the file, so that it is the same for all processes.

    Raises:
      OtherIdentityError: the file belongs to other settings.
      DamagedFileError: the file is damaged.
      lock.InUseError: another process is making the value.

    Examples:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "sgd", "test.json")
      ...     cached(path, {"seed": 0}, lambda: (1, 2)), cached(path, {"seed": 0}, lambda: (3, 4))
      ([1, 2], [1, 2])
    """
    if not path.exists():
        with claimed(path):
            if not path.exists():
                write_json(path, {"identity": dict(identity), "value": make()})
    return read_cached(path, identity)


def read_cached(path: pathlib.Path, identity: Mapping[str, Any]) -> Any | None:
    """Reads a cached value of the given identity; None if the file is missing.

    Raises:
      OtherIdentityError: the file belongs to other settings.
      DamagedFileError: the file is damaged, or holds no identity.
    """
    if not path.exists():
        return None
    try:
        record = read_json(path, must_be_sealed=True)
        found = record["identity"], record["value"]
    except (DamagedFileError, KeyError) as error:
        raise DamagedFileError(
            f"{path} is no cached value that knows its settings ({error}). Delete it to make it "
            "again."
        ) from error
    check_identity(identity, found[0], str(path))
    return found[1]


@contextlib.contextmanager
def claimed(path: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from writing a file of records; makes its directory.

    Raises:
      lock.InUseError: another process writes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock.held(path.with_name(f"{path.name}.lock")):
        yield


# --- lines of records ---------------------------------------------------------------------------


def append_line(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Appends a record to a file of JSON lines and waits until it is on the disk."""
    atomic.append_bytes(path, _line(record).encode())


def _line(record):
    return json.dumps(sealed(record)) + "\n"


def read_lines(path: pathlib.Path, *, must_be_sealed: bool = False) -> list[dict[str, Any]]:
    r"""Reads the records of a file of JSON lines; returns none if the file is missing.

    If the last line was only half written, it is skipped. If this process has claimed the file, the
    line is also removed, so that the next record starts on a new line.

    Args:
      path: the file.
      must_be_sealed: whether to refuse a record without a digest.

    Raises:
      DamagedFileError: a complete line is damaged.

    Examples:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "records.jsonl")
      ...     append_line(path, {"seed": 0})
      ...     _ = path.write_text(path.read_text() + '{"se')
      ...     with claimed(path):
      ...         read_lines(path), path.read_text().count("\n")
      ([{'seed': 0}], 1)
    """
    content = path.read_bytes() if path.exists() else b""
    *lines, rest = content.split(b"\n")
    records = [
        _parsed(line, f"{path}, line {number}", must_be_sealed=must_be_sealed)
        for number, line in enumerate(lines, start=1)
    ]
    if rest and lock.guards(path):
        with path.open("r+b") as file:
            file.truncate(len(content) - len(rest))
    return records


def write_lines(path: pathlib.Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes a whole file of JSON lines or nothing."""
    write_text(path, "".join(map(_line, records)))
