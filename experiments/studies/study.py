"""What descriptions of studies share: a base, changes of it, and the choice of parts."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.engine.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Study:
    """A study whose runs share a base and differ by what each changes of it.

    Attributes:
      base: what all runs share.
    """

    base: TrainConfig

    def changed(self, *changes: Mapping[str, Any]) -> TrainConfig:
        """The base with some settings changed; later changes override earlier ones."""
        merged = functools.reduce(lambda fields, more: fields | dict(more), changes, {})
        return self.base.changed(**merged)


def chosen(labels: Sequence[str], known: Mapping[str, Any], name: str = "only") -> dict[str, Any]:
    """The entries of a mapping that are named; all if none is.

    Args:
      labels: of the entries.
      known: label -> value.
      name: of the option by which the user chose, for the error.

    Raises:
      ValueError: there is no entry of one of the labels.

    Examples:
      >>> chosen(["SGD"], {"SGD": 1, "rSGD": 2})
      {'SGD': 1}
    """
    unknown = [label for label in labels if label not in known]
    if unknown:
        raise ValueError(f"{name} must hold labels of {list(known)}, got {unknown}.")
    return {label: value for label, value in known.items() if not labels or label in labels}
