"""Langevin dynamics around an anchor: its noise is the same wherever the replicas live."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from flatjax import _cpu, _replicas
from flatjax._masks import Mask, map_masked
from flatjax._vectors import normal_like


def langevin_noise(
    key: chex.PRNGKey,
    tree: chex.ArrayTree,
    learning_rate: chex.Numeric,
    noise_scale: chex.Numeric,
    *,
    axis_name: str | None = None,
    replica_axis: int | None = None,
) -> chex.ArrayTree:
    r"""The noise of one Langevin step, :math:`\sqrt{2 \eta} \, \epsilon \, z` with z ~ N(0, I).

    Every replica draws its own: the key of replica a is `fold_in(key, a)`, whether replicas are
    stacked, spread over a named axis, or both, so that the noise does not depend on the placement.

    Args:
      key: the step's key, common to the replicas.
      tree: a pytree with the shapes and dtypes of the noise.
      learning_rate: :math:`\eta`, the step size.
      noise_scale: :math:`\epsilon`; the standard deviation of a weight's noise is
        :math:`\epsilon \sqrt{2 \eta}`.
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread.
      replica_axis: axis of the leaves along which replicas are stacked.

    Returns:
      A pytree like `tree`.

    Raises:
      ValueError: the leaves disagree on the number of replicas.

    Examples:
      >>> import jax, jax.numpy as jnp, flatjax
      >>> noise = flatjax.langevin_noise(jax.random.key(0), jnp.zeros(100_000), 0.5, 0.1)
      >>> round(float(noise.std()), 3)
      0.1
    """
    if not jax.tree.leaves(tree):
        return tree
    local_replicas, one = 1, tree
    if replica_axis is not None:
        local_replicas = _replicas.stacked_size(tree, replica_axis, "tree")
        one = jax.tree.map(functools.partial(_without_axis, replica_axis), tree)
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * local_replicas
    scale = noise_scale * jnp.sqrt(2 * jnp.asarray(learning_rate))

    def draw(index):
        noise = normal_like(jax.random.fold_in(key, index), one, scale=scale)
        return jax.tree.map(lambda z, leaf: z.astype(leaf.dtype), noise, one)

    if replica_axis is None:
        return draw(first)
    return jax.vmap(draw, out_axes=replica_axis)(first + jnp.arange(local_replicas))


def _without_axis(axis, leaf):
    return jax.ShapeDtypeStruct((*leaf.shape[:axis], *leaf.shape[axis + 1 :]), leaf.dtype)


def make_langevin_step(
    inner: optax.GradientTransformationExtraArgs,
    noise_scale: chex.Numeric,
    *,
    decoupled: bool,
    mask: Mask,
    **where: Any,
) -> Callable[..., tuple[optax.Params, optax.OptState]]:
    """The inner step of Entropy-SGD; see `flatjax.entropy_sgd` for the arguments.

    Args:
      inner: optimizer of the inner loop without its learning rate.
      noise_scale: without noise, none is drawn.
      decoupled: contract towards the anchor after the inner optimizer's step.
      mask: leaves marked False feel neither coupling nor noise.
      **where: `axis_name` and `replica_axis`.

    Returns:
      `langevin_step(grads, state, params, gamma_t, eta, extra_args)` -> (w', the inner optimizer's
      state), with the `flatjax.EntropySGDState` before the step.
    """
    has_noise = not (isinstance(noise_scale, int | float) and noise_scale == 0)

    def langevin_step(grads, state, params, gamma_t, eta, extra_args):
        if not decoupled:
            force = lambda g, w_, w: (g + gamma_t * (w_ - w)).astype(g.dtype)
            grads = map_masked(force, mask, params, grads, params, state.anchor)
        direction, inner_state = inner.update(grads, state.inner_state, params, **extra_args)
        moved = jax.tree.map(lambda w_, d: (w_ - eta * d).astype(w_.dtype), params, direction)
        if decoupled:
            contract = lambda w_, w: (w + jnp.exp(-eta * gamma_t) * (w_ - w)).astype(w_.dtype)
            moved = map_masked(contract, mask, params, moved, state.anchor)
        if has_noise:
            step = _cpu.after(moved, state.step)  # not beside the convolutions of the gradient
            step_key = jax.random.fold_in(state.key, step)
            noise = langevin_noise(step_key, params, eta, noise_scale, **where)
            noise = _cpu.once(noise, state.step)
            moved = map_masked(jnp.add, mask, params, moved, noise)
        return moved, inner_state

    return langevin_step
