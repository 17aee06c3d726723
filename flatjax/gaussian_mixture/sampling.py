r"""Monte Carlo at finite size: samples of the measures whose averages the theory predicts.

Two measures of the weights of y replicas, given a sample of the mixture:

* `sample_errors`: by the number of errors, on a sphere, free or at a given angle from a reference;
* `sample_loss`: by a loss and a ridge, replicas coupled to their center.

Chains are run in parallel, and more than one for each measure: what is quadratic in a thermal mean,
as the overlap q0 of two copies, is biased if estimated from one (by the noise of its mean), and
unbiased from two. `equilibrium` does that, and tells whether chains agree.
"""

from flatjax.gaussian_mixture._chains import Chains, Equilibrium, equilibrium
from flatjax.gaussian_mixture._error_chains import sample_errors
from flatjax.gaussian_mixture._loss_chains import sample_loss
from flatjax.gaussian_mixture._sampled_entropy import LocalEntropyEstimate, sample_local_entropy

__all__ = [
    "Chains",
    "Equilibrium",
    "LocalEntropyEstimate",
    "equilibrium",
    "sample_errors",
    "sample_local_entropy",
    "sample_loss",
]
