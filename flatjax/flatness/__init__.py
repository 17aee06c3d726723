"""Measures of flatness, for any pytree of parameters and evaluation function.

All measures take the same parameters, batches and keys. Half-precision weights are evaluated as
float32 copies, because half precision would round a small perturbation away.
"""

from flatjax.flatness import priors
from flatjax.flatness._barrier import Barrier, barrier
from flatjax.flatness._check_eval_fn import check_eval_fn
from flatjax.flatness._coefficient import LearningCoefficient
from flatjax.flatness._coefficient_of_training import (
    TrainingCoefficient,
    learning_coefficient_of_training,
)
from flatjax.flatness._compare import Comparison, Difference, compare
from flatjax.flatness._directions import line, plane, random_direction
from flatjax.flatness._eval_fns import classification, language_model, regression
from flatjax.flatness._fine_tuning import FineTuning, fine_tuning
from flatjax.flatness._hessian import (
    Eigenvalues,
    SpectralDensity,
    Trace,
    spectral_density,
    top_eigenvalues,
    trace,
)
from flatjax.flatness._lanczos import lanczos
from flatjax.flatness._learning_coefficient import learning_coefficient
from flatjax.flatness._local_energy import LocalEnergy, local_energy, paired_difference
from flatjax.flatness._local_entropy import LocalEntropy, local_entropy
from flatjax.flatness._log_fraction import LogFraction, log_fraction_direct
from flatjax.flatness._operators import gauss_newton_operator, hessian_operator
from flatjax.flatness._pac_bayes import PacBayesSigma, pac_bayes_sigma
from flatjax.flatness._pruning import Pruning, pruning
from flatjax.flatness._quantization import Quantization, quantization
from flatjax.flatness._ranking import Ranking, kendall_tau, rank_solutions
from flatjax.flatness._report import report
from flatjax.flatness._report_result import Report
from flatjax.flatness._rows import Row
from flatjax.flatness._sharpness import (
    SamSharpness,
    WorstCaseSharpness,
    sam_sharpness,
    worst_case_sharpness,
)
from flatjax.flatness._slices import Slice1D, Slice2D, plot_slice, slice_1d, slice_2d
from flatjax.flatness._soup import Soup, soup
from flatjax.flatness._trajectory import Trajectory, trajectory
from flatjax.flatness._weight_noise import WeightNoise, weight_noise

__all__ = [
    "Barrier",
    "Comparison",
    "Difference",
    "Eigenvalues",
    "FineTuning",
    "LearningCoefficient",
    "LocalEnergy",
    "LocalEntropy",
    "LogFraction",
    "PacBayesSigma",
    "Pruning",
    "Quantization",
    "Ranking",
    "Report",
    "Row",
    "SamSharpness",
    "Slice1D",
    "Slice2D",
    "Soup",
    "SpectralDensity",
    "Trace",
    "TrainingCoefficient",
    "Trajectory",
    "WeightNoise",
    "WorstCaseSharpness",
    "barrier",
    "check_eval_fn",
    "classification",
    "compare",
    "fine_tuning",
    "gauss_newton_operator",
    "hessian_operator",
    "kendall_tau",
    "lanczos",
    "language_model",
    "learning_coefficient",
    "learning_coefficient_of_training",
    "line",
    "local_energy",
    "local_entropy",
    "log_fraction_direct",
    "pac_bayes_sigma",
    "paired_difference",
    "plane",
    "plot_slice",
    "priors",
    "pruning",
    "quantization",
    "random_direction",
    "rank_solutions",
    "regression",
    "report",
    "sam_sharpness",
    "slice_1d",
    "slice_2d",
    "soup",
    "spectral_density",
    "top_eigenvalues",
    "trace",
    "trajectory",
    "weight_noise",
    "worst_case_sharpness",
]
