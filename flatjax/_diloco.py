"""DiLoCo: workers train alone and share an outer step every K steps."""

import math
from collections.abc import Sequence

import jax
import optax
from jax.typing import DTypeLike

from flatjax import _checks, _masks
from flatjax._masks import Mask, of_weights
from flatjax._pull_to_center import pull_to_center


def diloco(
    inner: optax.GradientTransformation,
    outer: optax.GradientTransformation,
    period: int,
    *,
    axis_name: str | None = None,
    replica_axis: int | None = None,
    fragments: Sequence[Mask] | None = None,
    delay: int = 0,
    blend: float = 0.0,
    mask: Mask = None,
    communication_dtype: DTypeLike | None = None,
    num_replicas: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""DiLoCo: replicas train alone, and take a common outer step every K steps.

    This chains `inner` and `pull_to_center` with an outer optimizer. For K steps each replica (a
    *worker*) follows `inner`. Then the center :math:`\theta` takes one step of `outer` on the mean
    of :math:`\theta - w_a`, and every replica continues from the center. The state of `inner` is
    kept.

    With `fragments` this is Streaming DiLoCo: the weights are divided into parts, each part is
    shared at its own steps, and the largest message is one part. `delay` and `blend` let the
    communication overlap with training.

    ======================== ============================================= =========================
    here                     MaxText                                       torchft
    ======================== ============================================= =========================
    `period`                 `diloco_sync_period`                          `sync_every`
    `outer`                  `diloco_outer_lr`, `diloco_outer_momentum`    `outer_optimizer`
    `fragments`              `num_diloco_fragments`                        `model_fragments`
    `delay`                  `num_communication_overlapping_steps`         `fragment_sync_delay`
    `blend`                  `communication_overlapping_alpha`             `fragment_update_alpha`
    `communication_dtype`                                                  `should_quantize`
    ======================== ============================================= =========================

    Args:
      inner: optimizer of each replica, including its learning rate. If it takes a norm over all
        weights and the replicas are stacked, wrap it in `per_replica`.
      outer: optimizer of the center, with its learning rate:
        `optax.sgd(0.7, momentum=0.9, nesterov=True)` in the paper.
      period: K, the number of inner steps between outer steps (the paper takes 500).
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread.
      replica_axis: axis of the leaves along which replicas are stacked.
      fragments: masks that divide the weights: each weight belongs to exactly one mask. With P
        masks, the p-th (from 0) is shared :math:`\lfloor p K / P \rfloor` steps after the first,
        modulo K.
      delay: :math:`\tau` < K: the outer step uses the displacement measured :math:`\tau` steps
        ago, so that communication may take :math:`\tau` steps.
      blend: :math:`\alpha`, in [0, 1): after an outer step a replica continues from
        :math:`\alpha w_a + (1 - \alpha) \theta`.
      mask: leaves that are shared, as in `pull_to_center`; all if None. Not with `fragments`.
      communication_dtype: dtype to which replicas round their messages: a floating-point dtype, or
        int8 with a scale for each leaf; see `flatjax.communication`.
      num_replicas: see `couple_replicas`.

    Returns:
      The transformation. `update` needs `params`. The final model is `replica_center` of the
      parameters. Memory: see `OuterPullState`.

    Raises:
      ValueError: as `pull_to_center`, or more fragments than steps in a period. `init` raises it
        if a weight belongs to no fragment or to more than one.

    References:
      Douillard et al., `DiLoCo: distributed low-communication training of language models
      <https://arxiv.org/abs/2311.08105>`_, 2023; `Streaming DiLoCo with overlapping communication
      <https://arxiv.org/abs/2501.18512>`_, 2025.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, flatjax
      >>> outer = optax.sgd(0.7, momentum=0.9, nesterov=True)
      >>> tx = flatjax.diloco(optax.sgd(0.05), outer, period=10, replica_axis=0)
      >>> params, minima = jnp.zeros((2, 1)), jnp.array([[0.0], [2.0]])
      >>> @jax.jit
      ... def step(params, state):
      ...     updates, state = tx.update(params - minima, state, params)
      ...     return optax.apply_updates(params, updates), state
      >>> state = tx.init(params)
      >>> for _ in range(300):
      ...     params, state = step(params, state)
      >>> flatjax.replica_center(params, replica_axis=0).round(2)
      Array([1.], dtype=float32)

    See Also:
      `pull_to_center` (the coupling that it is made of), `replica_mesh` (places the workers),
      `eval_params` (gives the center).
    """
    _checks.check_count("period", period)
    blend = _checks.check_number("blend", blend, minimum=0.0, maximum=1.0, exclusive_maximum=True)
    masks = [mask] if fragments is None else list(fragments)
    if fragments is not None and mask is not None:
        raise ValueError("mask must be None where fragments is given: leave weights out of both.")
    if not 1 <= len(masks) <= period:
        raise ValueError(
            f"fragments must hold between 1 and period = {period} masks, got {len(masks)}."
        )
    # The contraction e^{-K eta gamma} is alpha where eta = 1 / K and gamma = -log alpha.
    gamma = -math.log(blend) if blend > 0 else math.inf
    pulls = [
        pull_to_center(
            gamma,
            1 / period,
            axis_name=axis_name,
            replica_axis=replica_axis,
            period=period,
            offset=p * period // len(masks),
            mask=fragment,
            communication_dtype=communication_dtype,
            outer=outer,
            delay=delay,
            num_replicas=num_replicas,
        )
        for p, fragment in enumerate(masks)
    ]
    tx = optax.chain(inner, *pulls)

    def init_fn(params):
        if fragments is not None:
            _check_division(masks, params)
        return tx.init(params)

    return of_weights(init_fn, tx.update)


def _check_division(fragments, params):
    """Raises unless each weight belongs to one fragment."""
    number = jax.tree.map(lambda w: 0, params)
    for fragment in fragments:
        number = _masks.map_masked(lambda n: n + 1, fragment, params, number)
    for path, n in jax.tree_util.tree_leaves_with_path(number):
        if n != 1:
            where = f"params{jax.tree_util.keystr(path)}"
            raise ValueError(f"fragments must hold each weight once, got {where} in {n} of them.")
