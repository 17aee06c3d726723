"""The local learning coefficient of Entropy-SGD's anchor, from inner losses."""

from typing import Any, NamedTuple

import numpy as np

from flatjax import _checks
from flatjax.flatness import _tables


@_tables.printed
class TrainingCoefficient(NamedTuple):
    r"""The local learning coefficient along a training run, from R loops.

    Attributes:
      mean: the mean over loops.
      sem: standard error of the mean, from the spread of loops; nan for one loop.
      loops: estimate of each loop, (R,). These are noisy: average over as many loops as possible
        during which the anchor hardly moves.
      n_beta: :math:`n \beta = 1 / \epsilon^2`, per unit of the mean loss.
    """

    mean: float
    sem: float
    loops: np.ndarray
    n_beta: float

    def table(self) -> _tables.Table:
        """Tabulates the coefficient and its standard error; printing shows it."""
        found = {"value": [_tables.with_error(self.mean, self.sem), _tables.number(self.n_beta)]}
        title = [f"Local learning coefficient, ± standard error over {len(self.loops)} loops"]
        return _tables.of_quantities(title, "", ["λ", "n β"], found)


def learning_coefficient_of_training(
    losses: Any, *, inner_steps: int, noise_scale: float, discard: float = 0.5
) -> TrainingCoefficient:
    r"""Computes the local learning coefficient from inner losses of `esgd`.

    Without momentum, the inner loop of Entropy-SGD with noise :math:`\epsilon` is stochastic
    gradient Langevin dynamics. Its inverse temperature is :math:`n \beta = 1 / \epsilon^2`, its
    steps are :math:`2 \eta' / n \beta`, and it is localized at the anchor by
    :math:`\gamma_{LLC} = n \beta \gamma` (in the units of `learning_coefficient`). Let
    :math:`\ell_0 \ldots \ell_{L-1}` be the losses of a loop, the first of them at the anchor. Then

    .. math::
      \hat\lambda = \frac{1}{\epsilon^2}
      \big(\langle \ell_i \rangle_{i \ge \mathrm{discard} \cdot L} - \ell_0 \big).

    This holds under three conditions. Loops are long enough to settle:
    :math:`L \eta' (h + \gamma) \gg 1` for the relevant curvatures h. Steps are small:
    :math:`\eta' (h + \gamma) \ll 1`. And the anchor is at a minimum, because of a small outer
    learning rate or an `averaging_decay` near 1. An anchor that is the mean of only the last few
    iterates fluctuates with them; the estimate is then too small.

    *Cost*: none; training computes these losses anyway.

    Args:
      losses: mean losses of the batches, in the order of the gradients, (T,). An incomplete loop at
        the end is dropped.
      inner_steps: L, as given to `esgd`.
      noise_scale: :math:`\epsilon`, as given to `esgd`.
      discard: share of each loop that is left out at its start, in [0, 1). The number of losses is
        rounded down; the loss at the anchor is always left out.

    Returns:
      The coefficient of each loop and its mean.

    Raises:
      ValueError: losses are not a vector or shorter than a loop, there are fewer than 2 inner
        steps, the noise scale is not positive, or `discard` is out of range.

    References:
      Chaudhari et al., Entropy-SGD, 2017; Lau et al., The local learning coefficient, 2023.

    Examples:
      >>> from flatjax.flatness import learning_coefficient_of_training
      >>> losses = [0.1, 0.3, 0.6, 0.5, 0.1, 0.3, 0.5, 0.4]  # two loops
      >>> found = learning_coefficient_of_training(losses, inner_steps=4, noise_scale=0.5)
      >>> found.loops.round(3), round(found.mean, 3)
      (array([1.8, 1.4]), 1.6)

    See Also:
      `learning_coefficient` (measured after training), `flatjax.esgd` (has the inner losses).
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
