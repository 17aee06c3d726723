"""Which candidate of a setting and length is the best, from the records."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.report.statistics import standard_error

Records = Sequence[dict[str, Any]]


def records_of(records: Records, setting: str, length: int) -> Records:
    """The records of a setting and length."""
    return [r for r in records if r["setting"] == setting and r["length"] == length]


def ranking(records: Records) -> list[int]:
    """Sorts candidates of a setting and length by seeds, then by mean error."""
    errors: dict[int, list[float]] = {}
    for record in records:
        errors.setdefault(record["candidate"], []).append(record["validation_error"])
    return sorted(errors, key=lambda c: (-len(errors[c]), np.mean(errors[c])))


def best(records: Records, setting: str, length: int) -> dict[str, Any] | None:
    """The candidate with most seeds and least error, and its mean error."""
    own = records_of(records, setting, length)
    if not own:
        return None
    first, *_ = ranking(own)
    runs = [record for record in own if record["candidate"] == first]
    errors = [record["validation_error"] for record in runs]
    return {
        "settings": runs[0]["settings"],
        "seeds": len(errors),
        "error": float(np.mean(errors)),
        "sem": float(standard_error(errors)),
    }
