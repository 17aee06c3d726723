"""PAC-Bayes sigma: how much noise on its weights a minimum tolerates."""

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
    """The strongest noise that a minimum tolerates.

    Attributes:
      sigma: the strength of the noise; NaN where `bracketed` is False.
      rise: mean rise of the quantity at sigma over draws, at most the target.
      sem: standard error of that mean.
      complexity: 1 / sigma^2, the measure of generalisation.
      bracketed: whether the target is reached within the bounds. If not, sigma, rise, sem and
        complexity are NaN, and `rises` tells which bound was at fault.
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
        """The tolerated noise and the rise there; printing shows it."""
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
    r"""The strongest noise under which the error rises by no more than a target.

    .. math::
      \sigma^* = \max \{ \sigma : \mathbb{E}_z E(w + \sigma z \odot w) - E(w) \le \Delta \},
      \qquad z \sim \mathcal{N}(0, I)

    [Jiang et al., 2020; Dziugaite et al., 2020, with :math:`\Delta = 0.1` of the training error],
    and :math:`1 / \sigma^{*2}` the measure of generalisation. Sigma is the *standard deviation* of
    the relative noise, or, `noise="additive"`, of that in :math:`w + \sigma z`; for the latter, at
    a minimum and for a small rise of the loss,
    :math:`\sigma^{*2} \approx 2 \Delta / \mathrm{tr}\, H`.

    It is the inverse function of `flatjax.flatness.local_energy`, of the same draws for the same
    key, and found by bisection of :math:`\log \sigma`. The same draws z serve every sigma: the
    estimated rise is as smooth a function of sigma as the error itself. Where that is not
    monotone, the result is one of the crossings.

    Cost: `num_samples` evaluations of the batches for each sigma tried, and one more. Both bounds
    are tried, and :math:`\log_2(\log(\text{high} / \text{low}) / \log(1 + \text{rtol}))` sigmas in
    between: 13 in all by default. Nothing is recompiled between sigmas, draws, or solutions of the
    same shapes.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`.
      target_rise: :math:`\Delta`, in the units of `quantity`.
      quantity: name of E in the dict of `eval_fn`.
      num_samples: S, draws of the noise for each sigma.
      noise: `"multiplicative"` (default) or `"additive"`.
      rtol: relative accuracy to which sigma is bisected.
      bounds: the smallest and the largest sigma considered.
      mask: pytree of bools (or a function of params returning one); leaves marked False are not
        perturbed.

    Returns:
      `fn(params, batches, key, *state) -> PacBayesSigma`. If the rise exceeds the target at the
      lower bound, or does not at the upper one, sigma is NaN and `bracketed` False. It loops over
      batches in Python around jitted steps, and is not to be jitted itself.

    Raises:
      ValueError: target_rise or rtol is not positive and finite, bounds that are not
        0 < low < high < inf, num_samples < 2, an unknown kind of noise, or (when called) no
        batches, an iterator in their place, or `eval_fn` does not return `quantity`.

    Examples:
      A parabola of a hundred weights at its minimum, whose rise is :math:`100 \sigma^2`:

      >>> import jax, jax.numpy as jnp
      >>> from flatjax.flatness import pac_bayes_sigma
      >>> def eval_fn(params, batch):
      ...     return {"loss": len(batch) * jnp.sum(params**2), "count": len(batch)}
      >>> measure = pac_bayes_sigma(eval_fn, target_rise=0.25, quantity="loss", noise="additive")
      >>> found = measure(jnp.zeros(100), [jnp.ones(1)], jax.random.key(0))
      >>> bool(abs(found.sigma - 0.05) < 0.005)
      True
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
            with np.errstate(invalid="ignore", over="ignore"):  # networks that overflow
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
