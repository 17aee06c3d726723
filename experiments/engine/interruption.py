"""SIGINT and SIGTERM let a run save where it is before it stops."""

import contextlib
import dataclasses
import pathlib
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop, and has saved where it was.

    Attributes:
      exit_status: what a shell expects of a program that a signal ended.
    """

    def __init__(self, signum: int, directory: pathlib.Path):
        name = signal.Signals(signum).name
        super().__init__(f"{name}: saved in {directory}; the same command goes on from there.")
        self.exit_status = 128 + signum


@dataclasses.dataclass
class Request:
    """Whether a stop was asked for: the signal that came, None so far."""

    signum: int | None = None


@contextlib.contextmanager
def deferred(*, enabled: bool = True) -> Iterator[Request]:
    """Holds the first SIGINT or SIGTERM back, for the body to save its work; a second acts at once.

    Outside the main thread, where Python delivers no signals, nothing is held back.

    Args:
      enabled: False holds nothing back.
    """
    request = Request()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {signum: signal.getsignal(signum) or signal.SIG_DFL for signum in SIGNALS}

    def restore():
        for signum, handler in previous.items():
            signal.signal(signum, handler)

    def note(signum, frame):
        del frame
        request.signum = signum
        restore()

    for signum in SIGNALS:
        signal.signal(signum, note)
    try:
        yield request
    finally:
        restore()
