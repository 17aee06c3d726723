"""Base classes of commands for long studies."""

import abc
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from experiments.engine.time_limit import TimeLimit, parse_duration
from experiments.report.meeting import Meetings, warn_of


def directory(out: pathlib.Path | None, command: str, *, small: bool) -> pathlib.Path:
    """Returns the given directory, or runs/<command>, with a suffix for a small run."""
    name = f"{command}-small" if small else command
    return pathlib.Path("runs", name) if out is None else out


def require_at_least(least: float, **values: float | None) -> None:
    """Refuses options below a limit; None means that the option was not given.

    Raises:
      ValueError: the message names the option.
    """
    for name, value in values.items():
        if value is not None and not least <= value < float("inf"):
            raise ValueError(f"{name} must be a number >= {least}, got {value}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limited:
    """A command with an option to limit its wall time."""

    time_limit: str | None = None
    """Stop before this much wall time is over, for example 9m or 1h30m. Complete work is written,
    unfinished work is saved, and the same command continues. Exit status 75 means that work is
    left."""

    def limit(self) -> TimeLimit:
        """Starts the time limit."""
        return TimeLimit(None if self.time_limit is None else parse_duration(self.time_limit))


@dataclasses.dataclass(frozen=True)
class InParts(Limited, abc.ABC):
    """A long study that can be run in parts, in several processes, and continued."""

    small: bool = False
    """Run a little of everything, in two or three minutes; the results mean nothing."""
    algorithms: tuple[str, ...] = ()
    """Labels of the algorithms to run now; all by default."""
    report_only: bool = False
    """Report the complete results, and train nothing."""
    out: pathlib.Path | None = None
    """Output directory, which several processes may share; runs/<command> by default."""
    progress: bool = True
    """Show progress bars on a terminal."""

    @abc.abstractmethod
    def parts(self) -> "Parts":
        """Describes the study and its functions."""

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
            if not limit.unfinished and (note := parts.incomplete(results)) is not None:
                print(f"note: {note}", file=sys.stderr)
        elif not limit.unfinished:
            raise ValueError(f"out ({out}) holds no complete {parts.unit} of this study yet.")
        return limit.exit_status


NAMED = 5  # units that a message names


def holds(results: Any, unit: tuple[Any, ...]) -> bool:
    """Whether nested mappings have a value for the keys of a unit.

    Examples:
      >>> holds({"MLP": {"SGD": []}}, ("MLP", "SGD")), holds({"MLP": {"SGD": []}}, ("MLP", "SAM"))
      (True, False)
    """
    for key in unit:
        if key not in results:
            return False
        results = results[key]
    return True


@dataclasses.dataclass(frozen=True)
class Parts:
    """A study that is run in parts.

    Attributes:
      command: name of the command.
      study: the whole study, which is reported.
      chosen: the part of the study that is run now.
      run: function (part, out, progress=, limit=) that runs missing units.
      read: function (study, out) -> complete results.
      report: function (study, results, out) -> text.
      meetings: function of the results that returns the meetings of the replicas of all runs.
      unit: name of one result, for messages.
      wanted: all units of the study, each with its keys in the results.
      has: function (results, keys of a unit) -> whether it is complete.
    """

    command: str
    study: Any
    chosen: Any
    run: Any
    read: Any
    report: Any
    meetings: Callable[[Any], Meetings]
    unit: str
    wanted: Sequence[tuple[Any, ...]]
    has: Callable[[Any, tuple[Any, ...]], bool] = holds

    def incomplete(self, results: Any) -> str | None:
        """Says which units of the study are not in the report; None if all are."""
        absent = [unit for unit in self.wanted if not self.has(results, unit)]
        missing = [", ".join(map(str, unit)) for unit in absent]
        if not missing:
            return None
        more = f"; and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        return (
            f"the report leaves out {len(missing)} of {len(self.wanted)} {self.unit}s, because "
            f"they are not complete: {'; '.join(missing[:NAMED])}{more}."
        )
