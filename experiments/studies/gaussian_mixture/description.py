"""The description of the chapter on Gaussian mixtures."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

Part = Literal["minima", "algorithms", "replicas", "entropy"]


@dataclasses.dataclass(frozen=True)
class Chapter:
    """The simulated points, and the sizes of simulations.

    Attributes:
      parts: parts of the chapter.
      num_features: N of the simulations; slow ones have smaller N, and more samples.
      seeds: number of samples of each point.
      theory: further figures, which are drawn without simulated points.
    """

    parts: Sequence[Part]
    num_features: int
    seeds: int
    theory: Sequence[str] = ()
