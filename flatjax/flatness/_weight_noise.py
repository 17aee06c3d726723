r"""The noise on its weights that a network tolerates, and its uncertainty.

The mean rise over S draws on a grid of strengths, :math:`\bar\Delta(\sigma_g)`, is interpolated
linearly in :math:`\sigma^2` from :math:`\bar\Delta(0) = 0`. This is exact if the rise is quadratic,
as for a smooth loss and weak noise. The tolerated noise is the first crossing of a target,

.. math::
  \sigma^*(\Delta) = \min \{ \sigma : \bar\Delta(\sigma) > \Delta \} \tag{1}

Its standard error comes from the jackknife over draws, which accounts for the same draws at every
strength. With the crossing :math:`\sigma^*_{-s}` without draw s it is

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
      tolerance: the strength of the noise at which the mean rise crosses each of them, shape (T,);
        NaN if there is no crossing within the grid.
      sem: standard error of the tolerance, shape (T,); NaN if the tolerance is NaN, or would be
        without one of the draws.
      energy: the rises on the grid, from which the tolerance is read; see `local_energy`.
    """

    target_rise: np.ndarray
    tolerance: np.ndarray
    sem: np.ndarray
    energy: LocalEnergy

    def table(self) -> _tables.Table:
        """Tabulates the tolerated noise of each rise; printing shows it."""
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
    r"""Makes a function that finds the noise for given rises of the error.

    Like `flatjax.flatness.local_energy`, whose result is part of this one, it adds Gaussian noise,
    either relative to each weight, :math:`w + \sigma z \odot w`, or absolute, :math:`w + \sigma z`.
    The tolerance is interpolated between the mean rises on the grid, linearly in :math:`\sigma^2`.
    Its standard error is a jackknife over the draws. Between strengths of the grid, the
    interpolation limits the accuracy. `flatjax.flatness.pac_bayes_sigma` bisects instead, for one
    target, and has no standard error of the noise. If the rise is not monotone, the first crossing
    counts.

    Cost: `num_samples` evaluations of the batches for each sigma, and one more, for all targets
    together. Nothing is recompiled for other sigmas, draws or solutions of the same shapes.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`. It must return scalars.
      sigmas: strengths of the noise, in ascending order.
      target_rise: the rises of the quantity, in its units.
      quantity: name of the quantity, as `eval_fn` returns it.
      num_samples: S, the number of draws of the noise for each sigma.
      noise: `"multiplicative"` (default) or `"additive"`.
      mask: pytree of bools (or a function of params returning one); leaves marked False (biases,
        scales of norms) are not perturbed. By default all are.

    Returns:
      `fn(params, batches, key, *state) -> WeightNoise`. It loops over batches in Python around
      jitted steps; do not jit it.

    Raises:
      ValueError: sigmas that are empty, not ascending or not positive and finite; target_rise that
        is empty or not positive and finite; num_samples < 2; an unknown kind of noise. When called:
        no batches, no weights that move, or an unknown quantity.

    Examples:
      A parabola of a hundred weights at its minimum, where the rise is :math:`100 \sigma^2`:

      >>> import jax, jax.numpy as jnp
      >>> from flatjax.flatness import weight_noise
      >>> def eval_fn(params, batch):
      ...     return {"error": len(batch) * jnp.sum(params**2), "count": len(batch)}
      >>> measure = weight_noise(eval_fn, target_rise=[0.25, 1.0], noise="additive")
      >>> found = measure(jnp.zeros(100), [jnp.ones(1)], jax.random.key(0))
      >>> bool(jnp.all(abs(found.tolerance - jnp.array([0.05, 0.1])) < 3 * found.sem))
      True

    See Also:
      `pac_bayes_sigma` (for one rise), `local_energy` (the rise at a given noise).
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
        with np.errstate(invalid="ignore", over="ignore"):  # some networks overflow
            energy = measure_energy(params, batches, key, *state)
        check_quantity(quantity, energy.draws)
        tolerance, leaving_one_out = tolerances(energy, quantity, targets)
        sem = np.sqrt((num_samples - 1) * leaving_one_out.var(axis=1))  # eq. (2)
        return WeightNoise(targets, tolerance, sem, energy)

    return measure


def tolerances(
    energy: LocalEnergy, quantity: str, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Finds crossings of T targets, (T,), and without each of S draws, (T, S)."""
    draws = energy.draws[quantity]
    if not np.isfinite(energy.reference[quantity]):
        return np.full(len(targets), np.nan), np.full((len(targets), draws.shape[1]), np.nan)
    with np.errstate(invalid="ignore", over="ignore"):  # some networks overflow
        mean, without_one = draws.mean(axis=1), _means_without_one(draws)
    crossings = lambda rise: [_crossing(energy.sigma, rise, target) for target in targets]
    return np.array(crossings(mean)), np.array([crossings(one) for one in without_one]).T


def _means_without_one(draws):
    """Computes the mean rises (G,) without each of the S draws (G, S), as (S, G)."""
    # The others are added before and after the draw: a huge or infinite draw cannot be subtracted.
    nothing = np.zeros_like(draws[:, :1])
    before = np.cumsum(np.append(nothing, draws[:, :-1], axis=1), axis=1)
    after = np.cumsum(np.append(nothing, draws[:, :0:-1], axis=1), axis=1)[:, ::-1]
    return ((before + after) / (draws.shape[1] - 1)).T


def _crossing(sigma, rise, target) -> float:
    """Computes sigma* in eq. (1) for one target; NaN if the grid ends before it."""
    square = np.append(0.0, sigma**2)
    # A network that overflows has risen beyond every target.
    rise = np.append(0.0, np.where(np.isnan(rise), np.inf, rise))
    beyond = np.flatnonzero(rise > target)
    if not len(beyond):
        return np.nan
    right = beyond[0]
    fraction = (target - rise[right - 1]) / (rise[right] - rise[right - 1])
    return float(np.sqrt(square[right - 1] + fraction * (square[right] - square[right - 1])))
