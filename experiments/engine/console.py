"""The start and the end of every command: user errors are one line, no traceback."""

import errno
import inspect
import os
import sys
from typing import Any

from experiments.engine import interruption, processes

# Errors by users and machines; all others are errors of the program and show a traceback.
_EXPLAINED = (ValueError, TypeError, ArithmeticError, OSError, RuntimeError, ImportError)
_PIPE_CLOSED = 141  # exit status in a shell for a program that SIGPIPE ended
_INTERRUPTED = 130  # and for one that SIGINT ended


def run(command: Any, prog: str, arguments: list[str] | None = None, **options: Any) -> int:
    """Parses the command line and runs the command.

    Args:
      command: a dataclass with a method `run`, which returns the exit status or None; or a union of
        these; or a function of the arguments that returns one of these.
      prog: name with which the program is called.
      arguments: arguments; by default, sys.argv.
      **options: further arguments of `tyro.cli`.

    Returns:
      The exit status.
    """
    try:
        import tyro

        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # replaces characters that it cannot encode
                stream.reconfigure(errors="replace")
        arguments = sys.argv[1:] if arguments is None else arguments
        if inspect.isfunction(command):
            command = command(arguments)
        status = tyro.cli(command, prog=prog, args=arguments, **options).run() or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, such as `| head`, has ended
        if sys.stdout is sys.__stdout__:  # otherwise Python would report an error at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except interruption.Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_status
    except KeyboardInterrupt:
        print("SIGINT: stopped; the same command continues from complete work.", file=sys.stderr)
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
        text += ". The disk is full: make room, and the same command continues from what was saved."
    return f"{type(error).__name__}: {text}"
