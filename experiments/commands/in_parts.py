"""What commands of long studies share."""

import dataclasses
import pathlib


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


@dataclasses.dataclass(frozen=True)
class InParts:
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

    def directory(self, command: str) -> pathlib.Path:
        """The directory of the study."""
        return directory(self.out, command, small=self.small)
