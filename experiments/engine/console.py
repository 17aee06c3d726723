"""How every command begins and ends: mistakes and interruptions are one line, not a traceback."""

import errno
import inspect
import os
import sys
from typing import Any

from experiments.engine import interruption, processes

# What users and machines cause; anything else is a mistake of the program and shows its traceback.
_EXPLAINED = (ValueError, TypeError, ArithmeticError, OSError, RuntimeError, ImportError)
_PIPE_CLOSED = 141  # what a shell reports of a program that SIGPIPE ended
_INTERRUPTED = 130  # likewise of SIGINT


def run(command: Any, prog: str, arguments: list[str] | None = None, **options: Any) -> int:
    """Parses the command line and runs what it asks for.

    Args:
      command: a dataclass with a method `run`, which returns the exit status or None; a union of
        such; or a function that returns one of these for the arguments.
      prog: as which the program is called.
      arguments: the command line's by default.
      **options: of `tyro.cli`.

    Returns:
      The exit status.
    """
    try:
        import tyro

        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # what it cannot encode is replaced
                stream.reconfigure(errors="replace")
        arguments = sys.argv[1:] if arguments is None else arguments
        if inspect.isfunction(command):
            command = command(arguments)
        status = tyro.cli(command, prog=prog, args=arguments, **options).run() or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `| head` has read enough
        if sys.stdout is sys.__stdout__:  # Python would complain of it when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except interruption.Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_status
    except KeyboardInterrupt:
        print("SIGINT: stopped; the same command goes on from what is complete.", file=sys.stderr)
        return _INTERRUPTED
    except processes.ProcessLostError as error:
        processes.leave(f"{type(error).__name__}: {error}")
    except _EXPLAINED as error:
        print(_explained(error), file=sys.stderr)
    return 1


def _explained(error: Exception) -> str:
    text = " ".join(str(error).split())  # errors of libraries have many lines
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if is_full or "No space left on device" in text or "Disk quota exceeded" in text:
        text += ". The disk is full: make room, and the same command goes on from what was saved."
    return f"{type(error).__name__}: {text}"
