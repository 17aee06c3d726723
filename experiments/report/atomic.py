"""Writes whole files: after a crash, a file is either old or new."""

import contextlib
import glob
import os
import pathlib
from collections.abc import Iterator

from experiments.report import lock


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a whole file or nothing.

    Raises:
      lock.InUseError: another process has taken over a lock of this one.
    """
    beginning = f".{path.name}.{lock.host()}."
    _remove_leftovers(path.parent, beginning)
    temporary = path.with_name(f"{beginning}{os.getpid()}.tmp")
    try:
        with _named(path), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        lock.check(path)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    """Adds the file's name to errors of writing; those of a full disk lack it."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _remove_leftovers(directory, beginning):
    """Removes leftovers of killed processes that wrote the same file."""
    for name in glob.glob(f"{glob.escape(beginning)}*.tmp", root_dir=directory):
        pid = name[len(beginning) : -len(".tmp")]
        if pid.isdigit() and not lock.is_alive(int(pid)):
            (directory / name).unlink(missing_ok=True)


def append_bytes(path: pathlib.Path, content: bytes) -> None:
    """Appends to a file, all or nothing unless killed, and waits for the disk.

    Raises:
      lock.InUseError: another process has taken over a lock of this one.
    """
    lock.check(path)
    with _named(path), path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while content:
                content = content[file.write(content) :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(size)
            raise
