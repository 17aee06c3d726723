"""Says in a sentence whether the replicas of runs have become one network."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Largest tolerated excess of the center's error over its replicas' mean, in points, as in
# `flatjax.check_collapsed`.
TOLERANCE = 1.0


def not_met(results: Sequence[Mapping[str, Any]]) -> str | None:
    """Says how far apart replicas ended, if the center of a run is no good network.

    Args:
      results: results of runs that differ only in their seeds, see
        `experiments.engine.evaluate.final_result`.

    Returns:
      One sentence on the runs whose replicas have not met and one on what to do; None if there are
      no such runs.

    Examples:
      >>> history = [{"relative_distance": 0.71}]
      >>> run = {"test_error": 16.6, "replica_test_errors": [7.5, 8.5], "history": history}
      >>> print(not_met([run]).split(":")[0])
      replicas have not met (distance 0.71, center 16.6 %, replicas 8 %)
    """
    apart = [run for run in results if run["test_error"] > _replicas(run) + TOLERANCE]
    if not apart:
        return None
    which = f"in {len(apart)} of {len(results)} runs " if len(results) > 1 else ""
    center = np.mean([run["test_error"] for run in apart])
    replicas = np.mean([_replicas(run) for run in apart])
    distances = [run["history"][-1].get("relative_distance", np.nan) for run in apart]
    return (
        f"{which}replicas have not met (distance {np.mean(distances):.2g}, center {center:.3g} %, "
        f"replicas {replicas:.3g} %): their center is no good network. Raise --gamma (for parle, "
        "--replica-gamma), or train for more epochs."
    )


def _replicas(run):
    return np.mean(run["replica_test_errors"])
