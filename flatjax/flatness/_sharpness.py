"""Sharpness: the rise of the loss at the worst point nearby."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
import optax

from flatjax import _checks, _masks, _vectors
from flatjax._evaluation import EvalFn, check_eval_fn, evaluate
from flatjax._masks import Mask
from flatjax._vectors import normal_like
from flatjax.flatness import _inputs, _tables
from flatjax.flatness._ascent import ascent, gradient_of_mean, to_numpy
from flatjax.flatness._quantities import check_quantity


@_tables.printed
class SamSharpness(NamedTuple):
    """Rise of the evaluated quantities one ascent step away.

    Attributes:
      rise: {name: value at the perturbed weights minus value at w, scalar}, in units of `eval_fn`.
      reference: {name: value at w, scalar}.
      gradient_norm: norm of W g, scalar, for the gradient g of the mean loss.
    """

    rise: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    gradient_norm: np.ndarray

    def table(self) -> _tables.Table:
        """Tabulates the rise of each quantity; printing shows it."""
        title = (
            f"Rise one ascent step away; norm of the gradient {_tables.number(self.gradient_norm)}"
        )
        return _of_rises(title, self.rise, self.reference)


@_tables.printed
class WorstCaseSharpness(NamedTuple):
    """The highest rise that gradient ascent found in a ball around the weights.

    Attributes:
      rise: {name: value at the worst point found minus value at w, scalar}.
      reference: {name: value at w, scalar}.
      restart_rises: the highest rise of `quantity` in each restart, 0 or more, shape (R,); if they
        disagree, more steps or restarts are needed.
      perturbation: the worst point found minus w, a pytree like the parameters.
    """

    rise: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    restart_rises: np.ndarray
    perturbation: chex.ArrayTree

    def table(self) -> _tables.Table:
        """Tabulates the rise of each quantity; printing shows it."""
        restarts = ", ".join(map(_tables.number, self.restart_rises))
        title = f"Rise at the worst point found; highest rise of each restart: {restarts}"
        return _of_rises(title, self.rise, self.reference)


def sam_sharpness(
    eval_fn: EvalFn,
    *,
    rho: float,
    adaptive: bool = False,
    quantity: str = "loss",
    mask: Mask = None,
) -> Callable[..., SamSharpness]:
    r"""Makes a function that measures SAM's sharpness: the rise after one ascent step.

    .. math::
      L\Big(w + \rho \, \frac{W^2 g}{\lVert W g \rVert}\Big) - L(w), \qquad g = \nabla L(w) \tag{1}

    with :math:`W = 1` [SAM; Foret et al., 2021]. With `adaptive`, :math:`W = \mathrm{diag}(|w|)`
    [ASAM; Kwon et al., 2021, without the constant that their code adds]. The adaptive form does not
    change if a ReLU network is rescaled without changing its function. To first order in rho, the
    rise is :math:`\rho \lVert W g \rVert`. The gradient g is computed on the whole data set, not on
    a minibatch. If it is zero, so is the rise.

    Cost: one gradient and one evaluation of the batches. Nothing is recompiled for other solutions
    of the same shapes.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`.
      rho: radius, in units of the weights; with `adaptive`, relative to them. Usual values are 0.05
        and, with `adaptive`, 0.5.
      adaptive: whether to measure each weight's perturbation relative to the weight.
      quantity: name of the loss L in the dict of `eval_fn`. It must be differentiable.
      mask: pytree of bools (or a function of params returning one); leaves marked False (biases,
        scales of norms) are not perturbed. By default all are.

    Returns:
      `fn(params, batches, key, *state) -> SamSharpness`. The key is not used and may be None; it
      exists because all measures are called in the same way. The function loops over batches in
      Python around jitted steps; do not jit it.

    Raises:
      TypeError: (when called) state is passed instead of the key.
      ValueError: rho is not positive and finite. When called: there are no batches, `batches` is an
        iterator, `eval_fn` does not return `quantity`, or no weight moves.

    Examples:
      A parabola :math:`w^2 / 2` at 1, where the rise is :math:`(1 + \rho)^2 / 2 - 1 / 2`:

      >>> import jax.numpy as jnp
      >>> from flatjax.flatness import sam_sharpness
      >>> def eval_fn(params, batch):
      ...     return {"loss": len(batch) * 0.5 * params**2, "count": len(batch)}
      >>> measure = sam_sharpness(eval_fn, rho=0.1)
      >>> round(float(measure(jnp.array(1.0), [jnp.ones(1)]).rise["loss"]), 4)
      0.105

    See Also:
      `worst_case_sharpness` (several steps), `flatjax.sam` (trains against it).
    """
    _checks.check_scalar("rho", rho, exclusive_minimum=True)
    check_eval_fn(eval_fn)
    step = sam_step(eval_fn, rho, adaptive, quantity, mask)

    def measure(
        params: chex.ArrayTree, batches: _inputs.Batches, key: Any = None, *state: Any
    ) -> SamSharpness:
        _inputs.check_unused_key(key)
        params, data = _inputs.measured(params, mask), _inputs.repeatable(batches)
        return step(params, data, state)[0]

    return measure


def sam_step(eval_fn, rho, adaptive, quantity, mask):
    """Makes step(w, data, state) -> (sharpness, perturbed weights, gradient at w)."""
    gradient = gradient_of_mean(eval_fn, quantity, mask)
    ascend = ascent(rho, adaptive, mask)
    eval_fn = jax.jit(eval_fn)

    def step(params, data, state):
        grads, reference = gradient(params, data, state)
        zeros = optax.tree.zeros_like(grads)
        _, perturbed, norm = ascend(params, zeros, grads, rho, zeros)  # eq. (1)
        values = to_numpy(evaluate(eval_fn, perturbed, data, *state))
        found = SamSharpness(_difference(values, reference), reference, np.asarray(norm, float))
        return found, perturbed, grads

    return step


def worst_case_sharpness(
    eval_fn: EvalFn,
    *,
    rho: float,
    steps: int = 20,
    step_size: float = 0.2,
    adaptive: bool = False,
    num_restarts: int = 1,
    quantity: str = "loss",
    mask: Mask = None,
) -> Callable[..., WorstCaseSharpness]:
    r"""Makes a function that searches the highest rise within a distance rho.

    .. math:: \max_{\lVert W^{-1} \delta \rVert \le \rho} L(w + \delta) - L(w) \tag{2}

    with :math:`W = 1`, a ball [Keskar et al., 2017; Foret et al., 2021], or with `adaptive`,
    :math:`W = \mathrm{diag}(|w|)`, an ellipsoid that follows the rescalings of a ReLU network
    [Kwon et al., 2021]. In :math:`u = W^{-1} \delta`, each step of gradient ascent is

    .. math::
      u \leftarrow \Pi_\rho\Big(u + \eta \rho \frac{W g}{\lVert W g \rVert}\Big),
      \qquad g = \nabla L(w + W u) \tag{3}

    with the projection :math:`\Pi_\rho` onto the ball and the gradient g on the whole data set. The
    first restart begins at w (with :math:`\eta = 1` its first step is SAM's), the others at random
    points at distance rho. If the gradient is zero, the step has a random direction. The result is
    a lower bound of the maximum. It is NaN if a NaN occurs on the way.

    Cost: `num_restarts * steps` gradients, and `num_restarts + 1` evaluations of the batches.
    Nothing is recompiled for other solutions of the same shapes.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`.
      rho: radius, in units of the weights; with `adaptive`, relative to them.
      steps: number of ascent steps of each restart.
      step_size: :math:`\eta`, the length of a step in units of rho.
      adaptive: whether to measure each weight's perturbation relative to the weight.
      num_restarts: R, the number of starting points.
      quantity: name of the loss L in the dict of `eval_fn`. It must be differentiable.
      mask: pytree of bools (or a function of params returning one); leaves marked False are not
        perturbed.

    Returns:
      `fn(params, batches, key, *state) -> WorstCaseSharpness`. It loops over batches in Python
      around jitted steps; do not jit it.

    Raises:
      ValueError: rho or step_size is not positive and finite, steps < 1 or num_restarts < 1. When
        called: there are no batches, `batches` is an iterator, `eval_fn` does not return
        `quantity`, or no weight moves.

    Examples:
      The rise of a quadratic at its minimum is half its largest curvature times rho squared:

      >>> import jax, jax.numpy as jnp
      >>> from flatjax.flatness import worst_case_sharpness
      >>> def eval_fn(params, batch):
      ...     loss = 0.5 * jnp.sum(jnp.array([1.0, 4.0]) * params**2)
      ...     return {"loss": len(batch) * loss, "count": len(batch)}
      >>> measure = worst_case_sharpness(eval_fn, rho=0.1)
      >>> found = measure(jnp.zeros(2), [jnp.ones(1)], jax.random.key(0))
      >>> round(float(found.rise["loss"]), 4)
      0.02

    See Also:
      `sam_sharpness` (one step), `top_eigenvalues` (the curvature at small radii).
    """
    _checks.check_scalar("rho", rho, exclusive_minimum=True)
    _checks.check_scalar("step_size", step_size, exclusive_minimum=True)
    _checks.check_count("steps", steps)
    _checks.check_count("num_restarts", num_restarts)
    check_eval_fn(eval_fn)
    gradient = gradient_of_mean(eval_fn, quantity, mask)
    ascend = ascent(rho, adaptive, mask)
    eval_fn = jax.jit(eval_fn)

    @jax.jit
    def draw_direction(params, key):
        weights = _inputs.weights(params, mask)
        noise = normal_like(key, weights)
        return _vectors.unit(jax.tree.map(lambda z, w: z.astype(w.dtype), noise, weights))[0]

    @jax.jit
    def difference(point, params):
        moved, weights = (_inputs.weights(tree, mask) for tree in (point, params))
        return _masks.merge(optax.tree.sub(moved, weights), _inputs.zeros_like(params))

    def climb(params, u, direction, data, state):
        """Yields the points of one ascent and the means at them."""
        u, point, _ = ascend(params, u, optax.tree.zeros_like(u), 0.0, direction)
        for _ in range(steps):
            grads, values = gradient(point, data, state)
            yield point, values
            u, point, _ = ascend(params, u, grads, step_size * rho, direction)
        yield point, to_numpy(evaluate(eval_fn, point, data, *state))

    def measure(
        params: chex.ArrayTree, batches: _inputs.Batches, key: chex.PRNGKey, *state: Any
    ) -> WorstCaseSharpness:
        params, data = _inputs.measured(params, mask), _inputs.repeatable(batches)
        key = _inputs.random_key(key)
        reference = to_numpy(evaluate(eval_fn, params, data, *state))
        check_quantity(quantity, reference)
        worst, worst_point, restart_rises = reference, params, np.zeros(num_restarts)
        for restart in range(num_restarts):
            direction = draw_direction(params, jax.random.fold_in(key, restart))
            start = optax.tree.scale(rho if restart else 0.0, direction)
            for point, values in climb(params, start, direction, data, state):
                rise = values[quantity] - reference[quantity]  # eq. (2) is its maximum
                restart_rises[restart] = np.maximum(restart_rises[restart], rise)
                if values[quantity] > worst[quantity] or np.isnan(rise):
                    worst, worst_point = values, point
        return WorstCaseSharpness(
            rise=_difference(worst, reference),
            reference=reference,
            restart_rises=restart_rises,
            perturbation=difference(worst_point, params),
        )

    return measure


def _of_rises(title, rise, reference) -> _tables.Table:
    """Makes a table with a line for each quantity."""
    values = {
        "at the solution": [_tables.number(value) for value in reference.values()],
        "rise": [_tables.number(rise[name]) for name in reference],
    }
    return _tables.of_quantities([title], "quantity", [*reference], values)


def _difference(values, reference):
    return {name: values[name] - reference[name] for name in reference}
