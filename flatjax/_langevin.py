"""Langevin noise that is the same wherever the replicas live."""

import functools

import chex
import jax
import jax.numpy as jnp

from flatjax import _checks
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
        local_replicas = _checks.stacked_size(tree, replica_axis, "tree")
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
