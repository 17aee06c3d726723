"""Langevin dynamics around an anchor, with noise for each replica."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from flatjax import _checks, _cpu, _masks, _replicas
from flatjax._keys import as_key, is_typed
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
    r"""Draws the noise of one Langevin step for each replica.

    It is :math:`\sqrt{2 \eta} \, \epsilon \, z` with z ~ N(0, I).

    Every replica draws its own noise with the key `fold_in(key, a)`, where a is its index. This
    holds for stacked replicas, for a named axis and for both, so the noise does not depend on the
    placement.

    Args:
      key: the step's key, the same for all replicas.
      tree: a pytree with the shapes and dtypes of the noise. For complex leaves, the real and the
        imaginary part each get noise of this strength; integers and bools get zeros.
      learning_rate: :math:`\eta`, the step size.
      noise_scale: :math:`\epsilon`; the standard deviation of a weight's noise is
        :math:`\epsilon \sqrt{2 \eta}`.
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread.
      replica_axis: axis of the leaves along which replicas are stacked.

    Returns:
      A pytree like `tree`.

    Raises:
      TypeError: a leaf holds random keys.
      ValueError: the leaves disagree on the number of replicas, or a number is negative or not
        finite.

    Examples:
      >>> import jax, jax.numpy as jnp, flatjax
      >>> noise = flatjax.langevin_noise(jax.random.key(0), jnp.zeros(100_000), 0.5, 0.1)
      >>> round(float(noise.std()), 3)
      0.1

    See Also:
      `entropy_sgd` (has this noise in its inner loop),
      `gaussian_mixture.simulate.add_thermal_noise` (noise at a temperature).
    """
    learning_rate = _checks.check_scalar("learning_rate", learning_rate)
    noise_scale = _checks.check_scalar("noise_scale", noise_scale)
    key = as_key("key", key)
    weights = _masks.moving(tree, None)
    if not jax.tree.leaves(weights):
        return _complete(weights, tree)
    local_replicas = 1
    if replica_axis is not None:
        local_replicas = _replicas.stacked_size(tree, replica_axis, "tree")
    one = jax.tree.map(functools.partial(_one_replica, replica_axis), weights)
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * local_replicas
    scale = noise_scale * jnp.sqrt(2 * jnp.asarray(learning_rate))

    def draw(index):
        parts = jax.tree.map(_real_parts, one)
        noise = normal_like(jax.random.fold_in(key, index), parts, scale=scale)
        return jax.tree.map(_from_real_parts, noise, one)

    if replica_axis is None:
        return _complete(draw(first), tree)
    noise = jax.vmap(draw, out_axes=replica_axis)(first + jnp.arange(local_replicas))
    return _complete(noise, tree)


def _one_replica(replica_axis, leaf):
    """Shape and dtype of the leaf without its replica axis, if it has one."""
    shape = list(np.shape(leaf))
    if replica_axis is not None:
        del shape[replica_axis]
    return jax.ShapeDtypeStruct(tuple(shape), jnp.result_type(leaf))


def _real_parts(leaf):
    """The real and the imaginary part of a complex leaf as one array."""
    is_complex = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    return jax.ShapeDtypeStruct((2, *leaf.shape), float) if is_complex else leaf


def _from_real_parts(noise, leaf):
    is_complex = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    return (jax.lax.complex(noise[0], noise[1]) if is_complex else noise).astype(leaf.dtype)


def _complete(noise, tree):
    """Returns the noise with zeros for the leaves that have none."""

    def complete(path, z, leaf):
        if z is None and is_typed(leaf):
            where = f"tree{jax.tree_util.keystr(path)}"
            raise TypeError(f"{where} must hold numbers, got random keys, which take no noise.")
        return jnp.zeros_like(leaf) if z is None and leaf is not None else z

    return jax.tree_util.tree_map_with_path(
        complete, noise, tree, is_leaf=lambda leaf: leaf is None
    )


def make_langevin_step(
    inner: optax.GradientTransformationExtraArgs,
    noise_scale: chex.Numeric,
    key_of: Callable[[Any], chex.PRNGKey],
    *,
    decoupled: bool,
    mask: Mask,
    **where: Any,
) -> Callable[..., tuple[optax.Params, optax.OptState]]:
    """Makes the inner step of Entropy-SGD, eq. (2) of `flatjax._entropy_sgd`.

    The arguments are those of `flatjax.entropy_sgd`.

    Args:
      inner: optimizer of the inner loop without its learning rate.
      noise_scale: strength of the noise; 0 draws no noise.
      key_of: function that returns the random key of a state.
      decoupled: contract towards the anchor after the inner optimizer's step.
      mask: leaves marked False feel neither coupling nor noise.
      **where: `axis_name` and `replica_axis`.

    Returns:
      `langevin_step(grads, state, params, gamma_t, eta, extra_args)`, which takes the
      `flatjax.EntropySGDState` before the step and returns (w', the inner optimizer's state).
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
            step = _cpu.after(moved, state.step)  # not while the gradient's convolutions run
            step_key = jax.random.fold_in(key_of(state), step)
            noise = langevin_noise(step_key, params, eta, noise_scale, **where)
            noise = _cpu.once(noise, state.step)
            moved = map_masked(jnp.add, mask, params, moved, noise)
        return moved, inner_state

    return langevin_step
