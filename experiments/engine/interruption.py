"""Lets a run save its state before it stops at SIGINT or SIGTERM."""

import contextlib
import dataclasses
import pathlib
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop, and has saved its state.

    Attributes:
      exit_status: exit status that a shell expects for a program that a signal ended.
    """

    def __init__(self, signum: int, directory: pathlib.Path):
        name = signal.Signals(signum).name
        super().__init__(f"{name}: saved in {directory}; the same command continues from there.")
        self.exit_status = 128 + signum


@dataclasses.dataclass
class Request:
    """Whether a stop was requested: the signal, or None so far."""

    signum: int | None = None


@contextlib.contextmanager
def deferred(*, enabled: bool = True) -> Iterator[Request]:
    """Delays the first SIGINT or SIGTERM, so that the body can save.

    Outside the main thread, where Python delivers no signals, this has no effect.

    Args:
      enabled: False has no effect.
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
