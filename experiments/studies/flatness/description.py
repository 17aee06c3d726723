"""Measures of a solution, and their accuracy."""

import dataclasses

# What each measure is called in tables; larger means sharper, for all of them.
MEASURES = {
    "local_energy": "local energy %, σ={sigma:g}",
    "local_energy_loss": "local energy of the loss, σ={sigma:g}",
    "additive_local_energy": "additive local energy %, σ=0.02",
    "sam": "SAM sharpness, ρ=0.05",
    "asam": "adaptive sharpness, ρ=0.5",
    "worst_case": "worst case, ρ=0.05",
    "pac_bayes": "PAC-Bayes 1/σ²",
    "top_eigenvalue": "largest eigenvalue",
    "trace": "trace of the Hessian",
    "gauss_newton_trace": "trace of Gauss-Newton",
    "norm": "norm of the weights",
    "train_loss": "training loss",
}


@dataclasses.dataclass(frozen=True)
class Effort:
    """How accurately a solution is measured.

    Attributes:
      sigmas: strengths of the noise of the local energy.
      sigma: the one of them that is tabled.
      num_samples: draws of the noise.
      num_matvecs: Lanczos steps for the largest eigenvalue.
      num_probes: random vectors for the traces.
    """

    sigmas: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
    sigma: float = 0.3
    num_samples: int = 30
    num_matvecs: int = 30
    num_probes: int = 30
