r"""Low-precision messages between replicas: their displacement from the center.

The couplings of flatjax need only the displacement :math:`w_a - \bar w` of each replica a from the
center. With a `communication_dtype` each replica sends rounded weights :math:`q_a = Q(w_a)`
instead of :math:`w_a`. The displacement is then computed from the sent values of the y replicas,

.. math:: d_a = q_a - \frac{1}{y} \sum_b q_b \tag{1}

so that it still sums to zero and rounding does not move the center. Replicas that agree feel no
force. The rounding error :math:`w_a - q_a` stays with its replica and is not lost.

- A floating-point dtype (bfloat16) rounds every weight to it.
- int8 rounds to multiples of one scale for each leaf and replica,
  :math:`Q(w) = s \, \mathrm{round}(w / s)` with :math:`s = \max |w| / 127`.

The real and the imaginary part of complex weights are sent as two separate leaves.

Sums of int8 would overflow and sums of bfloat16 lose digits. Therefore the messages are gathered
and not reduced. With b bytes per weight, a device receives (y - 1) b bytes for each weight. A ring
all-reduce in float32 receives 8 (y - 1) / y bytes. Gathering is cheaper while y < 8 / b: below 4
replicas (one per device) in bfloat16, and below 8 in int8.
"""

import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jax.typing import DTypeLike

from flatjax import _checks
from flatjax._center import leaf_center
from flatjax._replicas import stacked_size

__all__ = ["displacement", "mean"]


def displacement(
    leaf: jax.Array,
    *,
    axis_name: str | None = None,
    replica_axis: int | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    r"""Computes the displacement of replicas from their center, for one array.

    Args:
      leaf: the weights :math:`w_a`.
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread.
      replica_axis: axis of the leaves along which replicas are stacked.
      dtype: dtype of the messages: floating-point or int8. None takes the mean in at least
        float32.

    Returns:
      :math:`d_a`, like `leaf`, in at least float32.

    Raises:
      ValueError: neither `axis_name` nor `replica_axis` is given, the array has no such axis, or
        `dtype` is neither floating-point nor int8.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax.communication import displacement
      >>> displacement(jnp.array([[0.0, 1.0], [2.0, 5.0]]), replica_axis=0)
      Array([[-1., -2.],
             [ 1.,  2.]], dtype=float32)

    See Also:
      `mean` (the center alone), `flatjax.couple_replicas` (sends such messages).
    """
    where = _checked(leaf, axis_name, replica_axis, dtype)
    leaf = jnp.asarray(leaf)
    if dtype is None:
        return leaf - leaf_center(leaf, **where)
    # eq. (1)
    return _of_parts(lambda part: operator.sub(*_exchange(part, **where, dtype=dtype)), leaf)


def mean(
    leaf: jax.Array,
    *,
    axis_name: str | None = None,
    replica_axis: int | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    r"""Computes the mean over replicas of their messages, for one array.

    Args:
      leaf: the values of each replica: weights, or displacements from a point that all know.
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread.
      replica_axis: axis of the leaves along which replicas are stacked.
      dtype: dtype of the messages: floating-point or int8. None takes the mean in at least
        float32.

    Returns:
      :math:`\frac{1}{y} \sum_b q_b`, in at least float32. A stacked axis is kept with size 1.

    Raises:
      ValueError: neither `axis_name` nor `replica_axis` is given, the array has no such axis, or
        `dtype` is neither floating-point nor int8.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax.communication import mean
      >>> mean(jnp.array([[0.0, 1.0], [2.0, 5.0]]), replica_axis=0)
      Array([[1., 3.]], dtype=float32)

    See Also:
      `displacement` (from this mean), `flatjax.replica_center` (for a whole pytree).
    """
    where = _checked(leaf, axis_name, replica_axis, dtype)
    leaf = jnp.asarray(leaf)
    if dtype is None:
        return leaf_center(leaf, **where)
    return _of_parts(lambda part: _exchange(part, **where, dtype=dtype)[1], leaf)


def _checked(leaf, axis_name, replica_axis, dtype) -> dict[str, Any]:
    """Checks the arguments, and returns where the replicas are."""
    _checks.check_replica_placement(axis_name, replica_axis)
    _checks.check_communication_dtype(dtype, "dtype")
    if replica_axis is not None:
        stacked_size(leaf, replica_axis, "leaf")
    return {"axis_name": axis_name, "replica_axis": replica_axis}


def _of_parts(fn, leaf):
    """Applies a function to a real array, or to both parts of a complex one."""
    return jax.lax.complex(fn(leaf.real), fn(leaf.imag)) if jnp.iscomplexobj(leaf) else fn(leaf)


def _exchange(leaf, *, axis_name, replica_axis, dtype):
    """Returns a replica's message and the mean of all messages, for one array."""
    encode, decode = _codec(leaf, replica_axis, dtype)
    sent = encode(leaf)
    own = decode(sent)  # q_a in eq. (1)
    if replica_axis is not None:
        sent = jax.tree.map(lambda part: _gather_stack(part, replica_axis), sent)
    if axis_name is None:
        return own, jnp.mean(decode(sent), axis=replica_axis, keepdims=True)
    received = jax.vmap(decode)(jax.lax.all_gather(sent, axis_name))
    if replica_axis is not None:
        received = jnp.mean(received, axis=replica_axis + 1, keepdims=True)
    return own, jnp.mean(received, axis=0)


def _codec(leaf, replica_axis, dtype):
    """Returns two functions: from weights to the arrays of a message, and back."""
    full = jnp.promote_types(leaf.dtype, jnp.float32)
    if jnp.dtype(dtype) == jnp.int8:
        own_axes = tuple(axis for axis in range(leaf.ndim) if axis != replica_axis)

        def encode(w):
            w = w.astype(full)
            # NaN weights give a NaN scale. Integers alone would hide them.
            scale = jnp.max(jnp.abs(w), axis=own_axes, keepdims=True, initial=0.0) / 127
            return jnp.round(w / jnp.where(scale == 0, 1, scale)).astype(jnp.int8), scale

        return encode, lambda sent: sent[0].astype(full) * sent[1]

    # The numbers are sent as bits: XLA's CPU backend would send bfloat16 as float32.
    bits = f"uint{8 * jnp.dtype(dtype).itemsize}"
    encode = lambda w: jax.lax.bitcast_convert_type(w.astype(dtype), bits)
    return encode, lambda sent: jax.lax.bitcast_convert_type(sent, dtype).astype(full)


def _gather_stack(sent, replica_axis):
    """Makes the partitioner of a mesh gather messages, not their float32 sums."""
    axis_types = jax.sharding.get_abstract_mesh().axis_types
    if not axis_types or any(kind != AxisType.Auto for kind in axis_types):
        return sent
    spec = [PartitionSpec.UNCONSTRAINED] * sent.ndim
    spec[replica_axis] = None
    return jax.lax.with_sharding_constraint(sent, PartitionSpec(*spec))
