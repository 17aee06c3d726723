r"""Rises of the evaluated quantities when noise moves the weights.

For draws :math:`z_s` and strengths :math:`\sigma_g` of the noise,

.. math::
  \Delta_{gs} = E\big(w + \sigma_g \, d_s\big) - E(w), \qquad
  d_s = z_s \odot w \text{ (multiplicative) or } z_s \text{ (additive)}, \quad
  z_s \sim \mathcal{N}(0, I) \tag{1}

where E is the mean over the data of each quantity that `eval_fn` sums. `make_rises` measures them
for `flatjax.flatness.local_energy` and `flatjax.flatness.pac_bayes_sigma`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax import _additivity, _masks, _replicas, _sums, _vectors
from flatjax._evaluation import EvalFn, check_eval_fn, check_sums
from flatjax._masks import Mask
from flatjax._placement import map_replicas
from flatjax.batch_stats import UpdateStatsFn, reestimate
from flatjax.flatness import _inputs

NOISES = ("multiplicative", "additive")

Values = dict[str, np.ndarray]
Perturbation = tuple[chex.ArrayTree, float]  # the direction d and the strength sigma


class Solution(NamedTuple):
    """A solution, its data, and the random key of its noise.

    Attributes:
      params: the weights w. M solutions that are measured together are stacked on the first axis.
      data: the data over which E is a mean.
      key: random key of the draws; the index of the draw is folded in.
      state: other inputs of `eval_fn`, which no noise moves.
    """

    params: chex.ArrayTree
    data: _inputs.Data
    key: chex.PRNGKey
    state: tuple[Any, ...]


def make_rises(
    eval_fn: EvalFn,
    num_draws: int,
    num_sigmas: int,
    *,
    noise: str,
    mask: Mask,
    antithetic: bool = False,
    update_stats: UpdateStatsFn | None = None,
    stats_batches: _inputs.Batches | None = None,
    stacked: bool = False,
) -> Callable[..., tuple[Values, Values]]:
    """Makes a function that measures rises, for all solutions of equal shapes.

    Args:
      eval_fn: see `flatjax.evaluate`; it must return scalars.
      num_draws: the largest number of draws in one call.
      num_sigmas: the largest number of strengths in one call.
      noise: `"multiplicative"` or `"additive"`.
      mask: leaves marked False are not moved.
      antithetic: whether draws 2i and 2i + 1 have opposite noise.
      update_stats: see `flatjax.flatness.local_energy`.
      stats_batches: see `flatjax.flatness.local_energy`.
      stacked: whether the parameters and the state hold M stacked solutions.

    Returns:
      `rises(solution, draws, sigmas, reference=None) -> ({name: rises}, {name: reference})`, for a
      range of S indices of draws, and G strengths. Rises have the shape (G, S), or (M, G, S) if
      stacked. The reference is E(w); it is evaluated if it is not given.

    Raises:
      ValueError: the kind of noise is unknown, one of `update_stats` and `stats_batches` is given
        without the other, or `stats_batches` is empty. When called: no batches, sums that are not
        scalars or lack a count, or no state although `update_stats` needs it.
    """
    check_eval_fn(eval_fn)
    if noise not in NOISES:
        raise ValueError(f"noise must be one of {NOISES}, got {noise!r}.")
    signs = (1, -1) if antithetic else (1,)
    draw = _make_draw(noise, mask, stacked)
    widen = _make_widen(mask, stacked)
    statistics = _make_statistics(update_stats, stats_batches, stacked)
    means_of = _make_means(eval_fn, num_draws * num_sigmas + 1, statistics, stacked)

    def perturbations(solution, draws, sigmas, with_reference) -> Iterator[Perturbation]:
        """Yields the reference (strength 0) if wanted, then all strengths of each draw."""
        for unit in range(draws.start // len(signs), draws.stop // len(signs)):
            direction = draw(solution.params, jax.random.fold_in(solution.key, unit))
            if with_reference:
                yield direction, 0.0
                with_reference = False
            for sign in signs:
                for sigma in sigmas:
                    yield direction, sign * float(sigma)

    def rises(solution, draws, sigmas, reference=None):
        if statistics is not None and not solution.state:
            raise ValueError("update_stats needs batch statistics, the first of state; got none.")
        if stacked:
            _replicas.stacked_size((solution.params, solution.state))
        solution = solution._replace(params=widen(solution.params))
        is_first = reference is None
        means = means_of(solution, lambda: perturbations(solution, draws, sigmas, is_first))
        if is_first:
            reference = {name: values[..., 0] for name, values in means.items()}
        start, size = int(is_first), len(draws) * len(sigmas)
        found = {}
        for name, values in means.items():
            values = values[..., start : start + size]
            values = values.reshape(*values.shape[:-1], len(draws), len(sigmas)).swapaxes(-1, -2)
            found[name] = values - reference[name][..., None, None]
        return found, reference

    return rises


def mean_and_sem(
    draws: np.ndarray, num_samples: Sequence[int] | np.ndarray, antithetic: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Averages the first draws at each sigma, (..., G, S) -> (..., G), with errors."""
    means, sems = [], []
    for g, count in enumerate(num_samples):
        values = draws[..., g, :count]
        if antithetic:  # only pairs are independent
            values = values.reshape(*values.shape[:-1], count // 2, 2).mean(axis=-1)
        means.append(values.mean(axis=-1))
        sems.append(values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1]))
    return np.stack(means, axis=-1), np.stack(sems, axis=-1)


