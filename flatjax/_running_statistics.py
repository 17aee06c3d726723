r"""How an update changes running statistics, found by trying it.

Let s be a leaf of the statistics, m a momentum and :math:`\bar s` the statistics of a batch. An
update is one of

.. math:: s' = m s + (1 - m) \bar s \quad \text{(an average, in all libraries)} \tag{1}

.. math:: s' = \bar s \text{ after the first} \quad \text{(a debiased average, in Haiku)} \tag{2}

.. math:: s' = s + \text{const.} \quad \text{(a counter, in Haiku and Equinox)} \tag{3}

Three updates with the same batch decide which one it is: :math:`s_1` starts from zero, :math:`s_2`
from :math:`s_1`, and a third from a probe p, which gives the momentum. If (1) holds,
:math:`s_2 - s_1 = m s_1`; if (2) holds, the difference is 0.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from flatjax._precision import at_least_float32

REMAINDER = 1e-8  # largest weight of an average's start in the returned statistics
LARGEST_ERROR = 0.02  # largest relative error of 1 - m

Leaves = list[Any]


class Behaviour(NamedTuple):
    """How an update changes a leaf; both None if the change does not matter.

    Attributes:
      momentum: m in (1) or 0 in (2), with the shape of the leaf.
      step: the constant in (3).
    """

    momentum: Any = None
    step: Any = None


def measure(
    update: Callable[[Leaves], Leaves], old: Leaves
) -> tuple[Leaves, Leaves, list[Behaviour]]:
    """Finds an update's behaviour, and leaves that give a batch's statistics.

    Args:
      update: function of leaves that returns the leaves after an update with some batch.
      old: leaves before it; only shape and dtype of floating-point numbers are used.
    """
    start = [jnp.zeros_like(_wide(leaf)) if is_float(leaf) else leaf for leaf in old]
    first = update(start)
    steps = [_step(*pair) for pair in zip(old, first, strict=True)]
    if any(step is not None for step in steps):  # a debiased average needs its counter at 0
        start = [
            leaf if step is None else jnp.zeros_like(leaf)
            for leaf, step in zip(start, steps, strict=True)
        ]
        first = update(start)
    # The probe has about the size of the statistics: next to a large variance, 1 could be lost.
    probe = [
        1 + jnp.abs(_wide(one)) if is_float(one) else leaf
        for leaf, one in zip(start, first, strict=True)
    ]
    moved, second = update(probe), update([_wide(leaf) for leaf in first])
    rows = zip(steps, first, second, probe, moved, strict=True)
    behaviours = [
        _of_average(*leaves) if is_float(leaves[0]) else Behaviour(step=step)
        for step, *leaves in rows
    ]
    return start, [_wide(leaf) for leaf in first], behaviours


def settled(old: Leaves, total: Leaves, count: int, behaviours: list[Behaviour]) -> Leaves:
    """Turns the sum of `count` updates from zero into the limit of many updates.

    Counters are raised to many updates, too. Some averages are divided by 1 - m^counter when they
    are used, as in Equinox; with a high counter this is 1.
    """
    momenta = [np.max(b.momentum, initial=0.0) for b in behaviours if b.momentum is not None]
    largest = np.clip(max(momenta, default=0.0), 0.0, 1 - 1e-6)
    updates = np.ceil(np.log(REMAINDER) / np.log(largest)) if largest > 0 else 1.0

    def settle(old, total, behaviour):
        if behaviour.momentum is not None:
            return (total / (count * (1 - behaviour.momentum))).astype(jnp.result_type(old))
        if behaviour.step is None:
            return old
        dtype = jnp.result_type(old)
        raised = np.maximum(np.asarray(old), updates * behaviour.step)
        if not is_float(old):
            raised = np.minimum(raised, 2.0 ** (jnp.iinfo(dtype).bits - 2))
        return jnp.asarray(raised, dtype)

    return [settle(*leaves) for leaves in zip(old, total, behaviours, strict=True)]


def is_float(leaf: Any) -> bool:
    """Whether a leaf has floating-point numbers, and so may be an average."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _wide(leaf):
    return at_least_float32(leaf) if is_float(leaf) else leaf


def _step(before, after):
    """Returns the amount by which an integer leaf counts, or None."""
    if not jnp.issubdtype(jnp.result_type(before), jnp.integer):
        return None
    change = np.asarray(after, np.int64) - np.asarray(before, np.int64)
    counts = change.size > 0 and change.min() == change.max() > 0  # unlike raw random keys
    return int(change.flat[0]) if counts else None


def _of_average(first, second, probe, moved) -> Behaviour:
    """Returns the behaviour of a float leaf; raises if neither (1) nor (2) holds."""
    momentum = (_wide(moved) - _wide(first)) / probe
    s_1, s_2, m = (np.asarray(array, np.float64) for array in (first, second, momentum))
    square = np.sum(s_1**2)
    if not np.isfinite(square + np.sum(m)):
        return Behaviour(momentum=momentum)  # not finite: nor are the statistics
    if square == 0 and np.any(np.asarray(moved) != np.asarray(probe)):
        return Behaviour(momentum=jnp.where(momentum < 1, momentum, 0))
    if square > 0:
        mean, growth = np.sum(m * s_1**2) / square, np.sum((s_2 - s_1) * s_1) / square
        near = 0.05 + 0.3 * mean  # random layers of a network change between updates
        if np.all(m < 1) and abs(growth - mean) < near:
            _check_digits(first, mean)
            return Behaviour(momentum=momentum)  # (1)
        if abs(growth) < near and np.any(m != 1):
            return Behaviour(momentum=jnp.zeros_like(momentum))  # (2)
        if np.all(m == 1) and abs(growth - 1) < near:
            return Behaviour(step=s_1)  # (3)
    if np.any(m >= 1):
        raise ValueError(
            "update_stats_fn must move the statistics towards the batch's, but they did not "
            "change. Is the network in training mode, and its momentum below 1?"
        )
    raise ValueError(
        "update_stats_fn must change the statistics linearly, s <- m s + (1 - m) s_batch, got a "
        f"second update that adds {growth:.3g} of the first where m is {mean:.3g}."
    )


def _check_digits(first, momentum):
    dtype = jnp.result_type(first)
    error = float(jnp.finfo(dtype).eps) / 2 / (1 - momentum)
    if error > LARGEST_ERROR:
        raise ValueError(
            f"update_stats_fn must not round the statistics to {dtype}: their momentum, about "
            f"{momentum:.3g}, cannot be measured then. Compute the statistics in float32, the "
            "dtype of the input, and round the result of reestimate."
        )
