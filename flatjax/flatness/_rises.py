"""Rises of quantities under many draws of noise: means, standard errors, paired differences."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np


class LocalEnergy(NamedTuple):
    """Rise of the evaluated quantities under noise, on a grid of G strengths.

    Where M stacked solutions were measured together, arrays of values carry a leading axis M.

    Attributes:
      sigma: the strengths of the noise, shape (G,).
      mean: {name: mean rise over draws, shape (G,)}, in the units of `eval_fn`.
      sem: {name: standard error of that mean over draws, shape (G,)}.
      reference: {name: value without noise, scalar}.
      draws: {name: rise of each draw, shape (G, S)}; NaN beyond the draws taken at a sigma.
      num_samples: draws taken at each sigma, shape (G,).
      target_met: whether the standard error at each sigma has reached `target_sem`, bools of shape
        (G,); None where no target was set.
      antithetic: whether draws 2i and 2i + 1 are of opposite noise.
      key: data of the random key: results of one key are of the same draws, see
        `paired_difference`.
    """

    sigma: np.ndarray
    mean: dict[str, np.ndarray]
    sem: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    draws: dict[str, np.ndarray]
    num_samples: np.ndarray
    target_met: np.ndarray | None
    antithetic: bool
    key: np.ndarray

    def solution(self, index: int) -> "LocalEnergy":
        """The result of one of the solutions that were measured together."""
        take = lambda values: {name: value[index] for name, value in values.items()}
        return self._replace(
            mean=take(self.mean),
            sem=take(self.sem),
            reference=take(self.reference),
            draws=take(self.draws),
            target_met=None if self.target_met is None else self.target_met[index],
        )


def paired_difference(
    first: LocalEnergy, second: LocalEnergy, name: str = "error"
) -> tuple[np.ndarray, np.ndarray]:
    r"""How much more one solution rises than another under the same noise.

    The mean over draws of :math:`\delta E_1 - \delta E_2`, and its standard error: less than that
    of each, as far as the same noise does the same to both. Where more draws were taken of one,
    those in common are compared.

    Args:
      first: result of one solution, or of stacked ones.
      second: result of another with the same key, sigmas and kind of draws.
      name: the quantity.

    Returns:
      (mean, sem), each of shape (G,); (M, G) where one of them is of M stacked solutions.

    Raises:
      ValueError: the results do not share sigmas, key or kind of draws, or lack the quantity.

    Examples:
      The noise is common to both, and so is nearly all of the rise:

      >>> import jax, jax.numpy as jnp
      >>> from flatjax.flatness._local_energy import local_energy, paired_difference
      >>> def eval_fn(params, batch):
      ...     return {"loss": jnp.sum(params**2), "count": jnp.array(1)}
      >>> measure = local_energy(eval_fn, sigmas=[0.1], noise="additive")
      >>> first, second = (measure(jnp.ones(9) + d, [0], jax.random.key(0)) for d in (0, 0.01))
      >>> mean, sem = paired_difference(first, second, "loss")
      >>> bool(sem[0] < 0.02 * first.sem["loss"][0])
      True
    """
    if not np.array_equal(first.sigma, second.sigma):
        raise ValueError(f"results must share sigmas, got {first.sigma} and {second.sigma}.")
    if not np.array_equal(first.key, second.key) or first.antithetic != second.antithetic:
        raise ValueError(
            "results must be of the same draws: measured with one key, and both antithetic or not."
        )
    for energy in (first, second):
        if name not in energy.draws:
            raise ValueError(f"name must be one of {sorted(energy.draws)}, got {name!r}.")
    most = min(first.draws[name].shape[-1], second.draws[name].shape[-1])
    difference = first.draws[name][..., :most] - second.draws[name][..., :most]
    common = np.minimum(first.num_samples, second.num_samples)
    return _mean_and_sem(difference, common, first.antithetic)


def summarize(
    sigmas: np.ndarray,
    draws: dict[str, np.ndarray],
    num_samples: np.ndarray,
    reference: dict[str, np.ndarray],
    antithetic: bool,
    key: chex.PRNGKey,
) -> LocalEnergy:
    """The result of some draws; `target_met` is left open."""
    found = {name: _mean_and_sem(rises, num_samples, antithetic) for name, rises in draws.items()}
    is_new_style = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return LocalEnergy(
        sigma=sigmas,
        mean={name: mean for name, (mean, _) in found.items()},
        sem={name: sem for name, (_, sem) in found.items()},
        reference=reference,
        draws=draws,
        num_samples=num_samples,
        target_met=None,
        antithetic=antithetic,
        key=np.asarray(jax.random.key_data(key) if is_new_style else key),
    )


def _mean_and_sem(draws, num_samples, antithetic):
    """Mean over the first draws at each sigma, (..., G, S) -> (..., G), and its standard error."""
    means, sems = [], []
    for g, count in enumerate(num_samples):
        values = draws[..., g, :count]
        if antithetic:  # only pairs are independent
            values = values.reshape(*values.shape[:-1], count // 2, 2).mean(axis=-1)
        means.append(values.mean(axis=-1))
        sems.append(values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1]))
    return np.stack(means, axis=-1), np.stack(sems, axis=-1)
