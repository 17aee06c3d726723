"""Command line of the experiments; `python -m experiments --help`."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def _quiet_sigint() -> Iterator[None]:
    """Ends the process with one line if SIGINT comes during the long imports.

    An exception in the middle of an import could be caught by library code.
    """

    def leave(signum, frame):
        del signum, frame
        os.write(2, b"SIGINT: stopped before anything was started.\n")
        os._exit(130)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs; user errors print one line and no traceback."""
    with _quiet_sigint():
        from experiments.commands import command_line
    return command_line.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
