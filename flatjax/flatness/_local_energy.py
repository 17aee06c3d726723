"""Local energy: how much the training error rises when the weights are perturbed at random."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax import _checks
from flatjax._coupling import Mask
from flatjax._evaluation import EvalFn
from flatjax._placement import map_replicas
from flatjax._vectors import normal_like
from flatjax.batch_stats import UpdateStatsFn, reestimate
from flatjax.flatness import _perturb
from flatjax.flatness._rises import LocalEnergy, paired_difference, summarize

__all__ = ["LocalEnergy", "local_energy", "paired_difference"]

NOISES = ("multiplicative", "additive")
# A standard error of fewer draws (or pairs of them) is no ground on which to stop.
LEAST_ADAPTIVE_UNITS = 10


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
    stats_batches: Sequence[Any] | None = None,
    stacked: bool = False,
) -> Callable[..., LocalEnergy]:
    r"""The local energy of a minimum, as a function of (params, batches, key).

    .. math::
      \delta E(\sigma) = \mathbb{E}_z \, E\big(w + \sigma z \odot w\big) - E(w),
      \qquad z \sim \mathcal{N}(0, I)

    [Pittorino et al., 2021, eq. 8], E being each quantity that `eval_fn` sums: training error and
    loss, usually. Multiplicative noise makes it insensitive to the rescalings that leave a ReLU
    network unchanged; additive noise :math:`w + \sigma z` is an option.

    The same draws z serve every sigma, and every solution measured with the same key: differences
    between solutions are less noisy than each of them, see `paired_difference`.

    *Cost*: S x G + 1 evaluations of the batches for S draws and G sigmas; nothing is recompiled
    between sigmas, draws, or solutions of the same shapes. `batches` that are a sequence are passed
    over once for each perturbed network. Others (a function that returns a fresh iterator, an
    iterator) are passed over once for all S x G of them, or once for each `num_samples` draws with
    `target_sem`: each batch then meets all perturbed networks, which are made anew from their keys,
    so that memory holds one of them at a time and S draws of noise are made for every batch. That
    costs little where a batch costs much more than a draw.

    *Number of draws*: with `target_sem`, `num_samples` draws are taken at each sigma, and as many
    again at the sigmas whose standard error is still above the target, until there are none or
    `max_samples` are reached. Stopping when an estimate of the error happens to be low biases it
    downwards: looking only after blocks of `num_samples` keeps that small (for normal draws, by 4%
    at 20 and 13% at 10). A quantity that has not changed in a whole block has standard error 0, and
    is done with.

    *Batch norm*: networks are evaluated with the running statistics fixed, passed as `state`,
    unless `update_stats` is given: then the first of `state` is re-estimated on `stats_batches`
    for each perturbed network, and for the reference, as `flatjax.batch_stats.reestimate` does:
    `len(stats_batches) + 1` more forward passes for each. (With batches that are not a sequence,
    the statistics of all perturbed networks are kept.)

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluation`; scalars.
      sigmas: strengths of the noise.
      num_samples: S, draws of the noise for each sigma.
      noise: `"multiplicative"` (default) or `"additive"`.
      mask: pytree of bools (or a function of params returning one); leaves marked False (biases,
        scales of norms) are not perturbed. All are, by default.
      antithetic: draw z in pairs of opposite sign: cancels what is odd in z, at small sigma nearly
        all the noise of a smooth loss. `sem` is then that of the pairs' means.
      target_sem: standard error up to which draws are added; None (default) for S draws.
      quantity: what `target_sem` refers to, a name of `eval_fn`.
      max_samples: the most draws at any sigma with `target_sem`; 10 `num_samples` by default.
      update_stats: `update_stats(params, stats, batch) -> stats`, see `flatjax.batch_stats`.
      stats_batches: training batches for `update_stats`.
      stacked: leaves of params, and of state, carry a leading axis of M solutions, which are
        measured together: the same numbers as one by one with the same key (with `target_sem`, with
        as many draws as the noisiest of them needs). Vmapped, or unrolled where
        `flatjax.map_replicas` finds that better.

    Returns:
      `fn(params, batches, key, *state) -> LocalEnergy`. It loops over batches in Python around
      jitted steps, and is not to be jitted itself. `batches`: a sequence, a function of nothing
      that returns an iterable, or an iterable.

    Raises:
      ValueError: sigmas that are empty or not positive and finite; num_samples < 2, or odd or < 4
        if antithetic, or < 10 draws (pairs) with target_sem; max_samples < num_samples; an unknown
        kind of noise; one of update_stats and stats_batches without the other; later: no batches,
        no such quantity, target_sem with batches that can be passed over only once.

    Examples:
      A parabola, whose rise is known, :math:`\sigma^2 \lVert w \rVert^2`:

      >>> import jax, jax.numpy as jnp, flatjax.flatness
      >>> def eval_fn(params, batch):
      ...     return {"loss": len(batch) * jnp.sum(params**2), "count": len(batch)}
      >>> measure = flatjax.flatness.local_energy(eval_fn, sigmas=[0.1], num_samples=2000)
      >>> found = measure(jnp.array([3.0, 4.0]), [jnp.ones(1)], jax.random.key(0))
      >>> bool(abs(found.mean["loss"][0] - 0.25) < 3 * found.sem["loss"][0])
      True
    """
    if noise not in NOISES:
        raise ValueError(f"noise must be one of {NOISES}, got {noise!r}.")
    grid = _perturb.check_grid("sigmas", sigmas)
    max_samples = _check_draws(num_samples, max_samples, antithetic, target_sem)
    if (update_stats is None) != (stats_batches is None):
        raise ValueError("update_stats and stats_batches must be given together.")
    if stats_batches is not None and not len(stats_batches):
        raise ValueError("stats_batches must hold at least one batch, got none.")
    signs = (1, -1) if antithetic else (1,)

    @jax.jit
    def draw(params, key):
        """The direction z, or z ⊙ w, in which weights are moved."""

        def direction(params):
            moving = _perturb.moving(params, mask)
            z = normal_like(key, moving)
            return jax.tree.map(jnp.multiply, z, moving) if noise == "multiplicative" else z

        return jax.vmap(direction)(params) if stacked else direction(params)

    def perturb(params, direction, sigma):
        return _perturb.map_moving(lambda w, step: w + sigma * step, params, direction)

    def evaluate(params, batch, *state):
        if not stacked:
            return eval_fn(params, batch, *state)
        return map_replicas(eval_fn, in_axes=(0, None, *(0 for _ in state)))(params, batch, *state)

    @jax.jit
    def accumulate(totals, slot, params, batch, *state):
        # One buffer of sums for all perturbed networks: each pass then waits for the last one,
        # beside which it would run slower on CPU.
        sums = evaluate(params, batch, *state)
        return jax.tree.map(lambda total, s: total.at[..., slot].add(s), totals, sums)

    @jax.jit
    def perturb_and_accumulate(totals, slot, params, direction, sigma, batch, *state):
        return accumulate(totals, slot, perturb(params, direction, sigma), batch, *state)

    jitted_perturb = jax.jit(perturb)
    if update_stats is not None:
        update = map_replicas(update_stats, in_axes=(0, 0, None)) if stacked else update_stats
        update = jax.jit(update)

    def with_statistics(params, direction, sigma, state):
        if update_stats is None:
            return state
        network = jitted_perturb(params, direction, sigma)
        return (reestimate(update, network, state[0], stats_batches), *state[1:])

    def perturbations(params, key, draws, active) -> Iterator[tuple[int, chex.ArrayTree, float]]:
        """Slot, direction and strength of each perturbation of some draws.

        Before the very first, the reference: strength 0, in the last slot.
        """
        for unit in range(draws.start // len(signs), draws.stop // len(signs)):
            direction = draw(params, jax.random.fold_in(key, unit))
            if unit == 0:
                yield num_samples * len(grid), direction, 0.0
            for row, sign in enumerate(signs, start=unit * len(signs) - draws.start):
                for g in active:
                    yield row * len(grid) + int(g), direction, sign * float(grid[g])

    def means_over(data, perturbations, params, state):
        """{name: means over the data (..., slots)} of the perturbed networks."""
        totals, states = None, {}

        def zeros(batch):
            sums = jax.eval_shape(evaluate, params, batch, *state)
            return _zeros(sums, num_samples * len(grid) + 1)

        if data.in_memory and len(data) > 1:
            totals = zeros(next(iter(data)))
            for slot, direction, sigma in perturbations():
                network = jitted_perturb(params, direction, sigma)
                network_state = with_statistics(params, direction, sigma, state)
                for batch in data:
                    totals = accumulate(totals, slot, network, batch, *network_state)
            return _means(totals)
        for batch in data:
            totals = zeros(batch) if totals is None else totals
            for slot, *perturbation in perturbations():
                if slot not in states:
                    states[slot] = with_statistics(params, *perturbation, state)
                totals = perturb_and_accumulate(
                    totals, slot, params, *perturbation, batch, *states[slot]
                )
        return _means(totals)

    def measure(
        params: chex.ArrayTree, batches: _perturb.Batches, key: chex.PRNGKey, *state: Any
    ) -> LocalEnergy:
        data = _perturb.Data(batches)
        if target_sem is not None and not data.repeatable:
            raise ValueError(
                "batches must be passed over again for target_sem, got an iterator: give a "
                "sequence, or a function that returns a fresh iterator."
            )
        if update_stats is not None and not state:
            raise ValueError("update_stats needs batch statistics, the first of state; got none.")
        if stacked:
            _checks.stacked_size((params, state))
        reference, draws = None, dict[str, np.ndarray]()
        active, taken = np.arange(len(grid)), np.zeros(len(grid), int)
        while True:
            start = taken.max()
            block = range(start, min(start + num_samples, max_samples))
            to_evaluate = functools.partial(perturbations, params, key, block, active)
            values = means_over(data, to_evaluate, params, state)
            if reference is None:
                reference = {name: value[..., -1] for name, value in values.items()}
            rises = _rises(values, reference, len(block), len(grid), active)
            draws = {
                name: np.concatenate([draws[name], rise], axis=-1) if draws else rise
                for name, rise in rises.items()
            }
            taken[active] = block.stop
            energy = summarize(grid, draws, taken.copy(), reference, antithetic, key)
            if target_sem is None:
                return energy
            if quantity not in energy.sem:
                raise ValueError(f"quantity must be one of {sorted(energy.sem)}, got {quantity!r}.")
            met = energy.sem[quantity] <= target_sem
            active = np.flatnonzero(~np.all(met, axis=tuple(range(met.ndim - 1))))
            if not len(active) or block.stop == max_samples:
                return energy._replace(target_met=met)

    return measure


def _check_draws(num_samples, max_samples, antithetic, target_sem) -> int:
    """The most draws at a sigma."""
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


def _zeros(sums, num_slots):
    """Slots for sums of these shapes, which end with those of stacked solutions."""
    if "count" not in sums:
        raise ValueError(f"eval_fn must return a dict with 'count', got {sorted(sums)}.")
    for name, total in sums.items():
        if total.shape != sums["count"].shape:
            raise ValueError(f"eval_fn must return scalars, got {name!r} of shape {total.shape}.")
    return {name: jnp.zeros((*s.shape, num_slots), s.dtype) for name, s in sums.items()}


def _means(sums):
    count = np.asarray(sums["count"], dtype=float)
    with np.errstate(invalid="ignore"):  # 0 / 0 in slots that were not used
        return {
            name: np.asarray(s, dtype=float) / count for name, s in sums.items() if name != "count"
        }


def _rises(means, reference, num_draws, num_sigmas, active):
    """{name: rises (..., G, draws)} of a block; NaN at sigmas that were not active."""
    rises = {}
    for name, value in means.items():
        grid = value[..., : num_draws * num_sigmas]
        grid = grid.reshape(*value.shape[:-1], num_draws, num_sigmas).swapaxes(-1, -2)
        rises[name] = np.full(grid.shape, np.nan)
        rises[name][..., active, :] = grid[..., active, :] - reference[name][..., None, None]
    return rises
