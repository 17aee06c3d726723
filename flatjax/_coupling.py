r"""Replicated-SGD: replicas attracted to their center.

Replicated-SGD minimises, over y replicas :math:`w_a` with center :math:`\bar w`,

.. math:: L_R(\{w_a\}) = \sum_a L(w_a) + \frac{\gamma}{2} \sum_a \lVert w_a - \bar w \rVert^2

[Pittorino et al., 2021, eq. 6; Baldassi et al., 2016]. Its gradient is each replica's own plus
:math:`\gamma (w_a - \bar w)`. Two forms of the coupling are offered.

`couple_replicas` adds that term to the gradient, before weight decay and momentum: the paper's
algorithm. It is explicit Euler, stable while learning_rate * gamma stays below 2 (plain SGD),
2 (1 + b) (heavy ball) or 2 (1 + b) / (1 + 2 b) (Nesterov, 1.36 at b = 0.9), and loses its meaning
behind an adaptive preconditioner, which rescales it with the gradient.

`pull_to_center` contracts the replicas towards the center after the base optimizer, the way AdamW
decays weights: stable for every gamma and sound behind any optimizer. With gamma = inf and a period
K it is local SGD (parameter averaging every K steps), and at K = 1 data-parallel SGD. With an
optimizer of its own for the center (`outer`), it is DiLoCo.

This file holds what the forms share; each has a file of its own.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.typing import DTypeLike

from flatjax import _center, _checks, _replicas, communication, schedules
from flatjax._masks import Mask
from flatjax._schedules import loss_of


@dataclasses.dataclass(frozen=True)
class Coupling:
    """The arguments that all forms of the coupling share, checked; see `couple_replicas`."""

    axis_name: str | None
    replica_axis: int | None
    period: int
    offset: int | None
    mask: Mask
    communication_dtype: DTypeLike | None
    num_replicas: int | None

    def __post_init__(self) -> None:
        _checks.check_replica_placement(self.axis_name, self.replica_axis)
        _checks.check_count("period", self.period)
        if self.offset is not None:
            _checks.check_count("offset", self.offset, minimum=0)
        if (self.offset or 0) >= self.period:
            raise ValueError(f"offset must be < period = {self.period}, got {self.offset}.")
        _checks.check_communication_dtype(self.communication_dtype)
        if self.num_replicas is not None:
            _checks.check_count("num_replicas", self.num_replicas)

    @property
    def where(self) -> dict[str, Any]:
        """Where the replicas are, as the functions of `_center` and `_replicas` take it."""
        return {"axis_name": self.axis_name, "replica_axis": self.replica_axis}

    def displacement(self, leaf: jax.Array) -> jax.Array:
        """Computes w_a - center of one array, from what replicas send each other."""
        dtype = self.communication_dtype
        return communication.displacement(leaf, **self.where, dtype=dtype)

    def mean(self, leaf: jax.Array) -> jax.Array:
        """Computes the center of one array from what replicas send; a stacked axis has size 1."""
        return communication.mean(leaf, **self.where, dtype=self.communication_dtype)

    def check_params(self, params: optax.Params) -> None:
        """Raises on stacks of wrong sizes."""
        _replicas.check_num_replicas(params, self.num_replicas, **self.where)

    def check_start(self, scoping: schedules.BalancedScoping | Any, params: optax.Params) -> None:
        """Raises on stacks of wrong sizes, and on a start that no gamma_0 balances."""
        self.check_params(params)
        leaves = jax.tree.leaves(params)
        can_be_seen = leaves and all(_is_concrete(leaf) for leaf in leaves)
        if can_be_seen and self.axis_name is None:
            distance = lambda: _center.replica_distance(params, **self.where, mask=self.mask)
            scoping.check_start(distance)

    def measure(self, params: optax.Params, extra_args: dict[str, Any]) -> tuple[Any, jax.Array]:
        """The loss and the distance of the replicas, from which `BalancedScoping` starts."""
        is_stacked = self.replica_axis is not None
        stacked = _replicas.stacked_size(params, self.replica_axis or 0) if is_stacked else None
        value = _center.mean_over_replicas(loss_of(extra_args, stacked), **self.where)
        return value, _center.replica_distance(params, **self.where, mask=self.mask)

    def when_coupled(self, count: jax.Array, couple: Callable[..., Any], *operands: Any) -> Any:
        """Couples at every period-th step; returns the operands as they are at the others."""
        if self.period == 1:
            return couple(*operands)
        return when(count % self.period == self.last_step, couple, *operands)

    @property
    def last_step(self) -> int:
        """The first step that ends in a coupling; steps count from 0."""
        return (self.period - 1 + (self.offset or 0)) % self.period


def when(is_coupled: jax.Array, couple: Callable[..., Any], *operands: Any) -> Any:
    """Couples if told to; else returns the operands as they are."""
    # A cond, not a select: replicas on different devices communicate only when coupled.
    keep = lambda *operands: operands if len(operands) > 1 else operands[0]
    return jax.lax.cond(is_coupled, couple, keep, *operands)


def _is_concrete(leaf) -> bool:
    return not isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct)
