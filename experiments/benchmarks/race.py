"""Times functions in turn, so that slow periods of the machine affect all."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, TypeVar

import numpy as np

Clock = Literal["wall", "cpu"]
Name = TypeVar("Name", bound=Hashable)


def race(
    calls: Mapping[Name, Callable[[], Any]], rounds: int, clock: Clock = "wall", rest: float = 0.0
) -> dict[Name, np.ndarray]:
    """Returns seconds of all functions in each round, after a warm-up round.

    Args:
      calls: functions to time; each waits for its result.
      rounds: number of rounds.
      clock: "wall", or "cpu": time of this process on all cores, for a busy machine.
      rest: seconds of sleep before each call, so that another library's threads become idle.

    Returns:
      name -> (rounds,).
    """
    now = time.perf_counter if clock == "wall" else time.process_time
    times: dict[Name, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            time.sleep(rest)
            start = now()
            call()
            times[name].append(now() - start)
    return {name: np.array(values[1:]) for name, values in times.items()}
