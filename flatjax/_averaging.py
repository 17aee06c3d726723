"""Averages of the weights along a trajectory: SWA and EMA."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from flatjax import _checks
from flatjax._masks import of_weights
from flatjax._precision import at_least_float32


class AverageParamsState(NamedTuple):
    """State of `average_params`.

    Attributes:
      count: number of updates so far.
      average: the average, in at least float32: in half precision, the small changes of a long
        mean would be rounded away. Before averaging starts, it equals the parameters.

    See Also:
      `average_params` (its transformation), `eval_params` (reads the average).
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    average: optax.Params


def average_params(
    *, start: int = 0, period: int = 1, decay: float | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Averages the parameters during training, without changing the training.

    Let :math:`w_t` be the parameters after update t, and n the number of averaged points so far:

    .. math::
      \bar w \leftarrow \bar w + \tfrac{1}{n + 1} (w_t - \bar w) \text{ (SWA)}, \qquad
      \bar w \leftarrow d \, \bar w + (1 - d) \, w_t \text{ (EMA)}.

    SWA is stochastic weight averaging [Izmailov et al., 2018, arXiv:1803.05407]; EMA is an
    exponential moving average. Networks with batch norm need new statistics for the average, see
    `flatjax.batch_stats.reestimate`. Chain this transformation *last*.

    Args:
      start: the first update (counted from 0) whose parameters are averaged.
      period: number of updates between averaged points.
      decay: d, for an exponential moving average; None (default) for SWA, with equal weights.

    Returns:
      The transformation. It does not change the updates. `update` needs `params`.

    Raises:
      ValueError: negative start, period < 1, decay outside [0, 1], or missing params.

    Examples:
      >>> import jax.numpy as jnp, optax, flatjax
      >>> tx = optax.chain(optax.sgd(1.0), flatjax.average_params())
      >>> params = jnp.array(0.0)
      >>> state = tx.init(params)
      >>> for _ in range(3):  # 1, 2, 3
      ...     updates, state = tx.update(jnp.array(-1.0), state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> float(flatjax.eval_params(state, params))
      2.0

    See Also:
      `eval_params` (gives the average), `batch_stats.reestimate` (batch norm for it),
      `flatness.soup` (averages several trained networks).
    """
    _checks.check_count("start", start, minimum=0)
    _checks.check_count("period", period)
    if decay is not None:
        decay = _checks.check_scalar("decay", decay, maximum=1.0)

    def init_fn(params):
        average = jax.tree.map(lambda w: jnp.array(at_least_float32(w), copy=True), params)
        return AverageParamsState(jnp.zeros([], jnp.int32), average)

    def update_fn(updates, state, params, **extra_args):
        del extra_args
        _checks.check_state("average", state.average, params)
        since_start = state.count - start
        averaged_before = jnp.maximum(since_start // period, 0)
        equal_weight = 1 / (averaged_before + 1).astype(float)
        weight = equal_weight if decay is None else 1 - decay
        # Before the first averaged point, the average is the current point.
        weight = jnp.where(averaged_before == 0, 1.0, weight)
        is_averaged = (since_start <= 0) | (since_start % period == 0)

        def move(mean, w, u):
            moved = mean + weight * (w + u - mean)
            return jnp.where(is_averaged, moved, mean).astype(mean.dtype)

        average = jax.tree.map(move, state.average, params, updates)
        return updates, AverageParamsState(optax.safe_increment(state.count), average)

    return of_weights(init_fn, update_fn)
