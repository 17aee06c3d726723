"""The settings of `report` at each level, and their cost in passes over the data."""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

from flatjax import _checks

MEASURES = (
    "local_energy",
    "weight_noise",
    "sam_sharpness",
    "adaptive_sharpness",
    "worst_case_sharpness",
    "quantization",
    "pruning",
    "top_eigenvalue",
    "trace",
    "spectral_density",
    "learning_coefficient",
)
NEEDS_ERROR = ("weight_noise",)  # its default rise of 0.05 is meaningful only for an error
# Approximate cost of a pass relative to an evaluation, on CPU.
GRADIENT, PRODUCT = 3, 8


@dataclasses.dataclass(frozen=True)
class Effort:
    """The settings of all measures.

    Attributes:
      measures: names of the default measures.
      sigmas: strengths of the noise, relative to the weights.
      num_samples: number of draws of the noise.
      target_rise: rise of the error that defines the tolerated noise.
      rho: radius of SAM's sharpness and of the worst case.
      adaptive_rho: radius of adaptive sharpness.
      ascent_steps: number of ascent steps for the worst case.
      bits: numbers of bits to which weights are rounded.
      sparsity: shares of weights that are removed.
      num_matvecs: number of Lanczos steps.
      num_probes: number of random vectors for the trace.
      density_probes: number of random vectors for the spectral density.
      localization: localization of the learning coefficient.
      num_chains: number of chains for the learning coefficient.
      num_steps: number of recorded steps of these chains.
      num_warmup: number of warm-up steps of these chains.
    """

    measures: tuple[str, ...] = MEASURES
    sigmas: tuple[float, ...] = (0.1, 0.3, 0.5)
    num_samples: int = 8
    target_rise: float = 0.05
    rho: float = 0.05
    adaptive_rho: float = 0.5
    ascent_steps: int = 5
    bits: tuple[int, ...] = (4, 3)
    sparsity: tuple[float, ...] = (0.7, 0.9)
    num_matvecs: int = 10
    num_probes: int = 5
    density_probes: int = 2
    localization: float = 100.0
    num_chains: int = 4
    num_steps: int = 200
    num_warmup: int = 100


LEVELS = {
    "quick": Effort(
        measures=(
            "local_energy",
            "weight_noise",
            "sam_sharpness",
            "adaptive_sharpness",
            "quantization",
            "pruning",
        )
    ),
    "standard": Effort(
        measures=tuple(
            name for name in MEASURES if name not in ("spectral_density", "learning_coefficient")
        ),
        sigmas=(0.1, 0.2, 0.3, 0.5),
        num_samples=20,
        ascent_steps=10,
        num_matvecs=15,
        num_probes=10,
        density_probes=3,
        num_steps=500,
        num_warmup=300,
    ),
    "thorough": Effort(
        sigmas=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
        num_samples=100,
        ascent_steps=20,
        num_matvecs=40,
        num_probes=50,
        density_probes=5,
        num_chains=8,
        num_steps=2000,
        num_warmup=1000,
    ),
}


class Cost(NamedTuple):
    """The cost of measures, as numbers of passes over the data.

    Attributes:
      evaluations: number of forward passes.
      gradients: number of gradients of the loss.
      products: number of products of the Hessian with a vector; each costs two to three gradients.
      batch_gradients: number of gradients of a single batch, for Langevin chains.
    """

    evaluations: int = 0
    gradients: int = 0
    products: int = 0
    batch_gradients: int = 0

    def __add__(self, other: "Cost") -> "Cost":  # type: ignore[override]  # of tuple
        """Adds two costs."""
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

    def __mul__(self, times: int) -> "Cost":  # type: ignore[override]  # of tuple
        """Multiplies the cost by a number of repetitions."""
        return Cost(*(times * a for a in self))

    def passes(self, num_batches: int) -> float:
        """Returns the approximate cost in evaluations of the data."""
        gradients = self.gradients + self.batch_gradients / num_batches
        return self.evaluations + GRADIENT * gradients + PRODUCT * self.products

    def __str__(self) -> str:
        """Describes the cost in words."""
        kinds = {
            "evaluations": self.evaluations,
            "gradients": self.gradients,
            "Hessian products": self.products,
            "gradients of one batch": self.batch_gradients,
        }
        parts = [f"{number:,} {kind}" for kind, number in kinds.items() if number]
        return ", ".join(parts) or "nothing"


def cost_of(measures: Iterable[str], effort: Effort) -> Cost:
    """Returns the cost of some measures together, for one block of weights."""
    wanted = set(measures)
    steps = effort.num_warmup + effort.num_steps
    # Tuning the steps takes two gradients per chain, and one for the solution.
    langevin = effort.num_chains * (steps + effort.num_warmup) + steps
    costs = {
        "noise": Cost(len(effort.sigmas) * effort.num_samples + 1),
        # Two of the gradients are for the standard error.
        "sam_sharpness": Cost(1, 3),
        "adaptive_sharpness": Cost(1, 3),
        "worst_case_sharpness": Cost(2, effort.ascent_steps),
        "quantization": Cost(len(effort.bits) + 1),
        "pruning": Cost(len(effort.sparsity) + 1),
        "top_eigenvalue": Cost(0, 0, effort.num_matvecs + 2),
        "trace": Cost(0, 0, effort.num_probes),
        "spectral_density": Cost(0, 0, effort.density_probes * effort.num_matvecs),
        "learning_coefficient": Cost(0, 1, 0, langevin),
    }
    if wanted & {"local_energy", "weight_noise"}:
        wanted = wanted - {"local_energy", "weight_noise"} | {"noise"}
    return sum((costs[name] for name in costs if name in wanted), Cost())


def effort_of(level: str, num_samples: int | None = None) -> Effort:
    """Returns the effort of a level, with another number of draws if it is given."""
    _checks.check_choice("level", level, tuple(LEVELS))
    if num_samples is None:
        return LEVELS[level]
    _checks.check_count("num_samples", num_samples, minimum=2)
    return dataclasses.replace(LEVELS[level], num_samples=num_samples, num_probes=num_samples)
