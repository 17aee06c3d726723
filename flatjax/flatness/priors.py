r"""Priors of configurations around a solution, as functions of normal noise.

A prior is a function `prior(params, noise, distance) -> params`. `params` holds the weights that
move (a pytree with None for other leaves), `noise` is standard normal noise of their shapes, and
`distance` a scalar. Every distribution that can be made from normal noise is allowed, because
sampling takes place in the noise.
"""

from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp

from flatjax._precision import at_least_float32
from flatjax._sampling.drawing import at_overlap

__all__ = ["Prior", "additive", "fixed_overlap", "multiplicative", "relative_sphere", "sphere"]

Prior = Callable[[chex.ArrayTree, chex.ArrayTree, chex.Numeric], chex.ArrayTree]
"""A function `prior(params, noise, distance)` that returns weights around `params`."""


def additive(
    params: chex.ArrayTree, noise: chex.ArrayTree, distance: chex.Numeric
) -> chex.ArrayTree:
    r"""Adds Gaussian noise, the same for every weight: :math:`w' = w + d \, z`.

    Args:
      params: the weights w that move.
      noise: standard normal noise z of their shapes.
      distance: d.

    Returns:
      w', a pytree like `params`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax.flatness import priors
      >>> priors.additive(jnp.array([1.0, 2.0]), jnp.array([1.0, -1.0]), 0.5)
      Array([1.5, 1.5], dtype=float32)

    See Also:
      `multiplicative` (scaled by the weights), `sphere` (a fixed distance),
      `flatjax.flatness.local_entropy` (draws from it).
    """
    return jax.tree.map(lambda w, z: w + distance * z, params, noise)


def multiplicative(
    params: chex.ArrayTree, noise: chex.ArrayTree, distance: chex.Numeric
) -> chex.ArrayTree:
    r"""Scales Gaussian noise by each weight: :math:`w' = w + d \, z \odot w`.

    Args:
      params: the weights w that move.
      noise: standard normal noise z of their shapes.
      distance: d.

    Returns:
      w', a pytree like `params`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax.flatness import priors
      >>> priors.multiplicative(jnp.array([1.0, 2.0]), jnp.array([1.0, -1.0]), 0.5)
      Array([1.5, 1. ], dtype=float32)

    See Also:
      `additive` (the same noise for all weights), `relative_sphere` (a fixed distance),
      `flatjax.flatness.local_entropy` (draws from it).
    """
    return jax.tree.map(lambda w, z: w + distance * z * w, params, noise)


def sphere(params: chex.ArrayTree, noise: chex.ArrayTree, distance: chex.Numeric) -> chex.ArrayTree:
    r"""Draws uniformly from the sphere :math:`\lVert w' - w \rVert = d`.

    Args:
      params: the weights w that move.
      noise: standard normal noise z of their shapes.
      distance: d.

    Returns:
      w', a pytree like `params`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax.flatness import priors
      >>> priors.sphere(jnp.array([1.0, 2.0]), jnp.array([3.0, -4.0]), 0.5)
      Array([1.3, 1.6], dtype=float32)

    See Also:
      `relative_sphere` (a distance relative to the norm of the weights), `additive` (normal noise),
      `flatjax.flatness.local_entropy` (draws from it).
    """
    scale = distance / _norm(noise)
    return jax.tree.map(lambda w, z: w + scale * z, params, noise)


def relative_sphere(
    params: chex.ArrayTree, noise: chex.ArrayTree, distance: chex.Numeric
) -> chex.ArrayTree:
    r"""Draws uniformly from the sphere of radius :math:`d \lVert w \rVert`.

    Args:
      params: the weights w that move.
      noise: standard normal noise z of their shapes.
      distance: d.

    Returns:
      w', a pytree like `params`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax.flatness import priors
      >>> priors.relative_sphere(jnp.array([6.0, 8.0]), jnp.array([3.0, -4.0]), 0.5)
      Array([9., 4.], dtype=float32)

    See Also:
      `sphere` (in units of the weights themselves), `multiplicative` (normal noise),
      `flatjax.flatness.local_entropy` (draws from it).
    """
    return sphere(params, noise, distance * _norm(params))


def fixed_overlap(axis: int | Sequence[int] | None) -> Prior:
    r"""Makes a prior with a given overlap with w and the norm of w, for every unit.

    .. math::
      w' = p \, w + \sqrt{1 - p^2} \, \lVert w \rVert \, u, \qquad p = 1 - d,

    where u is uniform among the unit vectors orthogonal to w. Hence
    :math:`w' \cdot w = p \lVert w \rVert^2`, :math:`\lVert w' \rVert = \lVert w \rVert` and
    :math:`\lVert w' - w \rVert^2 = 2 d \lVert w \rVert^2`. Use it for weights whose norm does not
    matter (sign units, batch norm).

    Args:
      axis: the axes of each leaf along which the weights of one unit run (0 for the kernels of
        dense layers, shape (inputs, units)); None for the whole leaf. Mask all other leaves.

    Returns:
      The prior. It gives NaN for a unit with a single weight, which has no orthogonal direction,
      and for a unit with zero weights, which has no direction.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flatjax.flatness import priors
      >>> w, z = jax.random.normal(jax.random.key(0), (2, 10, 3))
      >>> moved = priors.fixed_overlap(axis=0)(w, z, 0.25)
      >>> overlap = jnp.sum(moved * w, axis=0) / jnp.sum(w * w, axis=0)
      >>> [round(float(p), 3) for p in overlap]
      [0.75, 0.75, 0.75]

    See Also:
      `sphere` (on which it moves a fixed angle), `flatjax.flatness.local_entropy` (draws from it).
    """
    axis = tuple(axis) if isinstance(axis, Sequence) else axis

    def prior(params, noise, distance):
        move = lambda w, z: at_overlap(at_least_float32(w), z, 1 - distance, axis)
        return jax.tree.map(move, params, noise)

    return prior


def _norm(tree):
    leaves = map(at_least_float32, jax.tree.leaves(tree))
    return jnp.sqrt(sum(jnp.sum(leaf * leaf) for leaf in leaves))
