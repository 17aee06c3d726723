"""Says in a sentence whether the replicas of runs have become one network."""

import collections
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Largest tolerated excess of the center's error over its replicas' mean, in points, as in
# `flatjax.check_collapsed`.
TOLERANCE = 1.0

# Of one run at its end: the error of the center ("center") and the mean error of its replicas
# ("replicas"), in %, and the relative distance of the replicas ("distance").
Meeting = Mapping[str, float]
# Algorithm -> its runs: to what each belongs, and its meeting; None where nothing is known.
Meetings = dict[str, list[tuple[str, Meeting | None]]]


def meeting_of(result: Mapping[str, Any]) -> Meeting:
    """Takes the meeting from the result of a run, see `final_result`.

    Examples:
      >>> history = [{"relative_distance": 0.71}]
      >>> meeting_of({"test_error": 16.6, "replica_test_errors": [7, 9], "history": history})
      {'center': 16.6, 'replicas': 8.0, 'distance': 0.71}
    """
    return {
        "center": result["test_error"],
        "replicas": float(np.mean(result["replica_test_errors"])),
        "distance": result["history"][-1].get("relative_distance", np.nan),
    }


def not_met(meetings: Sequence[Meeting | None], places: Sequence[str] = ()) -> str | None:
    """Says how far apart replicas ended, if the center of a run is no good network.

    Args:
      meetings: of runs of one algorithm. Runs of which nothing is known (None) are not counted:
        those that diverged, and those that were recorded before meetings were.
      places: to what each of the runs belongs; those are named where replicas have not met.

    Returns:
      One sentence on the runs whose replicas have not met, one on what to do, and one on where they
      are; None if there are no such runs.

    Examples:
      >>> apart = {"center": 16.6, "replicas": 8.0, "distance": 0.71}
      >>> print(not_met([apart]).split(":")[0])
      replicas have not met (distance 0.71, center 16.6 %, replicas 8 %)
      >>> print(not_met([apart, None], ["small", "large"]).split(". ")[-1])
      They belong to: small (1).
    """
    known = [one for one in meetings if one is not None]
    apart = [one for one in known if _is_apart(one)]
    if not apart:
        return None
    which = f"in {len(apart)} of {len(known)} runs " if len(known) > 1 else ""
    mean = {name: np.mean([one[name] for one in apart]) for name in apart[0]}
    found = (
        f"{which}replicas have not met (distance {mean['distance']:.2g}, center "
        f"{mean['center']:.3g} %, replicas {mean['replicas']:.3g} %): their center is no good "
        "network. Raise gamma (for parle, replica_gamma), or train for more epochs."
    )
    if not places:
        return found
    pairs = zip(meetings, places, strict=True)
    where = collections.Counter(place for one, place in pairs if one and _is_apart(one))
    return f"{found} They belong to: {'; '.join(f'{name} ({n})' for name, n in where.items())}."


def warn_of(meetings: Meetings) -> None:
    """Prints a warning for each algorithm of which replicas have not met."""
    for algorithm, runs in meetings.items():
        places, found = [place for place, _ in runs], [one for _, one in runs]
        if (warning := not_met(found, places)) is not None:
            print(f"warning: {algorithm}: {warning}", file=sys.stderr)


def _is_apart(meeting: Meeting) -> bool:
    return meeting["center"] > meeting["replicas"] + TOLERANCE
