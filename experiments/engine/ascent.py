r"""Takes the gradients of replicas further away from their center than they are.

With the center c, the root mean square distance r of y replicas and a radius rho,

.. math::
  x_a = w_a + \rho \, \frac{w_a - c}{r}, \qquad
  r^2 = \frac{1}{y} \sum_a \lVert w_a - c \rVert^2. \tag{1}

The loss rises in this direction on average, as in SAM, but the direction costs no second gradient.
The x are the parameters under training. They have the same center, and their distance is r + rho,
so that the w follow from them:

.. math:: w_a = c + \frac{r_x - \rho}{r_x} (x_a - c), \qquad r_x = r + \rho. \tag{2}
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

import flatjax


class AscentState(NamedTuple):
    """State of `at_ascent`.

    Attributes:
      count: number of updates; the parameters are not displaced before the first one.
      base: state of the optimizer of the w.
    """

    count: jax.Array
    base: Any


def at_ascent(
    base: optax.GradientTransformation, rho: chex.Numeric
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer of stacked replicas, whose gradients are taken at eq. (1).

    Args:
      base: optimizer and coupling; replicas are stacked along the first axis of each leaf.
      rho: radius.
    """
    base = optax.with_extra_args_support(base)

    def init_fn(params):
        return AscentState(jnp.zeros([], jnp.int32), base.init(params))

    def update_fn(updates, state, params, **extra_args):
        distance = _distance(params)
        back = jnp.where(distance > rho, (distance - rho) / jnp.maximum(distance, 1e-30), 0.0)
        back = jnp.where(state.count == 0, 1.0, back)
        weights = _scaled(params, back)  # eq. (2)
        updates, own = base.update(updates, state.base, weights, **extra_args)
        moved = optax.apply_updates(weights, updates)
        distance = _distance(moved)
        # Replicas that coincide have no direction away from their center.
        away = jnp.where(distance > 0, 1 + rho / jnp.maximum(distance, 1e-30), 1.0)
        displaced = _scaled(moved, away)  # eq. (1)
        updates = jax.tree.map(jnp.subtract, displaced, params)
        return updates, AscentState(optax.safe_increment(state.count), own)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _distance(stack):
    return jnp.sqrt(flatjax.replica_distance(stack, replica_axis=0))


def _scaled(stack, factor):
    """Scales the displacements from the center."""
    center = lambda w: jnp.mean(w, axis=0, keepdims=True)
    return jax.tree.map(lambda w: center(w) + factor * (w - center(w)), stack)