def _move(params, direction, sigma):
    """Makes the perturbed network, w + sigma d in eq. (1)."""
    return _masks.map_moving(lambda w, step: w + sigma * step, params, direction)


_jitted_move = jax.jit(_move)


def _make_widen(mask, stacked):
    """Makes widen(params) -> measured network, see `_inputs.measured`."""
    widen = lambda params: _inputs.measured(params, mask)
    return jax.vmap(widen) if stacked else widen


def _make_draw(noise, mask, stacked):
    """Makes draw(params, key) -> direction d, the same for all stacked solutions."""

    def draw(params, key):
        moving = _inputs.weights(params, mask)
        z = _vectors.normal_like(key, moving)
        return jax.tree.map(jnp.multiply, z, moving) if noise == "multiplicative" else z

    return jax.jit(jax.vmap(draw, in_axes=(0, None)) if stacked else draw)


def _make_statistics(update_stats, stats_batches, stacked):
    """Makes statistics(network, state) -> state with own batch statistics."""
    if (update_stats is None) != (stats_batches is None):
        raise ValueError("update_stats and stats_batches must be given together.")
    if update_stats is None:
        return None
    data = _inputs.repeatable(stats_batches, "stats_batches")
    next(iter(data))  # raises if there are no batches
    update = map_replicas(update_stats, in_axes=(0, 0, None)) if stacked else update_stats
    update = jax.jit(update)

    def statistics(network, state):
        return (reestimate(update, network, state[0], data), *state[1:])

    return statistics


def _make_means(eval_fn, num_slots, statistics, stacked):
    """Makes means_of(solution, perturbations) -> {name: means (..., slots)}."""

    def evaluate(params, batch, *state):
        if not stacked:
            return dict(check_sums(eval_fn(params, batch, *state)))
        mapped = map_replicas(eval_fn, in_axes=(0, None, *(0 for _ in state)))
        return dict(check_sums(mapped(params, batch, *state)))

    # Traced once, and not for the shapes of each pass's sums.
    evaluate = jax.jit(evaluate, inline=True)

    @jax.jit
    def accumulate(totals, slot, params, batch, *state):
        # One buffer holds the sums of all perturbed networks. Each pass therefore waits for the
        # previous one; on CPU, two passes at a time would be slower.
        sums = evaluate(params, batch, *state)
        return _sums.add_at(totals, slot, sums)

    @jax.jit
    def move_and_accumulate(totals, slot, params, direction, sigma, batch, *state):
        return accumulate(totals, slot, _move(params, direction, sigma), batch, *state)

    def zeros(params, batch, state):
        one = jax.tree.map(lambda x: x[0], (params, state)) if stacked else (params, state)
        _additivity.check_once(eval_fn, one[0], batch, one[1], compiled=True)
        return _zeros(jax.eval_shape(evaluate, params, batch, *state), num_slots)

    def network_by_network(params, data, state, perturbations):
        totals = zeros(params, next(iter(data)), state)
        for slot, perturbation in enumerate(perturbations()):
            network = _jitted_move(params, *perturbation)
            own_state = statistics(network, state) if statistics else state
            for batch in data:
                totals = accumulate(totals, slot, network, batch, *own_state)
        return totals

    def batch_by_batch(params, data, state, perturbations):
        totals, states = None, {}
        for batch in data:
            totals = zeros(params, batch, state) if totals is None else totals
            for slot, perturbation in enumerate(perturbations()):
                if statistics and slot not in states:
                    states[slot] = statistics(_jitted_move(params, *perturbation), state)
                own_state = states.get(slot, state)
                totals = move_and_accumulate(totals, slot, params, *perturbation, batch, *own_state)
        return totals

    def means_of(solution, perturbations):
        params, data, _, state = solution
        in_any_order = data.in_memory and len(data) > 1
        sum_up = network_by_network if in_any_order else batch_by_batch
        return _sums.host_means(sum_up(params, data, state, perturbations))

    return means_of


def _zeros(sums, num_slots):
    """Makes zero totals for sums of these shapes, {name: (..., slots)}."""
    for name, total in sums.items():
        if total.shape != sums["count"].shape:
            raise ValueError(f"eval_fn must return scalars, got {name!r} of shape {total.shape}.")
    return _sums.zeros(sums, (num_slots,))
