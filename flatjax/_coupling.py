r"""Replicated-SGD: replicas attracted to their center.

Replicated-SGD minimises, over y replicas :math:`w_a` with center :math:`\bar w`,

.. math::
  L_R(\{w_a\}) = \sum_a L(w_a) + \frac{\gamma}{2} \sum_a \lVert w_a - \bar w \rVert^2 \tag{1}

[Pittorino et al., 2021, eq. 6; Baldassi et al., 2016]. The gradient for replica a is the gradient
of its own loss plus :math:`\gamma (w_a - \bar w)`. There are two forms of this coupling.

`couple_replicas` adds the second term to the gradient, before weight decay and momentum: the
paper's algorithm. This is an explicit Euler step. It is stable while learning_rate * gamma is below
2 (plain SGD), 2 (1 + b) (heavy ball with momentum b) or 2 (1 + b) / (1 + 2 b) (Nesterov; 1.36 at
b = 0.9). Do not put an adaptive preconditioner after it, which would rescale the force together
with the gradient.

`pull_to_center` contracts the replicas towards the center after the base optimizer, as AdamW
decays weights. It is stable for every gamma and works after any optimizer. With gamma = inf and a
period K it is local SGD (parameter averaging every K steps), and at K = 1 data-parallel SGD. With
an optimizer for the center (`outer`), it is DiLoCo.

This file holds the parts that the forms share; each form has its own file.
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
    """The checked arguments of every coupling; see `couple_replicas`."""

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
        """Where the replicas are: keyword arguments for `_center` and `_replicas`."""
        return {"axis_name": self.axis_name, "replica_axis": self.replica_axis}

    def displacement(self, leaf: jax.Array) -> jax.Array:
        """Computes w_a - center of one array, from what replicas send each other."""
        dtype = self.communication_dtype
        return communication.displacement(leaf, **self.where, dtype=dtype)  # in eq. (1)

    def mean(self, leaf: jax.Array) -> jax.Array:
        """Computes the center of one array from messages; stacks keep size 1."""
        return communication.mean(leaf, **self.where, dtype=self.communication_dtype)

    def check_params(self, params: optax.Params) -> None:
        """Raises if stacks have wrong sizes."""
        _replicas.check_num_replicas(params, self.num_replicas, **self.where)

    def check_start(self, scoping: schedules.BalancedScoping | Any, params: optax.Params) -> None:
        """Raises if stacks have wrong sizes, or if no gamma_0 can balance the start."""
        self.check_params(params)
        leaves = jax.tree.leaves(params)
        can_be_seen = leaves and all(_is_concrete(leaf) for leaf in leaves)
        if can_be_seen and self.axis_name is None:
            distance = lambda: _center.replica_distance(params, **self.where, mask=self.mask)
            scoping.check_start(distance)

    def measure(self, params: optax.Params, extra_args: dict[str, Any]) -> tuple[Any, jax.Array]:
        """Returns loss and distance, from which `BalancedScoping` starts."""
        # The two sums of eq. (1), divided by y.
        is_stacked = self.replica_axis is not None
        stacked = _replicas.stacked_size(params, self.replica_axis or 0) if is_stacked else None
        value = _center.mean_over_replicas(loss_of(extra_args, stacked), **self.where)
        return value, _center.replica_distance(params, **self.where, mask=self.mask)

    def when_coupled(self, count: jax.Array, couple: Callable[..., Any], *operands: Any) -> Any:
        """Calls `couple` at every period-th step; else returns the operands."""
        if self.period == 1:
            return couple(*operands)
        return when(count % self.period == self.last_step, couple, *operands)

    @property
    def last_step(self) -> int:
        """The first coupled step, counted from 0."""
        return (self.period - 1 + (self.offset or 0)) % self.period


def when(is_coupled: jax.Array, couple: Callable[..., Any], *operands: Any) -> Any:
    """Calls `couple` if `is_coupled`; otherwise returns the operands unchanged."""
    # A cond, not a select: replicas on different devices communicate only when coupled.
    keep = lambda *operands: operands if len(operands) > 1 else operands[0]
    return jax.lax.cond(is_coupled, couple, keep, *operands)


def _is_concrete(leaf) -> bool:
    return not isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct)
