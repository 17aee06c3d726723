"""Local energy: the rise of the training error under random perturbations."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from flatjax import _checks
from flatjax._evaluation import EvalFn
from flatjax._keys import is_typed
from flatjax._masks import Mask
from flatjax.batch_stats import UpdateStatsFn
from flatjax.flatness import _inputs, _plots, _tables
from flatjax.flatness._quantities import check_quantity
from flatjax.flatness._rises import Solution, make_rises, mean_and_sem

# With fewer draws (or pairs of draws), the standard error is too uncertain to stop on it.
LEAST_ADAPTIVE_UNITS = 10


@_tables.printed
class LocalEnergy(NamedTuple):
    """Rise of the evaluated quantities under noise, on a grid of G strengths.

    If M stacked solutions were measured together, arrays of values have a leading axis M.

    Attributes:
      sigma: the strengths of the noise, shape (G,).
      mean: {name: mean rise over draws, shape (G,)}, in the units of `eval_fn`.
      sem: {name: standard error of the mean over draws, shape (G,)}.
      reference: {name: value without noise, scalar}.
      draws: {name: rise of each draw, shape (G, S)}; NaN beyond the draws taken at a sigma.
      num_samples: number of draws taken at each sigma, shape (G,).
      target_met: whether the standard error at each sigma has reached `target_sem`, bools of shape
        (G,); None if no target was set.
      antithetic: whether draws 2i and 2i + 1 have opposite noise.
      key: data of the random key. Results of the same key have the same draws, see
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
        """Returns the result of one of the solutions that were measured together."""
        take = lambda values: {name: value[index] for name, value in values.items()}
        return self._replace(
            mean=take(self.mean),
            sem=take(self.sem),
            reference=take(self.reference),
            draws=take(self.draws),
            target_met=None if self.target_met is None else self.target_met[index],
        )

    def table(self) -> _tables.Table:
        """Tabulates mean rises with their standard errors; printing shows it."""
        stack = np.ndim(next(iter(self.reference.values())))
        num = len(next(iter(self.reference.values()))) if stack else 0
        of = {f"solution {m}, ": self.solution(m) for m in range(num)} if stack else {"": self}
        values = {
            f"rise of the {name}": [
                _tables.with_error(mean, sem)
                for one in of.values()
                for mean, sem in zip(one.mean[name], one.sem[name], strict=True)
            ]
            for name in self.reference
        }
        title = ["Local energy, ± standard error over draws", _tables.at_solution(self.reference)]
        settings = [f"{which}{sigma:g}" for which in of for sigma in self.sigma]
        draws = [str(count) for _ in of for count in self.num_samples]
        return _tables.of_quantities(title, "noise σ", settings, values, draws=draws)

    def plot(self, name: str = "error", ax: Any = None, **style: Any) -> Any:
        """Draws the rise of one quantity against the strength of the noise.

        Args:
          name: name of the quantity.
          ax: matplotlib axes; the axes of a new figure by default.
          **style: style of the curves, for matplotlib; `label` names them.

        Returns:
          The axes.

        Raises:
          ImportError: matplotlib is not installed.
          ValueError: the quantity is unknown.
        """
        return _plots.plot_local_energy(self, name, ax, style)


