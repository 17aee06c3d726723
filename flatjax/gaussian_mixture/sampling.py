r"""Monte Carlo at finite size, of the measures whose averages the theory predicts.

There are two measures of the weights of y replicas, given a sample of the mixture:

* `sample_errors`: by the number of errors, on a sphere, optionally at an angle from a reference;
* `sample_loss`: by a loss and a ridge, replicas coupled to their center.

Chains are run in parallel, and more than one for each measure. A quantity that is quadratic in a
thermal mean, such as the overlap q0 of two copies, is biased if it is estimated from one chain, by
the noise of the mean. Estimated from two chains it is unbiased. `equilibrium` uses pairs of chains,
and says whether chains agree.
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
