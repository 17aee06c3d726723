"""Fast fixed points of small systems of equations, with implicit derivatives."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Solution(NamedTuple):
    """A fixed point.

    Attributes:
      x: the unknowns, shape (n,).
      residual: largest |update(x) - x| of any unknown, scalar.
      steps: number of evaluations of the update.
      converged: whether the residual is within the tolerance.
    """

    x: jax.Array
    residual: jax.Array
    steps: jax.Array
    converged: jax.Array


class _Iterate(NamedTuple):
    x: jax.Array  # the best point so far
    difference: jax.Array  # update(x) - x there
    jacobian: jax.Array  # of the update there
    trial: jax.Array  # the point to evaluate next
    was_newton: jax.Array  # whether the trial is a Newton step
    cold: jax.Array  # damped steps to take before the next Newton step
    steps: jax.Array


def fixed_point(
    update: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    *,
    tolerance: float = 1e-10,
    max_steps: int = 500,
    warm_up: int = 4,
    damping: float = 0.5,
) -> Solution:
    r"""Solves x = update(x) for a few unknowns.

    It makes a few damped steps, :math:`x \leftarrow x + (1 - d) (F(x) - x)`, and then Newton steps,
    :math:`x \leftarrow x + (I - F'(x))^{-1} (F(x) - x)`. A Newton step that does not reduce the
    residual is reversed, and damped steps follow. Unknowns should be of order one and
    unconstrained: use logarithms of positive numbers.

    The solution can be differentiated with respect to anything that `update` closes over, by the
    implicit function theorem. Under `jax.vmap` each point stops on its own.

    Args:
      update: F, from shape (n,) to (n,), differentiable.
      start: first guess, shape (n,).
      tolerance: largest residual of a solution.
      max_steps: evaluations of F after which it stops without convergence.
      warm_up: damped steps before the first Newton step.
      damping: d, in [0, 1).

    Returns:
      The last point. `converged` says whether it is a solution; a NaN is not.
    """

    def solve(_, start):
        def evaluate(x):
            jacobian, value = jax.jacfwd(lambda x: (update(x),) * 2, has_aux=True)(x)
            return value - x, jacobian

        size = lambda difference: jnp.max(jnp.abs(difference))

        def propose(x, difference, jacobian, newton):
            step = jnp.linalg.solve(jnp.eye(x.size) - jacobian, difference)
            usable = newton & jnp.all(jnp.isfinite(step))
            return x + jnp.where(usable, step, (1 - damping) * difference), usable

        def go_on(state):
            residual = size(state.difference)
            return (residual > tolerance) & (state.steps < max_steps)

        def advance(state):
            difference, jacobian = evaluate(state.trial)
            better = size(difference) < 0.9 * size(state.difference)
            accepted = (better | ~state.was_newton) & jnp.all(jnp.isfinite(jacobian))
            accepted |= state.steps == 0
            pick = lambda new, old: jnp.where(accepted, new, old)
            x = pick(state.trial, state.x)
            difference = pick(difference, state.difference)
            jacobian = pick(jacobian, state.jacobian)
            cold = jnp.where(accepted, jnp.maximum(state.cold - 1, 0), warm_up)
            trial, newton = propose(x, difference, jacobian, cold == 0)
            return _Iterate(x, difference, jacobian, trial, newton, cold, state.steps + 1)

        # The start is also the first trial, so that the update is compiled only once.
        never = jnp.full_like(start, jnp.inf)
        first = _Iterate(
            x=start,
            difference=never,
            jacobian=jnp.zeros((start.size, start.size), start.dtype),
            trial=start,
            was_newton=jnp.asarray(False),
            cold=jnp.asarray(warm_up + 1),
            steps=jnp.asarray(0),
        )
        last = jax.lax.while_loop(go_on, advance, first)
        # A float, because custom_root differentiates everything that it returns.
        return last.x, (size(last.difference), last.steps.astype(float))

    def tangent_solve(linear, y):
        return jnp.linalg.solve(jax.jacobian(linear)(y), y)

    root, (residual, steps) = jax.lax.custom_root(
        lambda x: update(x) - x, start, solve, tangent_solve, has_aux=True
    )
    return Solution(root, residual, steps.astype(int), residual <= tolerance)
