"""Directions for slices of the weight space: random, or through solutions."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from flatjax import _masks, _vectors
from flatjax._masks import Mask
from flatjax._vectors import normal_like
from flatjax.flatness import _inputs

NORMALIZATIONS = ("filter", "layer", "none")


class Line(NamedTuple):
    """The line through two solutions.

    Attributes:
      origin: the first solution.
      direction: vector of norm 1 from the first towards the second solution.
      coordinates: coordinates of the two solutions, 0 and their distance, shape (2,).
    """

    origin: chex.ArrayTree
    direction: chex.ArrayTree
    coordinates: np.ndarray


class Plane(NamedTuple):
    """The plane through three solutions.

    Attributes:
      origin: the first solution.
      directions: two orthogonal vectors of norm 1; the first points to the second solution.
      coordinates: coordinates of the three solutions, shape (3, 2). Distances between rows equal
        distances between solutions.
    """

    origin: chex.ArrayTree
    directions: tuple[chex.ArrayTree, chex.ArrayTree]
    coordinates: np.ndarray


def random_direction(
    params: chex.ArrayTree,
    key: chex.PRNGKey,
    *,
    normalization: str = "filter",
    mask: Mask = None,
) -> chex.ArrayTree:
    r"""Draws a random direction that is as large as the weights.

    The direction is Gaussian noise d, rescaled [Li et al., 2018] so that slices of networks with
    different weight norms can be compared:

    .. math:: d_f \leftarrow d_f \frac{\lVert w_f \rVert}{\lVert d_f \rVert}

    for each filter f: all weights of a kernel that feed one output, a slice along the last axis, as
    in linen. A step of 1 moves each filter by its own norm. If a layer is rescaled without changing
    the function of a (ReLU) network, its direction is rescaled as well, and the slice does not
    change.

    Cost: no evaluation.

    Args:
      params: the parameters w.
      key: random key of the noise.
      normalization: `"filter"`, or `"layer"`, for which f is a whole leaf. In both, leaves with
        fewer than two axes (biases, scales of norms) do not move. `"none"` is unit Gaussian noise
        on every leaf.
      mask: pytree of bools (or a function of params returning one); leaves marked False do not
        move.

    Returns:
      The direction, a pytree like `params`, in at least float32.

    Raises:
      ValueError: the normalization is unknown, or no weight moves.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flatjax.flatness import random_direction
      >>> params = {"kernel": jnp.array([[3.0, 0.3], [4.0, 0.4]]), "bias": jnp.ones(2)}
      >>> direction = random_direction(params, jax.random.key(0))
      >>> jnp.linalg.norm(direction["kernel"], axis=0).round(3), direction["bias"]
      (Array([5. , 0.5], dtype=float32), Array([0., 0.], dtype=float32))

    See Also:
      `line` (points along it), `plane` (points on two of them).
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {NORMALIZATIONS}, got {normalization!r}.")

    def normalize(w, d):
        if normalization == "none":
            return d.astype(w.dtype)
        if w.ndim < 2:
            return jnp.zeros_like(w)
        axes = tuple(range(w.ndim - 1 if normalization == "filter" else w.ndim))
        norm = lambda x: jnp.sqrt(jnp.sum(x**2, axis=axes, keepdims=True))
        return (d * norm(w) / norm(d)).astype(w.dtype)

    weights = _inputs.weights(_inputs.measured(params, mask), mask)
    noise = normal_like(_inputs.random_key(key), weights)
    return _direction(jax.tree.map(normalize, weights, noise), params)


def line(start: chex.ArrayTree, end: chex.ArrayTree) -> Line:
    r"""Makes the line through two solutions, with distance as its coordinate.

    Cost: no evaluation.

    Args:
      start: the parameters at coordinate 0.
      end: the parameters at coordinate :math:`\lVert end - start \rVert`, their distance.

    Returns:
      The line. Coordinates between 0 and the distance interpolate.

    Raises:
      ValueError: the solutions are equal, or differ in shape.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax.flatness import line
      >>> line(jnp.array([1.0, 1.0]), jnp.array([4.0, 5.0])).coordinates
      array([0., 5.])

    See Also:
      `slice_1d` (the loss on it), `plane` (two directions), `random_direction` (one direction).
    """
    check_same_shapes(start, end)
    direction, distance = _unit(optax.tree.sub(_weights(end, "end"), _weights(start, "start")))
    if not 0 < distance < np.inf:
        raise ValueError(
            f"start and end must be different solutions, got a distance of {distance}."
        )
    return Line(start, _direction(direction, start), np.array([0.0, distance]))


def plane(p0: chex.ArrayTree, p1: chex.ArrayTree, p2: chex.ArrayTree) -> Plane:
    """Makes the plane through three solutions, with distances as its coordinates.

    Cost: no evaluation.

    Args:
      p0: the parameters at coordinates (0, 0).
      p1: the parameters on the first axis.
      p2: the parameters with a positive coordinate on the second axis.

    Returns:
      The plane.

    Raises:
      ValueError: the three lie on one line (to a relative 1e-5), or differ in shape.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax.flatness import plane
      >>> points = jnp.array([[0.0, 0.0, 1.0], [2.0, 0.0, 1.0], [1.0, 3.0, 1.0]])
      >>> plane(*points).coordinates
      array([[0., 0.],
             [2., 0.],
             [1., 3.]])

    See Also:
      `slice_2d` (the loss on it), `line` (one direction), `trajectory` (the plane of training).
    """
    check_same_shapes(p0, p1)
    check_same_shapes(p0, p2)
    origin = _weights(p0, "p0")
    towards_p1 = optax.tree.sub(_weights(p1, "p1"), origin)
    towards_p2 = optax.tree.sub(_weights(p2, "p2"), origin)
    first, length = _unit(towards_p1)
    # Gram-Schmidt, twice, for solutions that are almost on one line.
    along = optax.tree.vdot(first, towards_p2)
    rest = optax.tree.add_scale(towards_p2, -along, first)
    correction = optax.tree.vdot(first, rest)
    second, height = _unit(optax.tree.add_scale(rest, -correction, first))
    if not (length > 0 and height > 1e-5 * max(length, float(optax.tree.norm(towards_p2)))):
        raise ValueError("p0, p1 and p2 must not lie on one line.")
    coordinates = np.array([[0.0, 0.0], [length, 0.0], [float(along + correction), height]])
    return Plane(p0, (_direction(first, p0), _direction(second, p0)), coordinates)


def _weights(params, name):
    """Returns the weights in at least float32, and None for other leaves."""
    return _inputs.weights(_inputs.measured(params, None, name), None)


def _direction(weights, params):
    """Makes a direction that moves these weights and no other leaf."""
    return _masks.merge(weights, _inputs.zeros_like(params))


def _unit(tree):
    direction, norm = _vectors.unit(tree)
    return direction, float(norm)


def check_same_shapes(tree: chex.ArrayTree, other: chex.ArrayTree) -> None:
    """Raises unless two solutions have the same structure and shapes."""
    structure: Any = jax.tree.structure(tree)
    if structure != jax.tree.structure(other) or (
        jax.tree.map(jnp.shape, tree) != jax.tree.map(jnp.shape, other)
    ):
        raise ValueError("solutions must be pytrees of the same structure and shapes.")
