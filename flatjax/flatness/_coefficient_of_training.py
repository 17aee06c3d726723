r"""The local learning coefficient of Entropy-SGD's anchor, read off its inner loops."""

from typing import Any, NamedTuple

import numpy as np

from flatjax import _checks
from flatjax.flatness import _tables


@_tables.printed
class TrainingCoefficient(NamedTuple):
    r"""The local learning coefficient along a training run, from R loops.

    Attributes:
      mean: the mean over loops.
      sem: its standard error, from the spread of loops; nan for one loop.
      loops: of each loop, (R,); noisy, to be averaged over as many loops as the anchor hardly
        moves in.
      n_beta: :math:`n \beta = 1 / \epsilon^2`, per unit of the mean loss.
    """

    mean: float
    sem: float
    loops: np.ndarray
    n_beta: float

    def table(self) -> _tables.Table:
        """The coefficient and its standard error; printing shows it."""
        found = {"value": [_tables.with_error(self.mean, self.sem), _tables.number(self.n_beta)]}
        title = [f"Local learning coefficient, ± standard error over {len(self.loops)} loops"]
        return _tables.of_quantities(title, "", ["λ", "n β"], found)


def learning_coefficient_of_training(
    losses: Any, *, inner_steps: int, noise_scale: float, discard: float = 0.5
) -> TrainingCoefficient:
    r"""Reads the local learning coefficient off the inner losses of `flatjax.esgd`.

    Without momentum, the inner loop of Entropy-SGD with noise :math:`\epsilon` is stochastic
    gradient Langevin dynamics at :math:`n \beta = 1 / \epsilon^2`, localized at the anchor by
    :math:`\gamma_{LLC} = n \beta \gamma` (in the units of `learning_coefficient`) with steps of
    :math:`2 \eta' / n \beta`. Hence, of the losses :math:`\ell_0 \ldots \ell_{L-1}` of a loop,
    the first of them at the anchor,

    .. math::
      \hat\lambda = \frac{1}{\epsilon^2}
      \big(\langle \ell_i \rangle_{i \ge \mathrm{discard} \cdot L} - \ell_0 \big).

    It holds if loops are long enough to settle, :math:`L \eta' (h + \gamma) \gg 1` for the
    curvatures h that count, if :math:`\eta' (h + \gamma) \ll 1`, and if the anchor is at a minimum:
    with a small outer learning rate, or with an `averaging_decay` near 1. The mean of a few last
    iterates fluctuates as they do; relative to such an anchor, the estimate is too small.

    *Cost*: none; the losses are those that training computes.

    Args:
      losses: mean losses of the batches, in the order of the gradients, (T,); an incomplete loop at
        the end is dropped.
      inner_steps: L, as given to `esgd`.
      noise_scale: :math:`\epsilon`, as given to `esgd`.
      discard: share of each loop that is left out, in [0, 1).

    Returns:
      The coefficient, as a mean and of each loop.

    Raises:
      ValueError: losses that are no vector or shorter than a loop; fewer than 2 inner steps; a
        noise scale that is not positive; `discard` out of range.

    References:
      Chaudhari et al., Entropy-SGD, 2017; Lau et al., The local learning coefficient, 2023.

    Examples:
      >>> from flatjax.flatness import learning_coefficient_of_training
      >>> losses = [0.1, 0.3, 0.6, 0.5, 0.1, 0.3, 0.5, 0.4]  # two loops
      >>> found = learning_coefficient_of_training(losses, inner_steps=4, noise_scale=0.5)
      >>> found.loops.round(3), round(found.mean, 3)
      (array([1.8, 1.4]), 1.6)
    """
    _checks.check_count("inner_steps", inner_steps, minimum=2)
    _checks.check_number("noise_scale", noise_scale, minimum=0.0, exclusive_minimum=True)
    _checks.check_number("discard", discard, minimum=0.0, maximum=1.0, exclusive_maximum=True)
    values = _checks.real_array("losses", losses)
    if values.ndim != 1 or len(values) < inner_steps:
        raise ValueError(
            f"losses must be a vector of at least inner_steps = {inner_steps} numbers, got shape "
            f"{values.shape}."
        )
    by_loop = values[: len(values) // inner_steps * inner_steps].reshape(-1, inner_steps)
    first = max(1, int(discard * inner_steps))
    n_beta = 1 / noise_scale**2
    loops = n_beta * (by_loop[:, first:].mean(axis=1) - by_loop[:, 0])
    sem = loops.std(ddof=1) / np.sqrt(len(loops)) if len(loops) > 1 else np.nan
    return TrainingCoefficient(float(loops.mean()), float(sem), loops, float(n_beta))
