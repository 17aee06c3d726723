"""What commands of long studies share."""

import abc
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from experiments.engine.time_limit import TimeLimit, parse_duration
from experiments.report.meeting import Meetings, warn_of


def directory(out: pathlib.Path | None, command: str, *, small: bool) -> pathlib.Path:
    """The directory that was asked for, or runs/<command>, apart for a small run."""
    name = f"{command}-small" if small else command
    return pathlib.Path("runs", name) if out is None else out


def require_at_least(least: float, **values: float | None) -> None:
    """Refuses options below a limit; None is not given.

    Raises:
      ValueError: the message names the option.
    """
    for name, value in values.items():
        if value is not None and not least <= value < float("inf"):
            raise ValueError(f"{name} must be a number >= {least}, got {value}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limited:
    """A command that can be given a limit of its wall time."""

    time_limit: str | None = None
    """Stop before so much wall time is over, for example 9m or 1h30m: what is complete is written,
    what has begun is saved, and the same command continues. Exit status 75 says that work is left.
    """

    def limit(self) -> TimeLimit:
        """The limit, from now on."""
        return TimeLimit(None if self.time_limit is None else parse_duration(self.time_limit))


@dataclasses.dataclass(frozen=True)
class InParts(Limited, abc.ABC):
    """A study of hours that can be run in parts, in several processes, and goes on where it was."""

    small: bool = False
    """Little of everything, in two or three minutes: to see how it works, not what comes out."""
    algorithms: tuple[str, ...] = ()
    """Labels of the algorithms to run now; all by default."""
    report_only: bool = False
    """Report what is complete, train nothing."""
    out: pathlib.Path | None = None
    """Directory, which processes that run different parts may share; runs/<command> by default."""
    progress: bool = True
    """Show progress bars."""

    @abc.abstractmethod
    def parts(self) -> "Parts":
        """The study and its functions."""

    def run(self) -> int:
        """Runs and reports."""
        limit, parts = self.limit(), self.parts()
        out = directory(self.out, parts.command, small=self.small)
        if not self.report_only:
            parts.run(parts.chosen, out, progress=self.progress, limit=limit)
        results = parts.read(parts.study, out)
        if results:
            print(parts.report(parts.study, results, out))
            warn_of(parts.meetings(results))
        elif not limit.unfinished:
            raise ValueError(f"out ({out}) holds no complete {parts.unit} of this study yet.")
        return limit.exit_status


@dataclasses.dataclass(frozen=True)
class Parts:
    """A study that is run in parts.

    Attributes:
      command: its name.
      study: the whole study, which is reported.
      chosen: the part of it that is run now.
      run: (part, out, progress=, limit=) runs what is missing.
      read: (study, out) -> the results that are complete.
      report: (study, results, out) -> text.
      meetings: results -> the meetings of the replicas of all runs.
      unit: what a result is of, for the error where there is none.
    """

    command: str
    study: Any
    chosen: Any
    run: Any
    read: Any
    report: Any
    meetings: Callable[[Any], Meetings]
    unit: str
