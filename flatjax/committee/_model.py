"""The committee machine: K sign units that vote, with weights on spheres."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from flatjax._precision import at_least_float32
from flatjax.committee._checks import check_patterns, check_units


class Committee(nn.Module):
    r"""A fully connected committee machine; for K = 1 it is the perceptron.

    .. math::
      h_k = \frac{w_k \cdot x}{\sqrt{N}}, \quad \lVert w_k \rVert^2 = N, \quad
      f(x) = \frac{1}{\sqrt{K}} \sum_{k=1}^K \varphi(h_k). \tag{1}

    The units are signs. For training by gradients they are :math:`\varphi(h) = \tanh(\beta h)`,
    which become signs as beta grows. The class is the sign of f. Weights are normalised before use,
    so only their directions matter. They start uniform on the sphere.

    Attributes:
      num_units: K; odd, so that there is always a majority.

    Call:
      `model.apply({"params": {"weights": w}}, x, beta=beta)` with x (B, N) gives f, shape (B,).
      Without beta the units are signs, and the sign of 0 is 1.

    Raises:
      ValueError: num_units is even or below 1, or x is not (B, N).

    Examples:
      >>> model, x = Committee(num_units=3), jnp.ones((4, 10))
      >>> variables = model.init(jax.random.key(0), x)
      >>> jax.tree.map(jnp.shape, variables)
      {'params': {'weights': (3, 10)}}
      >>> model.apply(variables, x, beta=2.0).shape
      (4,)

    See Also:
      `fields` (the votes of its units), `error` (the training error), `to_sphere` (normalizes its
      weights).
    """

    num_units: int = 9

    def __post_init__(self):
        check_units(self.num_units)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, beta: jax.Array | None = None) -> jax.Array:
        """Returns the vote f (B,) on patterns (B, N)."""
        if x.ndim != 2:
            raise ValueError(f"x must have shape (B, N), got {x.shape}.")
        weights = self.param("weights", _uniform_on_sphere, (self.num_units, x.shape[1]))
        h = fields(weights, x)
        votes = jnp.where(h < 0, -1.0, 1.0) if beta is None else jnp.tanh(beta * h)
        return jnp.sum(votes, axis=-1) / np.sqrt(self.num_units)  # eq. (1)


def _uniform_on_sphere(key, shape):
    return to_sphere(jax.random.normal(key, shape))


def to_sphere(weights: jax.Array) -> jax.Array:
    """Rescales the last axis to the squared norm N; 0 stays 0.

    Args:
      weights: shape (..., N).

    Returns:
      The same directions.

    Examples:
      >>> to_sphere(jnp.array([[0.0, 5.0, 0.0, 0.0]])).tolist()
      [[0.0, 2.0, 0.0, 0.0]]

    See Also:
      `stay_on_sphere` (during training), `Committee` (the network).
    """
    wide = at_least_float32(weights)  # in float16 the square of 300 is infinite
    square = jnp.mean(wide**2, axis=-1, keepdims=True)
    on_sphere = wide * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))
    is_float = jnp.issubdtype(jnp.result_type(weights), jnp.floating)
    return on_sphere.astype(jnp.result_type(weights)) if is_float else on_sphere


def fields(weights: jax.Array, x: jax.Array) -> jax.Array:
    """Computes the fields h of the units, for weights of any norm.

    Args:
      weights: shape (..., K, N).
      x: patterns, shape (P, N).

    Returns:
      Shape (..., P, K).

    Examples:
      >>> weights = jnp.array([[3.0, 0.0], [1.0, 1.0]])  # two units with two inputs
      >>> fields(weights, jnp.array([[1.0, -1.0]])).round(3)
      Array([[1., 0.]], dtype=float32)

    See Also:
      `error` (the fraction of wrong signs), `Committee` (the network).
    """
    return jnp.swapaxes(to_sphere(weights) @ x.T, -1, -2) / np.sqrt(x.shape[-1])  # in eq. (1)


def error(weights: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes the fraction of patterns that the committee classifies wrongly.

    Args:
      weights: shape (..., K, N), of any norm.
      x: patterns, shape (P, N).
      y: labels, -1 or 1, shape (P,).

    Returns:
      Shape (...).

    Raises:
      ValueError: shapes of x and y do not fit, x is not finite, or labels are not -1 and 1. Values
        are not checked under `jax.jit` or `jax.vmap`.

    Examples:
      >>> x = jax.random.normal(jax.random.key(0), (100, 20))
      >>> weights = jax.random.normal(jax.random.key(1), (3, 20))
      >>> votes = jnp.where(fields(weights, x) < 0, -1, 1).sum(-1)
      >>> float(error(weights, x, jnp.sign(votes)))
      0.0

    See Also:
      `fields` (the fields that decide), `Committee` (the network).
    """
    check_patterns(x, y)
    votes = jnp.where(fields(weights, x) < 0, -1, 1).sum(-1)
    return jnp.mean(votes * y <= 0, axis=-1)


def stay_on_sphere() -> optax.GradientTransformation:
    r"""Keeps the squared norm of the weights of each unit at N; the last of a chain.

    .. math:: u \leftarrow \sqrt{N} \frac{w + u}{\lVert w + u \rVert} - w \tag{2}

    for every unit, along the last axis. Without it, steps perpendicular to the weights make them
    longer. This reduces the learning rate of their directions.

    Returns:
      The transformation.

    Raises:
      ValueError: `update` is called without params.

    Examples:
      >>> tx = optax.chain(optax.sgd(1.0), stay_on_sphere())
      >>> weights = to_sphere(jnp.array([[1.0, 2.0]]))
      >>> updates, _ = tx.update(jnp.array([[2.0, -1.0]]), tx.init(weights), weights)
      >>> float(jnp.round(jnp.sum((weights + updates) ** 2), 5))
      2.0

    See Also:
      `to_sphere` (for weights in place of updates), `Committee` (the network).
    """

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("params must be given to stay_on_sphere's update.")
        on_sphere = lambda u, w: (to_sphere(w + u) - w).astype(u.dtype)  # eq. (2)
        return jax.tree.map(on_sphere, updates, params), state

    return optax.GradientTransformation(optax.init_empty_state, update)
