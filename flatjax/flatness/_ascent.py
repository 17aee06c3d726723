"""Steps of gradient ascent on a mean over batches, for the measures of sharpness."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flatjax import _masks, _sums, _vectors
from flatjax.flatness import _inputs
from flatjax.flatness._kept import kept
from flatjax.flatness._quantities import differentiable


@kept(maxsize=8)
def gradient_of_mean(eval_fn, quantity, mask):
    """Makes gradient(params, data, state) -> (gradient of a mean, {name: mean}).

    The gradient is taken with respect to the weights that move. Measures of one `eval_fn` share it,
    because it takes longest to compile.
    """

    @jax.jit  # traced once, and not for the shapes of each pass's sums
    def differentiate(params, batch, state):
        def total(weights):
            sums = eval_fn(_masks.merge(weights, params), batch, *state)
            return differentiable(sums, quantity), dict(sums)

        return jax.grad(total, has_aux=True)(_inputs.weights(params, mask))

    @jax.jit
    def accumulate(totals, params, batch, *state):
        return _sums.add(totals, differentiate(params, batch, state))

    @jax.jit
    def means(totals):
        grads, sums = totals
        count = sums.pop("count")
        mean = lambda total: _sums.mean(total, count)
        return jax.tree.map(mean, (grads, sums), is_leaf=_sums.is_sum)

    def gradient(params, data, state):
        shapes = jax.eval_shape(differentiate, params, next(iter(data)), state)
        totals = _sums.zeros(shapes)
        for batch in data:
            totals = accumulate(totals, params, batch, *state)
        grads, values = means(totals)
        return grads, to_numpy(values)

    return gradient


def ascent(rho, adaptive, mask):
    """Makes ascend(w, u, g, step, fallback) -> (u', w + W u', ||W g||).

    One step moves u = W^-1 delta. u, g and `fallback`, the direction that replaces g where it is
    zero, are pytrees of the weights that move.
    """
    scale = scaling(adaptive)

    @jax.jit
    def ascend(params, u, grads, step, fallback):
        scaled = jax.tree.map(scale, _inputs.weights(params, mask), grads)
        unit, norm = _vectors.unit(scaled)
        unit = optax.tree.where(norm == 0, fallback, unit)
        u = optax.tree.add_scale(u, step, unit)  # eq. (3) of `worst_case_sharpness`
        u_norm = optax.tree.norm(u)
        u = optax.tree.scale(jnp.where(u_norm > rho, rho / u_norm, 1.0), u)
        point = _masks.map_moving(lambda w, x: w + scale(w, x), params, u)
        return u, point, norm

    return ascend


def scaling(adaptive):
    """Makes fn(w, x) -> W x, for a leaf w and a leaf x of another pytree."""
    return lambda w, x: jnp.abs(w) * x if adaptive else x


def to_numpy(values):
    """Converts the means of a pass to NumPy numbers in double precision."""
    return {name: np.asarray(value, dtype=float) for name, value in values.items()}
