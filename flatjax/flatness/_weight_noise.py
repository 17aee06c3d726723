r"""How much noise on its weights a network tolerates, with the uncertainty of that noise.

The mean rise over S draws on a grid of strengths, :math:`\bar\Delta(\sigma_g)`, is interpolated
linearly in :math:`\sigma^2` from :math:`\bar\Delta(0) = 0`, which is exact where the rise is
quadratic, as it is for a smooth loss and weak noise. The tolerated noise is the first crossing of
a target,

.. math::
  \sigma^*(\Delta) = \min \{ \sigma : \bar\Delta(\sigma) > \Delta \} \tag{1}

Its standard error is that of the jackknife over draws, which knows that the same draws serve every
strength: with :math:`\sigma^*_{-s}` the crossing without draw s,

.. math::
  \mathrm{se}^2 = \frac{S - 1}{S} \sum_s \Big(\sigma^*_{-s} - \frac1S \sum_t \sigma^*_{-t}\Big)^2
  \tag{2}
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import numpy as np

from flatjax import _checks
from flatjax._evaluation import EvalFn
from flatjax._masks import Mask
from flatjax.flatness import _inputs, _tables
from flatjax.flatness._local_energy import LocalEnergy, local_energy
from flatjax.flatness._quantities import check_quantity


@_tables.printed
class WeightNoise(NamedTuple):
    """The noise that a network tolerates, for T rises of a quantity.

    Attributes:
      target_rise: the rises, shape (T,).
      tolerance: the strength of the noise at which the mean rise passes each of them, shape (T,);
        NaN where it does not within the grid.
      sem: standard error of the tolerance, shape (T,); NaN where the tolerance is, or where it
        would be without one of the draws.
      energy: the rises on the grid, from which the tolerance is read; see `local_energy`.
    """

    target_rise: np.ndarray
    tolerance: np.ndarray
    sem: np.ndarray
    energy: LocalEnergy

    def table(self) -> _tables.Table:
        """The tolerated noise of each rise; printing shows it."""
        found = [*map(_tables.with_error, self.tolerance, self.sem)]
        title = [
            "Noise that the solution tolerates, ± standard error over draws",
            _tables.at_solution(self.energy.reference),
        ]
        rises = [f"{rise:g}" for rise in self.target_rise]
        return _tables.of_quantities(title, "rise", rises, {"noise σ*": found})


def weight_noise(
    eval_fn: EvalFn,
    *,
    sigmas: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
    target_rise: Sequence[float] = (0.01, 0.05),
    quantity: str = "error",
    num_samples: int = 30,
    noise: str = "multiplicative",
    mask: Mask = None,
) -> Callable[..., WeightNoise]:
    r"""The noise on the weights at which the error rises by given amounts.

    The mechanism is that of `flatjax.flatness.local_energy`, whose result is part of this one:
    Gaussian noise, relative to each weight, :math:`w + \sigma z \odot w`, or absolute,
    :math:`w + \sigma z`. The tolerance is read from the mean rises on the grid, by interpolation
    that is linear in :math:`\sigma^2`; its standard error is a jackknife over the draws. Between
    strengths of the grid, the accuracy is therefore that of the interpolation:
    `flatjax.flatness.pac_bayes_sigma` bisects instead, for one target, and has no standard error of
    the noise. Where the rise is not monotone, the first crossing counts.

    Cost: `num_samples` evaluations of the batches for each sigma, and one more, for all targets
    together. Nothing is recompiled between sigmas, draws, or solutions of the same shapes.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`; scalars.
      sigmas: strengths of the noise, in ascending order.
      target_rise: the rises of the quantity, in its units.
      quantity: a name of `eval_fn`.
      num_samples: S, draws of the noise for each sigma.
      noise: `"multiplicative"` (default) or `"additive"`.
      mask: pytree of bools (or a function of params returning one); leaves marked False (biases,
        scales of norms) are not perturbed. All are, by default.

    Returns:
      `fn(params, batches, key, *state) -> WeightNoise`. It loops over batches in Python around
      jitted steps, and is not to be jitted itself.

    Raises:
      ValueError: sigmas that are empty, not ascending or not positive and finite; likewise
        target_rise, in any order; num_samples < 2; an unknown kind of noise; or (when called) no
        batches, or no such quantity.

    Examples:
      A parabola of a hundred weights at its minimum, whose rise is :math:`100 \sigma^2`:

      >>> import jax, jax.numpy as jnp
      >>> from flatjax.flatness import weight_noise
      >>> def eval_fn(params, batch):
      ...     return {"error": len(batch) * jnp.sum(params**2), "count": len(batch)}
      >>> measure = weight_noise(eval_fn, target_rise=[0.25, 1.0], noise="additive")
      >>> found = measure(jnp.zeros(100), [jnp.ones(1)], jax.random.key(0))
      >>> bool(jnp.all(abs(found.tolerance - jnp.array([0.05, 0.1])) < 3 * found.sem))
      True
    """
    targets = _inputs.check_grid("target_rise", target_rise)
    if not (np.diff(_inputs.check_grid("sigmas", sigmas)) > 0).all():
        raise ValueError(f"sigmas must be in ascending order, got {sigmas}.")
    _checks.check_count("num_samples", num_samples, minimum=2)
    measure_energy = local_energy(
        eval_fn, sigmas=sigmas, num_samples=num_samples, noise=noise, mask=mask
    )

    def measure(
        params: chex.ArrayTree, batches: _inputs.Batches, key: chex.PRNGKey, *state: Any
    ) -> WeightNoise:
        with np.errstate(invalid="ignore", over="ignore"):  # networks that overflow
            energy = measure_energy(params, batches, key, *state)
        check_quantity(quantity, energy.draws)
        tolerance, leaving_one_out = tolerances(energy, quantity, targets)
        sem = np.sqrt((num_samples - 1) * leaving_one_out.var(axis=1))  # eq. (2)
        return WeightNoise(targets, tolerance, sem, energy)

    return measure


def tolerances(
    energy: LocalEnergy, quantity: str, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The crossings of T targets, (T,), and those without each of the S draws, (T, S)."""
    draws = energy.draws[quantity]
    if not np.isfinite(energy.reference[quantity]):
        return np.full(len(targets), np.nan), np.full((len(targets), draws.shape[1]), np.nan)
    with np.errstate(invalid="ignore", over="ignore"):  # networks that overflow
        mean, without_one = draws.mean(axis=1), _means_without_one(draws)
    crossings = lambda rise: [_crossing(energy.sigma, rise, target) for target in targets]
    return np.array(crossings(mean)), np.array([crossings(one) for one in without_one]).T


def _means_without_one(draws):
    """The mean rises (G,) without each of the S draws (G, S), as (S, G)."""
    total = draws.sum(axis=1, keepdims=True)
    return ((total - draws) / (draws.shape[1] - 1)).T


def _crossing(sigma, rise, target) -> float:
    """sigma* in eq. (1) of one target; NaN if the grid ends before."""
    square = np.append(0.0, sigma**2)
    # A network that overflows has risen beyond any target.
    rise = np.append(0.0, np.where(np.isnan(rise), np.inf, rise))
    beyond = np.flatnonzero(rise > target)
    if not len(beyond):
        return np.nan
    right = beyond[0]
    fraction = (target - rise[right - 1]) / (rise[right] - rise[right - 1])
    return float(np.sqrt(square[right - 1] + fraction * (square[right] - square[right - 1])))