def local_energy(
    eval_fn: EvalFn,
    *,
    sigmas: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
    num_samples: int = 100,
    noise: str = "multiplicative",
    mask: Mask = None,
    antithetic: bool = False,
    target_sem: float | None = None,
    quantity: str = "error",
    max_samples: int | None = None,
    update_stats: UpdateStatsFn | None = None,
    stats_batches: _inputs.Batches | None = None,
    stacked: bool = False,
) -> Callable[..., LocalEnergy]:
    r"""Makes a function that measures the local energy of a solution.

    .. math::
      \delta E(\sigma) = \mathbb{E}_z \, E\big(w + \sigma z \odot w\big) - E(w),
      \qquad z \sim \mathcal{N}(0, I)

    [Pittorino et al., 2021, eq. 8]. E is each quantity that `eval_fn` sums, usually training error
    and loss. Multiplicative noise does not change the result if a ReLU network is rescaled without
    changing its function. Additive noise :math:`w + \sigma z` is an option.

    The same draws z serve every sigma, and every solution measured with the same key. Differences
    between solutions are therefore less noisy than their values, see `paired_difference`.

    *Cost*: S x G + 1 evaluations of the batches for S draws and G sigmas. Nothing is recompiled for
    other sigmas, draws or solutions of the same shapes. A sequence of batches is read once for each
    perturbed network. Other forms (a function that returns a fresh iterator, an iterator) are read
    once for all S x G networks; with `target_sem`, once for each `num_samples` draws. Each batch
    then meets all perturbed networks, which are made again from their keys. Memory holds one
    network at a time, but the S draws of noise are repeated for every batch. This costs little if a
    batch costs much more than a draw.

    *Number of draws*: with `target_sem`, `num_samples` draws are taken at each sigma. Then blocks
    of `num_samples` more are taken at the sigmas whose standard error is above the target, up to
    `max_samples`. Stopping when an estimated error happens to be low biases the error downwards.
    Looking only after blocks of draws keeps this bias small (for normal draws, 4% with blocks of 20
    and 13% with blocks of 10). A quantity that did not change in a whole block has standard error
    0, and is finished.

    *Batch norm*: networks are evaluated with fixed running statistics, passed as `state`. If you
    give `update_stats`, the first element of `state` is re-estimated on `stats_batches` for the
    reference and for each perturbed network, as by `flatjax.batch_stats.reestimate`. This costs one
    more forward pass for each batch, plus one. (If batches are not a sequence, the statistics of
    all perturbed networks are stored.)

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`. It must return scalars.
      sigmas: strengths of the noise.
      num_samples: S, the number of draws of the noise for each sigma.
      noise: `"multiplicative"` (default) or `"additive"`.
      mask: pytree of bools (or a function of params returning one); leaves marked False (biases,
        scales of norms) are not perturbed. By default all are.
      antithetic: draw z in pairs of opposite sign. This cancels the terms that are odd in z: at
        small sigma, nearly all the noise of a smooth loss. `sem` is then computed from pairs.
      target_sem: standard error down to which draws are added; None (default) takes S draws.
      quantity: name of the quantity to which `target_sem` refers.
      max_samples: largest number of draws at any sigma with `target_sem`; 10 `num_samples` by
        default.
      update_stats: `update_stats(params, stats, batch) -> stats`, see `flatjax.batch_stats`.
      stats_batches: training batches for `update_stats`, in any form that can be iterated again.
      stacked: leaves of params, and of state, have a leading axis of M solutions, which are
        measured together. The numbers equal separate measurements with the same key (with
        `target_sem`, with as many draws as the noisiest solution needs). The program is vmapped, or
        unrolled if `flatjax.map_replicas` prefers that.

    Returns:
      `fn(params, batches, key, *state) -> LocalEnergy`. It loops over batches in Python around
      jitted steps; do not jit it. `batches`: a sequence, a function without arguments that returns
      an iterable, or an iterable. `key`: a random key or an integer seed.

    Raises:
      ValueError: sigmas that are empty or not positive and finite. num_samples < 2, or odd or < 4
        if antithetic, or < 10 draws (pairs) with target_sem. max_samples < num_samples. An unknown
        kind of noise. One of update_stats and stats_batches without the other. When called: no
        batches, no weights that move, an unknown quantity, or target_sem with batches that can be
        iterated only once.

    Examples:
      A parabola, for which the rise is :math:`\sigma^2 \lVert w \rVert^2`:

      >>> import jax, jax.numpy as jnp, flatjax.flatness
      >>> def eval_fn(params, batch):
      ...     return {"loss": len(batch) * jnp.sum(params**2), "count": len(batch)}
      >>> measure = flatjax.flatness.local_energy(eval_fn, sigmas=[0.1], num_samples=2000)
      >>> found = measure(jnp.array([3.0, 4.0]), [jnp.ones(1)], jax.random.key(0))
      >>> bool(abs(found.mean["loss"][0] - 0.25) < 3 * found.sem["loss"][0])
      True

    See Also:
      `weight_noise` (the noise that is tolerated), `pac_bayes_sigma` (for one rise),
      `paired_difference` (compares two solutions), `report` (with other measures).
    """
    grid = _inputs.check_grid("sigmas", sigmas)
    max_samples = _check_draws(num_samples, max_samples, antithetic, target_sem)
    rises = make_rises(
        eval_fn,
        num_samples,
        len(grid),
        noise=noise,
        mask=mask,
        antithetic=antithetic,
        update_stats=update_stats,
        stats_batches=stats_batches,
        stacked=stacked,
    )

    def measure(
        params: chex.ArrayTree, batches: _inputs.Batches, key: chex.PRNGKey, *state: Any
    ) -> LocalEnergy:
        is_adaptive = target_sem is not None
        data = _inputs.repeatable(batches) if is_adaptive else _inputs.Data(batches)
        key = _inputs.random_key(key)
        solution = Solution(params, data, key, state)
        reference, draws = None, dict[str, np.ndarray]()
        active, taken = np.arange(len(grid)), np.zeros(len(grid), int)
        while True:
            start = taken.max()
            block = range(start, min(start + num_samples, max_samples))
            found, reference = rises(solution, block, grid[active], reference)
            draws = _append(draws, found, active, len(grid))
            taken[active] = block.stop
            energy = _summarize(grid, draws, taken.copy(), reference, antithetic, key)
            if not is_adaptive:
                return energy
            check_quantity(quantity, energy.sem)
            met = energy.sem[quantity] <= target_sem
            # Among stacked solutions, the noisiest one decides.
            active = np.flatnonzero(~np.all(met, axis=tuple(range(met.ndim - 1))))
            if not len(active) or block.stop == max_samples:
                return energy._replace(target_met=met)

    return measure


