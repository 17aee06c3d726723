"""Messages of `report` while it measures: the cost, then a progress bar."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from flatjax.flatness import _optional
from flatjax.flatness._effort import Cost


class Progress:
    """A bar that counts batches; it jumps after measures with compiled loops."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._reached = 0
        self._num_batches = 0

    @contextlib.contextmanager
    def shown(
        self,
        progress: bool | None,
        measures: Sequence[str],
        cost: Cost,
        num_batches: int,
    ) -> Iterator[None]:
        """Prints the cost, and shows the bar until the end.

        Args:
          progress: whether to print and show; None shows the bar if tqdm is installed and stderr is
            a terminal.
          measures: names of the measures.
          cost: cost of all measures.
          num_batches: number of batches of the data.
        """
        if progress is False or (progress is None and not sys.stderr.isatty()):
            yield
            return
        try:
            tqdm = _optional.require("tqdm", "progress=True")
        except ImportError:
            if progress:
                raise
            yield
            return
        batches = "1 batch" if num_batches == 1 else f"{num_batches} batches"
        print(f"report: {cost} of {batches}; {', '.join(measures)}", file=sys.stderr, flush=True)
        self._num_batches = num_batches
        # disable=None: no bar in a log file, where each update would be a line.
        total = self._ticks(cost)
        with tqdm.tqdm(total=total, unit="batch", desc="report", disable=None) as self._bar:
            yield
        self._bar = None

    def tick(self) -> None:
        """Counts one batch that was used."""
        if self._bar is not None and self._bar.n < self._bar.total:
            self._bar.update()

    def done(self, cost: Cost) -> None:
        """Counts a finished measure with this expected cost."""
        self._reached += self._ticks(cost)
        if self._bar is not None:
            self._bar.update(self._reached - self._bar.n)

    def _ticks(self, cost: Cost) -> int:
        passes = cost.evaluations + cost.gradients + cost.products
        return passes * self._num_batches + cost.batch_gradients
