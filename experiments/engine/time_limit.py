"""A limit of a command's wall time: only work that fits is started.

The work on a unit (a run, a population of runs) has parts that cannot be interrupted:

- "start": from nothing, or from a checkpoint, to the first moment at which the unit can be saved;
  its programs are compiled then;
- "chunk": from one such moment to the next one, a step or an epoch;
- "save": writing a checkpoint;
- "finish": evaluating the trained models.

The times of these parts are measured, in this unit or in earlier ones of the same kind. Before a
part starts, the unit stops if that part and a save might not fit into the time that is left.
"""

import contextlib
import re
import time
from collections.abc import Callable, Hashable, Iterator

MARGIN = 1.25  # a part may take longer than the longest one so far
EXIT_STATUS = 75  # for a command whose time was up: "try again" (EX_TEMPFAIL of sysexits.h)
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_UNMEASURED = {"save": 2.0}  # seconds


class TimeIsUp(Exception):
    """A unit stopped or did not start because of the time limit; its work is saved."""


def parse_duration(text: str) -> float:
    """Converts a duration such as "9m", "1h30m" or "540" to seconds.

    Raises:
      ValueError: the text is not a duration above zero.

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
    """The wall time that is left, and the durations of parts of the work so far.

    Attributes:
      unfinished: number of units that stopped or did not start for lack of time.

    Args:
      seconds: limit from now on; None for no limit.
      resumable: whether a later command can continue from saved work. If not, a unit also stops as
        soon as its pace shows that it would not end in time.
      clock: function that returns seconds, for tests.
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
        """The seconds that are left; infinite without a limit."""
        return self._end - self.now()

    @property
    def exit_status(self) -> int:
        """The exit status of a command: 75 if units are left, else 0."""
        return EXIT_STATUS if self.unfinished else 0

    def note(self, kind: Hashable, part: str, seconds: float) -> None:
        """Records the duration of a part of a unit of this kind."""
        times = self._longest.setdefault(part, {})
        times[kind] = max(seconds, times.get(kind, 0.0))

    def expected(self, kind: Hashable, part: str) -> float:
        """Returns the longest duration of such parts so far: of this kind, else of any."""
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
        """Records the duration of the body."""
        start = self.now()
        yield
        self.note(kind, part, self.now() - start)

    @contextlib.contextmanager
    def part(self, kind: Hashable, part: str) -> Iterator[None]:
        """Runs the body if this part fits, and records its duration.

        Raises:
          TimeIsUp: it does not fit.
        """
        self.require(kind, part)
        with self.measuring(kind, part):
            yield

    def begin(self, kind: Hashable) -> "Pace":
        """Starts a unit.

        Raises:
          TimeIsUp: the unit would not reach the moment at which it can be saved.
        """
        self.require(kind, "start", "save")
        return Pace(self, kind)


class Pace:
    """The pace of a unit that has started.

    Attributes:
      is_over: whether `is_up` has returned True.

    Args:
      limit: limit of the command.
      kind: kind of the unit; units of one kind take equally long.
    """

    def __init__(self, limit: TimeLimit, kind: Hashable):
        self._limit, self._kind = limit, kind
        self._part, self._last = "start", limit.now()
        self._first: tuple[float, float] | None = None
        self.is_over = False

    def is_up(self, done: float) -> bool:
        """Whether the unit must stop; call it whenever the unit could be saved.

        Args:
          done: fraction of the unit that is complete.
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
