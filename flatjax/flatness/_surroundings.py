"""Configurations around a solution, made of normal noise, and their energies."""

from collections.abc import Iterable
from types import MappingProxyType
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from flatjax import _additivity, _cpu, _masks, _sums, _vectors
from flatjax._evaluation import EvalFn, check_eval_fn
from flatjax._masks import Mask
from flatjax.flatness import _inputs, _quantities, priors

PRIORS = MappingProxyType(
    {
        "additive": priors.additive,
        "multiplicative": priors.multiplicative,
        "sphere": priors.sphere,
        "relative_sphere": priors.relative_sphere,
    }
)


class Surroundings(NamedTuple):
    """A solution and its data, for sampling.

    Attributes:
      params: the solution.
      batches: the data, as one iterable that can be iterated again.
      state: further inputs of `eval_fn`.
      num_weights: n, the number of weights that move.
      one_by_one: whether to evaluate configurations one after another and not vmapped.
    """

    params: chex.ArrayTree
    batches: Iterable[Any]
    state: tuple[Any, ...]
    num_weights: int
    one_by_one: bool

    @property
    def is_small(self) -> bool:
        """Whether many steps can be compiled into one program: one batch, vmapped."""
        return isinstance(self.batches, tuple) and not self.one_by_one


class Landscape:
    """Energies of configurations, by programs for all solutions of equal shapes."""

    def __init__(self, eval_fn: EvalFn, quantity: str, prior: str | priors.Prior, mask: Mask):
        check_eval_fn(eval_fn)
        self._eval_fn, self._quantity, self._mask = eval_fn, quantity, mask
        self._prior = _as_prior(prior)
        self._place = jax.jit(jax.vmap(self._place_one, in_axes=(None, 0, None)))
        self._add_all = jax.jit(self._add_to_all)
        self._add_one = jax.jit(self._add_to_one)

    def around(
        self, params: chex.ArrayTree, batches: _inputs.Batches, state: tuple[Any, ...]
    ) -> Surroundings:
        """Checks a solution and its data."""
        params, data = _inputs.measured(params, self._mask), _inputs.repeatable(batches)
        num_weights = _vectors.size(_inputs.weights(params, self._mask))
        first = next(iter(data))
        _additivity.check_once(self._eval_fn, params, first, state, compiled=True)
        one_by_one = _cpu.prefers_unrolled(self._energy, params, first, *state)
        batches = tuple(data) if data.in_memory and len(data) == 1 else data
        return Surroundings(params, batches, state, num_weights, one_by_one)

    def energies(self, near: Surroundings, noise: jax.Array, distance: chex.Numeric) -> jax.Array:
        """Computes energies (...) of the configurations made of noise (..., n)."""
        rows = noise.reshape(-1, near.num_weights)
        totals = self._sums(near, self._place(near.params, rows, distance), len(rows))
        return totals.reshape(noise.shape[:-1])

    def reference(self, near: Surroundings) -> float:
        """Computes the energy of the solution itself."""
        only = jax.tree.map(lambda w: jnp.asarray(w)[None], near.params)
        return float(self._sums(near, only, 1)[0])

    def _sums(self, near, networks, count):
        totals = _sums.zeros(jax.ShapeDtypeStruct((count,), jnp.result_type(float)))
        for batch in near.batches:
            if near.one_by_one:
                for index in range(count):
                    totals = self._add_one(totals, index, networks, batch, *near.state)
            else:
                totals = self._add_all(totals, networks, batch, *near.state)
        return totals.high

    def _add_to_all(self, totals, networks, batch, *state):
        energy = jax.vmap(lambda params: self._energy(params, batch, *state))(networks)
        return _sums.add(totals, energy)

    def _add_to_one(self, totals, index, networks, batch, *state):
        network = jax.tree.map(lambda leaf: leaf[index], networks)
        return _sums.add_at(totals, index, self._energy(network, batch, *state))

    def _energy(self, params, batch, *state):
        return _quantities.scalar(self._eval_fn(params, batch, *state), self._quantity)

    def _place_one(self, params, noise, distance):
        moving = _inputs.weights(params, self._mask)
        moved = self._prior(moving, _vectors.unravel(noise, moving), distance)
        return _masks.map_moving(lambda w, new: new, params, moved)


def _as_prior(prior):
    """Returns the prior of this name, or the function itself."""
    if callable(prior):
        return prior
    if prior not in PRIORS:
        raise ValueError(f"prior must be a function or one of {sorted(PRIORS)}, got {prior!r}.")
    return PRIORS[prior]
