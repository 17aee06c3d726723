"""Sharpness-aware minimisation (SAM) around any optimizer."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from flatjax import _checks, _precision
from flatjax._keys import is_typed
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

    This is a thin adapter of `optax.contrib.sam(..., sync_period=2)`, which has six limits. It
    refuses extra arguments such as `value`, and optimizer states with typed random keys. It gives
    NaN on a zero gradient. It keeps the caller's parameters in its state, so they cannot be
    donated. It restarts a schedule of rho with every pair, and takes one norm over all replicas.

    Args:
      optimizer: the optimizer, which sees every second gradient and the extra arguments. If it
        contains a coupling, the coupling acts on the weights before their ascent.
      rho: :math:`\rho`, length of the ascent, in units of the weights; a number or a schedule of
        the count of pairs.
      replica_axis: axis of the leaves along which replicas are stacked, if they are. Each replica
        then ascends on its own.

    Returns:
      The transformation. `update` needs `params`. Evaluate after an even number of updates.

    Raises:
      ValueError: rho is negative or not finite, or params are missing.

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
    optimizer = optax.with_extra_args_support(optimizer)
    adversary = optax.chain(_normalize(replica_axis), optax.sgd(rho))

    def wrapped(extra_args: dict[str, Any]) -> optax.GradientTransformationExtraArgs:
        # optax selects between states by multiplying them by 0 and 1, which typed keys do not
        # allow. The state therefore holds the numbers of the keys.
        def init(params):
            return jax.tree.map(_key_numbers, optimizer.init(params))

        def update(updates, numbers, params):
            leaves, treedef = jax.tree.flatten(numbers)
            leaves = map(_with_impl, leaves, _key_impls(optimizer.init, params))
            state = jax.tree.unflatten(treedef, leaves)
            updates, state = optimizer.update(updates, state, params, **extra_args)
            return updates, jax.tree.map(_key_numbers, state)

        inner = optax.GradientTransformation(init, update)
        return optax.contrib.sam(inner, adversary, sync_period=2, reset_state=False)

    def init_fn(params):
        # A copy, because the state outlives donated parameters.
        return wrapped({}).init(jax.tree.map(jnp.copy, params))

    def update_fn(updates, state, params, **extra_args):
        return wrapped(extra_args).update(updates, state, params)

    return of_weights(init_fn, update_fn)


def _normalize(replica_axis: int | None) -> optax.GradientTransformation:
    """Divides the gradient of each replica by its norm; a zero gradient stays 0."""

    def normalize(grads: chex.ArrayTree) -> chex.ArrayTree:
        norm = _precision.norm(grads)
        norm = jnp.where(norm == 0, 1, norm)
        return jax.tree.map(lambda g: (g / norm).astype(g.dtype), grads)

    if replica_axis is not None:
        normalize = jax.vmap(normalize, in_axes=replica_axis, out_axes=replica_axis)
    return optax.stateless(lambda updates, params: normalize(updates))


def _key_numbers(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if is_typed(leaf) else leaf


def _with_impl(leaf: jax.Array, impl: Any) -> jax.Array:
    return leaf if impl is None else jax.random.wrap_key_data(leaf, impl=impl)


def _key_impls(init: Callable[[optax.Params], optax.OptState], params: optax.Params) -> list[Any]:
    """Returns the generator of each typed key in the state; None elsewhere."""
    found = []

    def note(params):
        for leaf in jax.tree.leaves(init(params)):
            found.append(jax.random.key_impl(leaf) if is_typed(leaf) else None)

    jax.eval_shape(note, params)
    return found
