"""A limit of a command's wall time: what would not fit is not begun, what is begun is saved.

The work of a unit (a run, a population of runs) has parts that cannot be interrupted:

- "start": from nothing, or from a checkpoint, to the first moment at which it can be saved; its
  programs are compiled then;
- "chunk": from one such moment to the next one, a step or an epoch;
- "save": writing a checkpoint;
- "finish": the evaluation of the trained models.

How long a part takes is measured. Before a part that was measured earlier, in this unit or in one
of the same kind, the unit stops if that part and a save might not fit into the time that is left.
"""

import contextlib
import re
import time
from collections.abc import Callable, Hashable, Iterator

MARGIN = 1.25  # a part may take longer than the longest one so far
EXIT_STATUS = 75  # of a command whose time was up: "try again" (EX_TEMPFAIL of sysexits.h)
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_UNMEASURED = {"save": 2.0}  # seconds


class TimeIsUp(Exception):
    """A unit stopped, or was not begun, because of the time limit; what it had done is saved."""


def parse_duration(text: str) -> float:
    """Seconds of a duration such as "9m", "1h30m" or "540".

    Raises:
      ValueError: the text is no duration above zero.

    Examples:
      >>> parse_duration("9m"), parse_duration("1h30m"), parse_duration("540")
      (540.0, 5400.0, 540.0)
    """
    number = r"\d+(?:\.\d+)?"
    if re.fullmatch(number, text):
        seconds = float(text)
    elif re.fullmatch(f"(?:{number}h)?(?:{number}m)?(?:{number}s)?", text):
        parts = re.findall(f"({number})([hms])", text)
        seconds = sum(float(value) * _UNITS[unit] for value, unit in parts)
    else:
        seconds = 0.0
    if seconds <= 0:
        raise ValueError(f"time_limit must be a duration such as 9m, 1h30m or 540s, got {text!r}.")
    return seconds


class TimeLimit:
    """The wall time that is left, and how long the parts of the work took so far.

    Attributes:
      unfinished: units that stopped or were not begun for want of time.

    Args:
      seconds: from now on; None for no limit.
      resumable: whether a later command can continue from what is saved. Without that, a unit also
        stops as soon as its pace shows that it would not end in time.
      clock: seconds, for tests.
    """

    def __init__(
        self,
        seconds: float | None = None,
        *,
        resumable: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.now = clock
        self.resumable = resumable
        self.unfinished = 0
        self._end = float("inf") if seconds is None else clock() + seconds
        self._longest: dict[str, dict[Hashable, float]] = {}

    @property
    def is_set(self) -> bool:
        """Whether there is a limit."""
        return self._end < float("inf")

    @property
    def left(self) -> float:
        """Seconds that are left; infinite without a limit."""
        return self._end - self.now()

    @property
    def exit_status(self) -> int:
        """Exit status of a command: 75 if units are left, else 0."""
        return EXIT_STATUS if self.unfinished else 0

    def note(self, kind: Hashable, part: str, seconds: float) -> None:
        """Takes down how long a part took of a unit of this kind."""
        times = self._longest.setdefault(part, {})
        times[kind] = max(seconds, times.get(kind, 0.0))

    def expected(self, kind: Hashable, part: str) -> float:
        """Seconds of the longest such part so far: of this kind, else of any kind."""
        times = self._longest.get(part, {})
        of_any = max(times.values(), default=_UNMEASURED.get(part, 0.0))
        return times.get(kind, of_any)

    def fits(self, kind: Hashable, *parts: str) -> bool:
        """Whether these parts, one after another, fit into the time that is left."""
        return self.left > MARGIN * sum(self.expected(kind, part) for part in parts)

    def require(self, kind: Hashable, *parts: str) -> None:
        """Raises TimeIsUp unless these parts fit."""
        if not self.fits(kind, *parts):
            raise TimeIsUp(f"{max(self.left, 0):.0f} s are left.")

    @contextlib.contextmanager
    def measuring(self, kind: Hashable, part: str) -> Iterator[None]:
        """Takes down how long the body takes."""
        start = self.now()
        yield
        self.note(kind, part, self.now() - start)

    def begin(self, kind: Hashable) -> "Pace":
        """Begins a unit.

        Raises:
          TimeIsUp: it would not come to the moment at which it can be saved.
        """
        self.require(kind, "start", "save")
        return Pace(self, kind)


class Pace:
    """The pace of a unit that has begun.

    Attributes:
      is_over: whether `is_up` has said so.

    Args:
      limit: of the command.
      kind: units of one kind take equally long.
    """

    def __init__(self, limit: TimeLimit, kind: Hashable):
        self._limit, self._kind = limit, kind
        self._part, self._last = "start", limit.now()
        self._first: tuple[float, float] | None = None
        self.is_over = False

    def is_up(self, done: float) -> bool:
        """Whether the unit must stop; asked whenever it could be saved.

        Args:
          done: the fraction of the unit that is complete.
        """
        now = self._limit.now()
        self._limit.note(self._kind, self._part, now - self._last)
        self._part, self._last = "chunk", now
        self._first = self._first or (now, done)
        fits = self._limit.fits(self._kind, "chunk", "save")
        if not self._limit.resumable:
            start, done_then = self._first
            rest = (now - start) / max(done - done_then, 1e-9) * (1 - done)
            fits = self._limit.left > rest + MARGIN * self._limit.expected(self._kind, "finish")
        self.is_over = self.is_over or not fits
        return self.is_over
