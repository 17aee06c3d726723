"""Committee machines: message passing, focusing BP and local entropy.

In equations, K is the number of units, N the number of inputs of a unit, and P the number of
patterns. y is the number of replicas, sigma a label, and S the shape of the requested points. The
argument `y` of the functions holds the labels.
"""

from flatjax.committee._amp import amp
from flatjax.committee._binary import (
    BinarySolution,
    binary_bp,
    binary_focusing_bp,
    binary_reinforced_bp,
    pseudo_reinforcement,
)
from flatjax.committee._binary_entropy import BinaryEntropy, binary_entropy
from flatjax.committee._expectation_propagation import expectation_propagation
from flatjax.committee._focusing import (
    BeliefPropagation,
    Focused,
    belief_propagation,
    focusing_bp,
)
from flatjax.committee._marginals import Marginals
from flatjax.committee._model import Committee, error, fields, stay_on_sphere, to_sphere
from flatjax.committee._sampling import (
    DirectLogFraction,
    SampledLogFraction,
    direct_log_fraction,
    sample_log_fraction,
)

__all__ = [
    "BeliefPropagation",
    "BinaryEntropy",
    "BinarySolution",
    "Committee",
    "DirectLogFraction",
    "Focused",
    "Marginals",
    "SampledLogFraction",
    "amp",
    "belief_propagation",
    "binary_bp",
    "binary_entropy",
    "binary_focusing_bp",
    "binary_reinforced_bp",
    "direct_log_fraction",
    "error",
    "expectation_propagation",
    "fields",
    "focusing_bp",
    "pseudo_reinforcement",
    "sample_log_fraction",
    "stay_on_sphere",
    "to_sphere",
]
