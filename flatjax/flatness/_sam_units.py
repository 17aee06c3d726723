r"""The contributions of the batches to SAM's sharpness, for its standard error.

Sharpness is :math:`T = L(w + \delta) - L(w)` with :math:`\delta = \rho W^2 g / \lVert W g \rVert`.
Batch b contributes :math:`L_b` to the mean loss L and :math:`g_b` to its gradient g, and has the
share :math:`s_b` of the examples. If its examples count :math:`1 + \epsilon` times, then

.. math::
  \frac{dL}{d\epsilon} = L_b - s_b L, \qquad \frac{dg}{d\epsilon} = g_b - s_b g. \tag{1}

The perturbation changes with g. With the gradient :math:`G` of the mean loss at
:math:`w + \delta` and :math:`u = W g / \lVert W g \rVert`, this changes T at the rate

.. math::
  G \cdot \frac{d\delta}{d\epsilon} = v \cdot (g_b - s_b g), \qquad
  v = \frac{\rho}{\lVert W g \rVert} \, W \big( W G - (u \cdot W G) \, u \big). \tag{2}

The rates of eq. (1) for L at both points, and of eq. (2), add up to :math:`u_b - s_b T` with

.. math:: u_b = L_b(w + \delta) - L_b(w) + v \cdot (g_b - s_b g). \tag{3}

These units have the sum T, because the last terms have the sum 0. A standard error of their sum,
divided by the sum of the shares, is therefore correct to first order (the infinitesimal jackknife).
At a maximum of L on the ellipsoid, :math:`W G` is parallel to u, and v is 0.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flatjax import _vectors
from flatjax._evaluation import EvalFn
from flatjax._masks import Mask
from flatjax.flatness import _inputs
from flatjax.flatness._ascent import gradient_of_mean, scaling
from flatjax.flatness._passes import BY_BATCH, weighted
from flatjax.flatness._sharpness import SamSharpness, sam_step


def sam_units(
    labelled: EvalFn, *, rho: float, adaptive: bool, quantity: str, mask: Mask
) -> Callable[..., tuple[SamSharpness, np.ndarray]]:
    """Makes a function that measures SAM's sharpness, and each batch's unit.

    Cost: three gradients and one evaluation of the batches. Gradients of single batches are not
    stored. They are computed in reverse mode: a network may have its own backward pass only, and
    the program of the gradient is compiled already.

    Args:
      labelled: see `by_batch`.
      rho: see `sam_sharpness`.
      adaptive: see `sam_sharpness`.
      quantity: see `sam_sharpness`.
      mask: see `sam_sharpness`.

    Returns:
      `fn(params, batches, *state) -> (the result of sam_sharpness, units of eq. (3), shape (K,))`.
    """
    step = sam_step(labelled, rho, adaptive, quantity, mask)
    gradient = gradient_of_mean(labelled, quantity, mask)
    scale = scaling(adaptive)

    @jax.jit
    def direction(params, grads, there):
        """Computes v of eq. (2) from the gradients at w and at the perturbed point."""
        weights = _inputs.weights(params, mask)
        times_w = lambda x: jax.tree.map(scale, weights, x)
        unit, norm = _vectors.unit(times_w(grads))
        there = times_w(there)
        across = optax.tree.add_scale(there, -optax.tree.vdot(unit, there), unit)
        return optax.tree.scale(jnp.where(norm == 0, 0.0, rho / norm), times_w(across))

    slope = jax.jit(optax.tree.vdot)

    def measure(params, batches, *state: Any):
        params, data = _inputs.measured(params, mask), _inputs.repeatable(batches)
        found, perturbed, grads = step(params, data, state)
        v = direction(params, grads, gradient(perturbed, data, state)[0])
        slopes = [float(slope(v, gradient(params, [batch], state)[0])) for batch in data]
        shares = found.reference[BY_BATCH + "count"]
        changes = weighted(shares, slopes)
        changes -= shares * changes.sum()  # v times the second part of eq. (1)
        return found, found.rise[BY_BATCH + quantity] + changes  # eq. (3)

    return measure
