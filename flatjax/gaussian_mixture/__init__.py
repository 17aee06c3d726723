"""Classification of a Gaussian mixture: theory of flat minima and simulations."""

from flatjax.gaussian_mixture import losses
from flatjax.gaussian_mixture._bayes import Estimator, bayes_optimal, centroid, hebb, oracle
from flatjax.gaussian_mixture._erm import ERM, erm
from flatjax.gaussian_mixture._local_entropy import LocalEntropy, local_entropy
from flatjax.gaussian_mixture._margin import MaxMargin, max_margin, separability_threshold
from flatjax.gaussian_mixture._mixture import Sample, generalization_error, overlaps, sample
from flatjax.gaussian_mixture._references import (
    Reference,
    erm_reference,
    gibbs_reference,
    hebb_reference,
    noisy_hebb_reference,
)
from flatjax.gaussian_mixture._replicated import Replicated, replicated, replicated_sphere

__all__ = [
    "ERM",
    "Estimator",
    "LocalEntropy",
    "MaxMargin",
    "Reference",
    "Replicated",
    "Sample",
    "bayes_optimal",
    "centroid",
    "erm",
    "erm_reference",
    "generalization_error",
    "gibbs_reference",
    "hebb",
    "hebb_reference",
    "local_entropy",
    "losses",
    "max_margin",
    "noisy_hebb_reference",
    "oracle",
    "overlaps",
    "replicated",
    "replicated_sphere",
    "sample",
    "separability_threshold",
]
