"""Langevin noise that is the same wherever the replicas live."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax import _checks
from flatjax._cpu import normal


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
    leaves, treedef = jax.tree.flatten(tree)
    if not leaves:
        return tree
    local_replicas = 1
    shapes = [leaf.shape for leaf in leaves]
    if replica_axis is not None:
        local_replicas = _checks.stacked_size(tree, replica_axis, "tree")
        shapes = [shape[:replica_axis] + shape[replica_axis + 1 :] for shape in shapes]
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * local_replicas
    scale = noise_scale * jnp.sqrt(2 * jnp.asarray(learning_rate))
    ends = np.cumsum([math.prod(shape) for shape in shapes])

    def draw(replica):
        # One draw for all leaves: XLA takes half a second to compile each one on a CPU.
        noise = scale * normal(jax.random.fold_in(key, replica), ends[-1])
        parts = zip(jnp.split(noise, ends[:-1]), shapes, leaves, strict=True)
        return [part.reshape(shape).astype(leaf.dtype) for part, shape, leaf in parts]

    if replica_axis is None:
        noise = draw(first)
    else:
        noise = jax.vmap(draw, out_axes=replica_axis)(first + jnp.arange(local_replicas))
    return jax.tree.unflatten(treedef, noise)
