"""What the chapter on Gaussian mixtures is."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

Part = Literal["minima", "algorithms", "replicas", "entropy"]


@dataclasses.dataclass(frozen=True)
class Chapter:
    """Which points are simulated, and how.

    Attributes:
      parts: of the chapter.
      num_features: N of the simulations; slow ones have fewer, and more samples.
      seeds: samples of each point.
      theory: figures that are drawn without simulated points, in addition to those of the parts.
    """

    parts: Sequence[Part]
    num_features: int
    seeds: int
    theory: Sequence[str] = ()
