"""Energies and gradients of several networks near a solution, batch by batch."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax import _additivity, _cpu, _masks, _sums, _vectors
from flatjax._evaluation import EvalFn, check_eval_fn, check_sums
from flatjax._masks import Mask
from flatjax.flatness import _inputs, _quantities


class Solution(NamedTuple):
    """A solution and its data, for Langevin chains.

    Attributes:
      params: the solution.
      data: the batches.
      stacked: the batches as one pytree with a leading axis, for compiled loops; or None.
      state: further inputs of `eval_fn`.
      num_batches: K.
      num_examples: n, the sum of counts.
      energy: E at the solution, a total.
      slope: g, the gradient of E for the d weights that move, (d,).
      one_by_one: whether to differentiate networks one after another and not vmapped.
    """

    params: chex.ArrayTree
    data: _inputs.Data
    stacked: Any
    state: tuple[Any, ...]
    num_batches: int
    num_examples: float
    energy: float
    slope: jax.Array
    one_by_one: bool


class AtSolution(NamedTuple):
    """The sums of one batch at the solution.

    Attributes:
      energy: E_b.
      slope: g_b, (d,).
      count: the number of examples.
    """

    energy: jax.Array
    slope: jax.Array
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count


class Minibatches:
    """Energies and gradients as functions of the weights' displacement."""

    def __init__(self, eval_fn: EvalFn, quantity: str, mask: Mask):
        check_eval_fn(eval_fn)
        self._eval_fn, self._quantity, self._mask = eval_fn, quantity, mask
        self._add = jax.jit(lambda totals, *given: _sums.add(totals, self.at_solution(*given)))

    def around(
        self, params: chex.ArrayTree, batches: _inputs.Batches, state: tuple[Any, ...]
    ) -> Solution:
        """Checks a solution and its data, and reads them once."""
        params, data = _inputs.measured(params, self._mask), _inputs.repeatable(batches)
        first = next(iter(data))
        _additivity.check_once(self._eval_fn, params, first, state, compiled=True)
        totals = _sums.zeros(jax.eval_shape(self.at_solution, params, first, state))
        num_batches, shapes = 0, set()
        for batch in data:
            totals = self._add(totals, params, batch, state)
            num_batches += 1
            leaves: Any = jax.tree.leaves(batch)
            shapes.add(tuple((np.shape(leaf), str(jnp.result_type(leaf))) for leaf in leaves))
        one_by_one = _cpu.prefers_unrolled(self.at_solution, params, first, state)
        can_stack = data.in_memory and len(shapes) == 1 and not one_by_one
        return Solution(
            params=params,
            data=data,
            stacked=jax.tree.map(lambda *xs: jnp.stack(xs), *data) if can_stack else None,
            state=state,
            num_batches=num_batches,
            num_examples=_exact(totals.count),
            energy=_exact(totals.energy),
            slope=totals.slope.high,
            one_by_one=one_by_one,
        )

    def at_solution(self, params: chex.ArrayTree, batch: Any, state: tuple[Any, ...]) -> AtSolution:
        """Computes the sums of one batch at the solution."""
        delta = jnp.zeros_like(_flat(_inputs.weights(params, self._mask)))
        (energy, count), slope = self._energy_and_slope(delta, params, batch, state)
        return AtSolution(energy, slope, count)

    def at(
        self,
        delta: jax.Array,
        params: chex.ArrayTree,
        batch: Any,
        state: tuple[Any, ...],
        one_by_one: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """Computes energies (C,) of a batch and gradients (C, d) at displacements (C, d)."""
        one = lambda row: self._energy_and_slope(row, params, batch, state)
        if one_by_one:
            found = [one(row) for row in delta]
            (energy, _), slope = jax.tree.map(lambda *xs: jnp.stack(xs), *found)
        else:
            (energy, _), slope = jax.vmap(one)(delta)
        return energy, slope

    def _energy_and_slope(self, delta, params, batch, state):
        def energy(delta):
            moving = _inputs.weights(params, self._mask)
            moved = _masks.map_moving(jnp.add, params, _vectors.unravel(delta, moving))
            sums = check_sums(self._eval_fn(moved, batch, *state))
            total = _quantities.differentiable(sums, self._quantity)
            return total.astype(delta.dtype), jnp.asarray(sums["count"])

        return jax.value_and_grad(energy, has_aux=True)(delta)


def _flat(tree: chex.ArrayTree) -> jax.Array:
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _exact(total: _sums.Sum) -> float:
    return float(total.high) + float(total.low)
