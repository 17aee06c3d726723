"""The common parts of study descriptions: a base, its changes, and chosen parts."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.engine.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Study:
    """A study whose runs share a base and differ by their changes.

    Attributes:
      base: settings that all runs share.
    """

    base: TrainConfig

    def changed(self, *changes: Mapping[str, Any]) -> TrainConfig:
        """Returns the base with some settings changed; later changes win."""
        merged = functools.reduce(lambda fields, more: fields | dict(more), changes, {})
        return self.base.changed(**merged)


def chosen(labels: Sequence[str], known: Mapping[str, Any], name: str = "only") -> dict[str, Any]:
    """Returns the named entries of a mapping, or all if none is named.

    Args:
      labels: names of the entries.
      known: label -> value.
      name: name of the user's option, for the error.

    Raises:
      ValueError: one of the labels has no entry.

    Examples:
      >>> chosen(["SGD"], {"SGD": 1, "rSGD": 2})
      {'SGD': 1}
    """
    unknown = [label for label in labels if label not in known]
    if unknown:
        raise ValueError(f"{name} must hold labels of {list(known)}, got {unknown}.")
    return {label: value for label, value in known.items() if not labels or label in labels}
