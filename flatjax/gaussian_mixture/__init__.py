"""Classification of a Gaussian mixture: the theory of flat minima, solved."""

from flatjax.gaussian_mixture import losses
from flatjax.gaussian_mixture.bayes import Estimator, bayes_optimal, centroid, hebb, oracle
from flatjax.gaussian_mixture.erm import ERM, erm
from flatjax.gaussian_mixture.margin import MaxMargin, max_margin, separability_threshold
from flatjax.gaussian_mixture.mixture import Sample, generalization_error, overlaps, sample

__all__ = [
    "ERM",
    "Estimator",
    "MaxMargin",
    "Sample",
    "bayes_optimal",
    "centroid",
    "erm",
    "generalization_error",
    "hebb",
    "losses",
    "max_margin",
    "oracle",
    "overlaps",
    "sample",
    "separability_threshold",
]