def paired_difference(
    first: LocalEnergy, second: LocalEnergy, name: str = "error"
) -> tuple[np.ndarray, np.ndarray]:
    r"""Computes how much more one solution rises than another under the same noise.

    The result is the mean over draws of :math:`\delta E_1 - \delta E_2`, and its standard error.
    This error is smaller than the errors of both values as far as the same noise has the same
    effect on both. If one has more draws than the other, only the common draws are compared.

    Args:
      first: result of one solution, or of stacked ones.
      second: result of another solution with the same key, sigmas and kind of draws.
      name: name of the quantity.

    Returns:
      (mean, sem), each of shape (G,), or (M, G) if one of them is of M stacked solutions.

    Raises:
      ValueError: the results differ in sigmas, key or kind of draws, or lack the quantity.

    Examples:
      The same noise acts on both, and both rise by nearly the same amount:

      >>> import jax, jax.numpy as jnp
      >>> from flatjax.flatness import local_energy, paired_difference
      >>> def eval_fn(params, batch):
      ...     return {"loss": jnp.sum(params**2), "count": jnp.array(1)}
      >>> measure = local_energy(eval_fn, sigmas=[0.1], noise="additive")
      >>> first, second = (measure(jnp.ones(9) + d, [0], jax.random.key(0)) for d in (0, 0.01))
      >>> mean, sem = paired_difference(first, second, "loss")
      >>> bool(sem[0] < 0.02 * first.sem["loss"][0])
      True

    See Also:
      `local_energy` (measures both), `compare` (by all measures).
    """
    if not np.array_equal(first.sigma, second.sigma):
        raise ValueError(f"results must share sigmas, got {first.sigma} and {second.sigma}.")
    if not np.array_equal(first.key, second.key) or first.antithetic != second.antithetic:
        raise ValueError(
            "results must have the same draws: measure both with one key, both antithetic or not."
        )
    for energy in (first, second):
        if name not in energy.draws:
            raise ValueError(f"name must be one of {sorted(energy.draws)}, got {name!r}.")
    most = min(first.draws[name].shape[-1], second.draws[name].shape[-1])
    difference = first.draws[name][..., :most] - second.draws[name][..., :most]
    common = np.minimum(first.num_samples, second.num_samples)
    return mean_and_sem(difference, common, first.antithetic)


def _check_draws(num_samples, max_samples, antithetic, target_sem) -> int:
    """Checks the numbers of draws; returns the largest number at a sigma."""
    pair = 2 if antithetic else 1
    least = pair * (2 if target_sem is None else LEAST_ADAPTIVE_UNITS)
    _checks.check_count("num_samples", num_samples, minimum=least)
    if target_sem is None:
        if max_samples is not None:
            raise ValueError("max_samples needs target_sem; num_samples says how many are drawn.")
        max_samples = num_samples
    else:
        _checks.check_scalar("target_sem", target_sem, exclusive_minimum=True)
        max_samples = 10 * num_samples if max_samples is None else max_samples
        _checks.check_count("max_samples", max_samples, minimum=num_samples)
    if antithetic and (num_samples % 2 or max_samples % 2):
        raise ValueError(
            f"num_samples and max_samples must be even for pairs of draws, got {num_samples} and "
            f"{max_samples}."
        )
    return max_samples


def _append(draws, block, active, num_sigmas):
    """Appends the rises of a block to {name: (..., G, S)}; NaN where inactive."""
    longer = {}
    for name, rises in block.items():
        padded = np.full((*rises.shape[:-2], num_sigmas, rises.shape[-1]), np.nan)
        padded[..., active, :] = rises
        longer[name] = np.concatenate([draws[name], padded], axis=-1) if draws else padded
    return longer


def _summarize(
    sigmas: np.ndarray,
    draws: dict[str, np.ndarray],
    num_samples: np.ndarray,
    reference: dict[str, np.ndarray],
    antithetic: bool,
    key: chex.PRNGKey,
) -> LocalEnergy:
    """Makes the result of some draws; `target_met` is left open."""
    found = {name: mean_and_sem(rises, num_samples, antithetic) for name, rises in draws.items()}
    return LocalEnergy(
        sigma=sigmas,
        mean={name: mean for name, (mean, _) in found.items()},
        sem={name: sem for name, (_, sem) in found.items()},
        reference=reference,
        draws=draws,
        num_samples=num_samples,
        target_met=None,
        antithetic=antithetic,
        key=np.asarray(jax.random.key_data(key) if is_typed(key) else key),
    )
