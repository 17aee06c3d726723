"""One writer at a time: a lock file names the process that writes.

The file holds host, process and time; its age is a heartbeat, renewed by a thread. A lock is stale
if its process is dead (on the same host), or if it has had no heartbeat for `STALE_SECONDS` (on
other hosts). Another process may take over a stale lock. A suspended process notices this before
its next write, because every function that writes calls `check`.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 120.0


_HELD: dict[pathlib.Path, dict[str, Any]] = {}  # the locks of this process, and their contents


class InUseError(RuntimeError):
    """Another process writes to the file or directory; the message names it."""


def host() -> str:
    """Returns the name of this machine."""
    return socket.gethostname()


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        return True
    return True


@contextlib.contextmanager
def held(path: pathlib.Path) -> Iterator[None]:
    """Holds a lock file during the body, and removes it afterwards.

    Args:
      path: the lock file; its directory exists.

    Raises:
      InUseError: another process holds it.
    """
    path = path.absolute()
    owner = _take(path)
    _HELD[path] = owner
    ended = threading.Event()

    def beat():
        while not ended.wait(HEARTBEAT_SECONDS) and _owner(path) == owner:
            with contextlib.suppress(OSError):
                os.utime(path)

    heart = threading.Thread(target=beat, name=f"heart of {path}", daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        del _HELD[path]
        if _owner(path) == owner:
            path.unlink(missing_ok=True)


def check(path: pathlib.Path) -> None:
    """Checks, before a path is written, that this process still holds its locks.

    A lock of this process guards everything under its directory.

    Raises:
      InUseError: another process has taken over a lock, while this one was suspended.
    """
    for place, owner in _above(path):
        if (found := _owner(place)) != owner:
            who = "nobody" if found is None else _name(found)
            raise InUseError(
                f"{place.with_suffix('')} was in use by this process, which had no heartbeat for "
                f"{STALE_SECONDS:g} s, and is now in use by {who}: {path} is not written. ({place})"
            )


def guards(path: pathlib.Path) -> bool:
    """Whether this process holds a lock above a file or directory."""
    return bool(_above(path))


def _above(path):
    """Returns the locks of this process that guard a path, with their contents."""
    path = path.absolute()
    return [item for item in list(_HELD.items()) if path.is_relative_to(item[0].parent)]


def _take(path):
    """Makes the lock file, unless a process holds it; returns its contents."""
    me = {
        "pid": os.getpid(),
        "host": host(),
        "namespace": _namespace(),
        "born": _born(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "token": secrets.token_hex(4),
    }
    # If several processes find the same stale lock, only one takes it over.
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        if path.exists():
            if (reason := _in_use(path)) is not None:
                raise InUseError(f"{path.with_suffix('')} is in use by {reason}. ({path})")
            path.unlink(missing_ok=True)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError as error:  # another host was faster
            raise InUseError(f"{path.with_suffix('')} is in use. ({path})") from error
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(json.dumps(me) + "\n")
        except OSError as error:  # a full disk: a lock without an owner would block all processes
            path.unlink(missing_ok=True)
            error.filename = str(path)
            raise
    finally:
        os.close(directory)
    return me


def _in_use(path) -> str | None:
    """Describes the holder of the lock; None if the lock is stale."""
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None
    owner = _owner(path)
    if owner is None:  # the file is being written, or damaged
        return "another process" if age < STALE_SECONDS else None
    is_here = (owner.get("host"), owner.get("namespace")) == (host(), _namespace())
    if is_here:
        pid = owner.get("pid")
        alive = isinstance(pid, int) and is_alive(pid) and owner.get("born") == _born(pid)
    else:
        alive = age < STALE_SECONDS
    if not alive:
        return None
    return _name(owner) if is_here else f"{_name(owner)} (last heartbeat {age:.0f} s ago)"


def _name(owner) -> str:
    return f"process {owner.get('pid')} on {owner.get('host')}, since {owner.get('since')}"


def _owner(path) -> dict[str, Any] | None:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) else None


def _namespace() -> str | None:
    """Returns the namespace of process numbers; each container of a host has its own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _born(pid: int) -> str | None:
    """Returns a process's start time in ticks, because process numbers are reused."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]
