"""Direct sampling of the log fraction, where the fraction is large."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from flatjax import _checks
from flatjax._evaluation import EvalFn
from flatjax._masks import Mask
from flatjax._sampling import direct
from flatjax.flatness import _tables
from flatjax.flatness._inputs import Batches, check_grid, random_key
from flatjax.flatness._surroundings import Landscape
from flatjax.flatness.priors import Prior


@_tables.printed
class LogFraction(NamedTuple):
    """Energies of independent configurations at D distances, and low shares.

    Attributes:
      distance: the distances, (D,).
      log_fraction: logarithm of the share of configurations with E <= threshold, (D,). It is -inf
        if there was none; then log(3 / S) is a 95% upper limit.
      log_fraction_sem: standard error of log_fraction; nan if that is -inf.
      hits: number of configurations with E <= threshold, (D,); below 10 the standard error is
        unreliable.
      energy: energies of all configurations, (D, S).
      num_weights: number of weights that move.
    """

    distance: np.ndarray
    log_fraction: np.ndarray
    log_fraction_sem: np.ndarray
    hits: np.ndarray
    energy: np.ndarray
    num_weights: int

    def log_volume(self, betas: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        r"""Computes the log-volume F at K betas, and its standard error.

        Args:
          betas: inverse temperatures, (K,), or one.

        Returns:
          :math:`F(\beta) = \log \langle e^{-\beta E} \rangle` and its standard error, each (D, K).
          At large beta, the few lowest energies dominate the error, too.

        Raises:
          ValueError: betas are not a list of finite numbers.
        """
        ladder = np.atleast_1d(_checks.real_array("betas", betas))
        if ladder.ndim != 1 or not np.isfinite(ladder).all():
            raise ValueError(f"betas must be a list of finite numbers, got {ladder}.")
        with np.errstate(invalid="ignore"):  # infinite energies have weight 0 except at beta = 0
            exponents = -ladder[:, None] * self.energy[:, None, :]
        exponents = np.where(ladder[:, None] == 0, 0.0, exponents)
        count = self.energy.shape[-1]
        log_mean = logsumexp(exponents, axis=-1) - np.log(count)
        ratio = np.exp(exponents - log_mean[..., None])
        return log_mean, ratio.std(axis=-1, ddof=1) / np.sqrt(count)

    def table(self) -> _tables.Table:
        """Tabulates the log fraction at each distance; printing shows it."""
        found = {
            "log fraction": [*map(_tables.with_error, self.log_fraction, self.log_fraction_sem)],
            "hits": [str(hits) for hits in self.hits],
        }
        title = [f"Share of {self.energy.shape[1]:,} draws below the threshold, in nats"]
        return _tables.of_quantities(title, "distance", _tables.labels(self.distance), found)


def log_fraction_direct(
    eval_fn: EvalFn,
    *,
    distances: Sequence[float],
    threshold: float = 0.0,
    quantity: str = "error",
    prior: str | Prior = "additive",
    mask: Mask = None,
    num_samples: int = 1000,
    num_parallel: int = 100,
) -> Callable[..., LogFraction]:
    r"""Makes a function that counts surrounding configurations with few errors.

    .. math:: \log P_d\big(E(w') \le E_{max}\big), \qquad w' \sim P_d

    It draws S configurations and counts. The share is unbiased (its logarithm is not), and serves
    for fractions down to about 10 / S: -8 nats with :math:`3 \cdot 10^4` draws. Use `local_entropy`
    for smaller fractions. The same draws serve every distance.

    *Cost.* D S evaluations of the data (S rounded up to a multiple of `num_parallel`).

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`.
      distances: D distances, in the unit of the prior.
      threshold: largest E (a total, for example 0 errors) of the counted configurations.
      quantity: name of the quantity that E sums, as `eval_fn` returns it.
      prior: name or function, see `flatjax.flatness.priors`.
      mask: pytree of bools (or a function of params returning one); leaves marked False do not
        move. By default all move.
      num_samples: S.
      num_parallel: number of configurations in memory; they are evaluated together if that is
        faster.

    Returns:
      `fn(params, batches, key, *state) -> LogFraction`. Do not jit it. `batches`: a sequence, or a
      function that returns an iterable.

    Raises:
      ValueError: distances that are not positive and finite, an unknown prior, num_samples or
        num_parallel < 1. When called: no batches, batches that can be iterated only once, an
        unknown quantity, or no weights that move.

    Examples:
      A half-space, for a solution on its border:

      >>> import jax, jax.numpy as jnp
      >>> from flatjax.flatness._log_fraction import log_fraction_direct
      >>> def eval_fn(params, batch):
      ...     return {"error": jnp.sum(batch @ params < 0), "count": len(batch)}
      >>> measure = log_fraction_direct(eval_fn, distances=[0.1, 1.0], num_samples=400)
      >>> found = measure(jnp.zeros(3), [jnp.ones((1, 3))], jax.random.key(0))
      >>> error = abs(found.log_fraction - jnp.log(0.5))
      >>> bool(jnp.all(error < 4 * found.log_fraction_sem))
      True

    See Also:
      `local_entropy` (for fractions that are too small to count), `priors.sphere` (weights at a
      distance).
    """
    radii = check_grid("distances", distances)
    _checks.check_scalar("threshold", threshold, minimum=-np.inf)
    _checks.check_count("num_samples", num_samples)
    _checks.check_count("num_parallel", num_parallel)
    landscape = Landscape(eval_fn, quantity, prior, mask)

    def measure(
        params: chex.ArrayTree, batches: Batches, key: chex.PRNGKey, *state: Any
    ) -> LogFraction:
        near, key = landscape.around(params, batches, state), random_key(key)
        energy = direct.draw_energies(
            key,
            lambda noise, distance: landscape.energies(near, noise, distance),
            distances=radii,
            num_weights=near.num_weights,
            num_samples=num_samples,
            num_parallel=num_parallel,
        )
        share = direct.share_below(energy, threshold)
        return LogFraction(
            distance=radii, energy=energy, num_weights=near.num_weights, **share._asdict()
        )

    return measure
