"""Sharpness-aware minimisation (SAM) around any optimizer."""

import chex
import jax
import jax.numpy as jnp
import optax
from optax.contrib import SAMState

from flatjax import _checks, _precision, _replicas
from flatjax._masks import of_weights


def sam(
    optimizer: optax.GradientTransformation,
    rho: chex.Numeric | optax.Schedule,
    *,
    replica_axis: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SAM around any optimizer, also with extra arguments and random keys.

    Updates come in pairs on the same batch. The first moves the weights along the gradient g to
    :math:`w + \rho \, g / \lVert g \rVert`. The second takes the gradient there, moves back to w
    and applies `optimizer` with this gradient [Foret et al., 2021, `arXiv:2010.01412
    <https://arxiv.org/abs/2010.01412>`_].

    The updates are those of `optax.contrib.sam(..., sync_period=2)`, and the state has its type.
    Optax's own SAM has more limits. It refuses extra arguments such as `value`, and states with
    typed random keys. In the optimizer's state, it turns infinite numbers into NaN, and flags into
    integers. It gives NaN on a zero gradient. It keeps the caller's parameters in its state, so
    they cannot be donated. It restarts a schedule of rho with every pair, and takes one norm over
    all replicas.

    Args:
      optimizer: the optimizer, which sees every second gradient and the extra arguments. Put
        couplings and `average_params` into it. They then act on the weights w. After `sam` in a
        chain, they would also act on the points of the ascent.
      rho: :math:`\rho`, length of the ascent, in units of the weights; a number or a schedule of
        the count of pairs.
      replica_axis: axis of the leaves along which replicas are stacked, if they are. Each replica
        then ascends on its own.

    Returns:
      The transformation. `update` needs `params`. Evaluate after an even number of updates.

    Raises:
      ValueError: rho is negative or not finite, params are missing, or leaves disagree on the
        number of replicas.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, flatjax
      >>> tx = flatjax.sam(optax.sgd(0.1), rho=0.05)
      >>> loss = lambda params: jnp.sum(params**2)
      >>> params = jnp.array([3.0, -2.0])
      >>> state = tx.init(params)
      >>> for _ in range(40):  # 20 pairs
      ...     value, grads = jax.value_and_grad(loss)(params)
      ...     updates, state = tx.update(grads, state, params, value=value)
      ...     params = optax.apply_updates(params, updates)
      >>> float(loss(params)) < 1e-2
      True

    See Also:
      `flatness.sam_sharpness` (the sharpness that it lowers), `esgd` (another way to flat minima).
    """
    rho = _checks.check_schedule("rho", rho)
    _checks.check_optional_count("replica_axis", replica_axis, minimum=0)
    optimizer = optax.with_extra_args_support(optimizer)
    adversary = optax.chain(_normalize(replica_axis), optax.sgd(rho))

    def init_fn(params):
        # A copy, because the state outlives donated parameters.
        params = jax.tree.map(jnp.copy, params)
        return SAMState(
            steps_since_sync=jnp.zeros([], jnp.int32),
            adv_state=adversary.init(params),
            opt_state=optimizer.init(params),
            cache=params,
        )

    def update_fn(updates, state, params, **extra_args):
        _checks.check_state("cache", state.cache, params)
        _replicas.check_num_replicas(params, None, None, replica_axis)
        is_ascent, is_descent = state.steps_since_sync == 0, state.steps_since_sync == 1
        descent, adv_state = adversary.update(updates, state.adv_state, params)
        moves, opt_state = optimizer.update(updates, state.opt_state, state.cache, **extra_args)
        back = lambda w, ascended, u: w - ascended + u
        moves = jax.tree.map(back, state.cache, params, moves)
        ascent = jax.tree.map(jnp.negative, descent)
        # The updates are chosen by a product, which keeps the bits of optax's. States may hold
        # infinite numbers and flags, which a product would turn into NaN and integers.
        updates = jax.tree.map(lambda u, v: is_descent * u + (1 - is_descent) * v, moves, ascent)
        choose = lambda here, there: jnp.where(is_ascent, here, there)
        pick = lambda here, there: jax.tree.map(choose, here, there)
        return updates, SAMState(
            steps_since_sync=1 - state.steps_since_sync,
            adv_state=pick(adv_state, state.adv_state),
            opt_state=pick(state.opt_state, opt_state),
            cache=pick(params, state.cache),
        )

    return of_weights(init_fn, update_fn)


def _normalize(replica_axis: int | None) -> optax.GradientTransformation:
    """Divides the gradient of each replica by its norm; a zero gradient stays 0."""

    def normalize(grads: chex.ArrayTree) -> chex.ArrayTree:
        norm = _precision.norm(grads)
        norm = jnp.where(norm == 0, 1, norm)
        return jax.tree.map(lambda g: (g / norm).astype(g.dtype), grads)

    def update(grads, params):
        del params
        if replica_axis is None or not jax.tree.leaves(grads):  # vmap needs at least one array
            return normalize(grads)
        return jax.vmap(normalize, in_axes=replica_axis, out_axes=replica_axis)(grads)

    return optax.stateless(update)
