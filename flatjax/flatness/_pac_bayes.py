"""PAC-Bayes sigma: the strongest noise on its weights that a solution tolerates."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import numpy as np

from flatjax import _checks
from flatjax._evaluation import EvalFn
from flatjax._masks import Mask
from flatjax.flatness import _tables
from flatjax.flatness._inputs import Batches, random_key, repeatable
from flatjax.flatness._quantities import check_quantity
from flatjax.flatness._rises import Solution, make_rises, mean_and_sem


@_tables.printed
class PacBayesSigma(NamedTuple):
    """The strongest noise that a solution tolerates.

    Attributes:
      sigma: the strength of the noise; NaN if `bracketed` is False.
      rise: mean rise of the quantity at sigma over draws, at most the target.
      sem: standard error of the rise.
      complexity: 1 / sigma^2, the measure of generalisation.
      bracketed: whether the target is reached within the bounds. If not, sigma, rise, sem and
        complexity are NaN, and `rises` shows which bound is wrong.
      sigmas: all strengths that were tried, the two bounds first.
      rises: the mean rise at each of `sigmas`.
    """

    sigma: float
    rise: float
    sem: float
    complexity: float
    bracketed: bool
    sigmas: np.ndarray
    rises: np.ndarray

    def table(self) -> _tables.Table:
        """Tabulates the tolerated noise and the rise at it; printing shows it."""
        lines = [
            ["noise σ*", _tables.number(self.sigma)],
            ["1 / σ*²", _tables.number(self.complexity)],
            ["rise at σ*", _tables.with_error(self.rise, self.sem)],
            ["within the bounds", "yes" if self.bracketed else "no"],
            [
                "strengths tried",
                f"{len(self.sigmas)}, {self.sigmas.min():.3g} to {self.sigmas.max():.3g}",
            ],
        ]
        return _tables.Table(["PAC-Bayes sigma", ""], ["", "value"], lines)


def pac_bayes_sigma(
    eval_fn: EvalFn,
    *,
    target_rise: float = 0.1,
    quantity: str = "error",
    num_samples: int = 30,
    noise: str = "multiplicative",
    rtol: float = 0.01,
    bounds: tuple[float, float] = (1e-5, 10.0),
    mask: Mask = None,
) -> Callable[..., PacBayesSigma]:
    r"""Makes a function that finds the strongest noise that a solution tolerates.

    .. math::
      \sigma^* = \max \{ \sigma : \mathbb{E}_z E(w + \sigma z \odot w) - E(w) \le \Delta \},
      \qquad z \sim \mathcal{N}(0, I)

    [Jiang et al., 2020; Dziugaite et al., 2020, with :math:`\Delta = 0.1` for the training error].
    The measure of generalisation is :math:`1 / \sigma^{*2}`. Sigma is the *standard deviation* of
    the relative noise, or with `noise="additive"` of the noise in :math:`w + \sigma z`. In the
    second case, at a minimum and for a small rise of the loss,
    :math:`\sigma^{*2} \approx 2 \Delta / \mathrm{tr}\, H` with the Hessian H.

    This is the inverse function of `flatjax.flatness.local_energy`, with the same draws for the
    same key. It is found by bisection of :math:`\log \sigma`. The same draws z serve every sigma,
    so that the estimated rise is as smooth a function of sigma as the error itself. If it is not
    monotone, the result is one of the crossings.

    Cost: `num_samples` evaluations of the batches for each sigma, and one more. The function tries
    both bounds, and :math:`\log_2(\log(\text{high} / \text{low}) / \log(1 + \text{rtol}))` sigmas
    in between: 13 in total by default. Nothing is recompiled for other sigmas, draws or solutions
    of the same shapes.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`.
      target_rise: :math:`\Delta`, in the units of `quantity`.
      quantity: name of E in the dict of `eval_fn`.
      num_samples: S, the number of draws of the noise for each sigma.
      noise: `"multiplicative"` (default) or `"additive"`.
      rtol: relative accuracy to which sigma is bisected.
      bounds: the smallest and the largest sigma considered.
      mask: pytree of bools (or a function of params returning one); leaves marked False are not
        perturbed.

    Returns:
      `fn(params, batches, key, *state) -> PacBayesSigma`. If the rise is above the target at the
      lower bound, or below it at the upper bound, sigma is NaN and `bracketed` False. The function
      loops over batches in Python around jitted steps; do not jit it.

    Raises:
      ValueError: target_rise or rtol is not positive and finite, bounds are not
        0 < low < high < inf, num_samples < 2, or the kind of noise is unknown. When called: there
        are no batches, `batches` is an iterator, `eval_fn` does not return `quantity`, or no weight
        moves.

    Examples:
      A parabola of a hundred weights at its minimum, where the rise is :math:`100 \sigma^2`:

      >>> import jax, jax.numpy as jnp
      >>> from flatjax.flatness import pac_bayes_sigma
      >>> def eval_fn(params, batch):
      ...     return {"loss": len(batch) * jnp.sum(params**2), "count": len(batch)}
      >>> measure = pac_bayes_sigma(eval_fn, target_rise=0.25, quantity="loss", noise="additive")
      >>> found = measure(jnp.zeros(100), [jnp.ones(1)], jax.random.key(0))
      >>> bool(abs(found.sigma - 0.05) < 0.005)
      True

    See Also:
      `weight_noise` (for several rises), `local_energy` (the rise at a given noise).
    """
    _checks.check_scalar("target_rise", target_rise, exclusive_minimum=True)
    _checks.check_scalar("rtol", rtol, exclusive_minimum=True)
    _checks.check_count("num_samples", num_samples, minimum=2)
    ends = _checks.real_array("bounds", bounds)
    if ends.shape != (2,) or not 0 < ends[0] < ends[1] < math.inf:
        raise ValueError(f"bounds must be (low, high) with 0 < low < high < inf, got {bounds}.")

    rises = make_rises(eval_fn, num_samples, 1, noise=noise, mask=mask)

    def measure(
        params: chex.ArrayTree, batches: Batches, key: chex.PRNGKey, *state: Any
    ) -> PacBayesSigma:
        solution = Solution(params, repeatable(batches), random_key(key), state)
        reference, tried = None, {}

        def is_tolerated(sigma):
            nonlocal reference
            draws = range(num_samples)
            with np.errstate(invalid="ignore", over="ignore"):  # some networks overflow
                found, reference = rises(solution, draws, [sigma], reference)
                check_quantity(quantity, found)
                mean, sem = mean_and_sem(found[quantity], [num_samples])
            tried[sigma] = mean.item(), sem.item()
            return tried[sigma][0] <= target_rise

        low, high = map(float, ends)
        is_low_tolerated, is_high_tolerated = is_tolerated(low), is_tolerated(high)
        bracketed = is_low_tolerated and not is_high_tolerated
        while bracketed and high > (1 + rtol) * low:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if is_tolerated(middle) else (low, middle)
        sigma = low if bracketed else math.nan
        rise, sem = tried.get(sigma, (math.nan, math.nan))
        return PacBayesSigma(
            sigma=sigma,
            rise=rise,
            sem=sem,
            complexity=sigma**-2,
            bracketed=bracketed,
            sigmas=np.array(list(tried)),
            rises=np.array([rise for rise, _ in tried.values()]),
        )

    return measure
