"""Replicas: y copies of the parameters of one network, and their placement.

A pytree is *stacked* if its leaves carry a replica axis. Otherwise each program (of a vmap, pmap or
shard_map with a named axis) holds one replica. Functions here take two static arguments, alone or
together: `replica_axis` for stacked replicas and `axis_name` for a named axis. Both together mean a
local stack on each device of a mesh axis.
"""

import functools
from collections.abc import Sequence
from typing import Any

import chex
import jax
import numpy as np
import optax

from flatjax import _checks


def stacked_size(tree: Any, replica_axis: int = 0, name: str = "params") -> int:
    """Returns the number of stacked replicas; raises if leaves disagree.

    For a pytree without leaves, returns 0.
    """
    size = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        shape = np.shape(leaf)
        where = f"{name}{jax.tree_util.keystr(path)}"
        if len(shape) <= replica_axis:
            raise ValueError(
                f"{where} must carry a replica axis {replica_axis}, got shape {shape}. "
                "Stack the replicas first, see flatjax.stack_replicas."
            )
        if size and shape[replica_axis] != size:
            raise ValueError(
                f"{where} has {shape[replica_axis]} replicas on axis {replica_axis}, "
                f"other leaves have {size}: all leaves must agree."
            )
        size = shape[replica_axis]
        if size == 0:
            raise ValueError(f"{where} must hold at least one replica, got shape {shape}.")
    return size


def check_num_replicas(
    tree: Any, num_replicas: int | None, axis_name: str | None, replica_axis: int | None
) -> None:
    """Raises if leaves disagree on the number of replicas or do not match it.

    The size of a named axis is checked where it is known: not in `init`, which may run outside it.
    """
    size = 1 if replica_axis is None else stacked_size(tree, replica_axis)
    if num_replicas is None or size == 0:
        return
    if axis_name is not None:
        try:
            size *= jax.lax.axis_size(axis_name)
        except NameError:
            return
    if size != num_replicas:
        raise ValueError(
            f"params must hold num_replicas = {num_replicas} replicas, found {size}. Inside "
            "optax.flatten every weight would be a replica: flatten the optimizer of one replica, "
            "per_replica(optax.flatten(...)), and leave the coupling outside."
        )


def unstack_replicas(tree: chex.ArrayTree, replica_axis: int = 0) -> list[chex.ArrayTree]:
    """Splits a stacked pytree into its replicas.

    Args:
      tree: a stacked pytree.
      replica_axis: the axis along which its leaves are stacked.

    Returns:
      A list with one pytree for each replica.

    Raises:
      ValueError: the leaves disagree on the number of replicas.

    Examples:
      >>> import jax.numpy as jnp, flatjax
      >>> flatjax.unstack_replicas({"w": jnp.arange(2)})
      [{'w': Array(0, dtype=int32)}, {'w': Array(1, dtype=int32)}]

    See Also:
      `stack_replicas` (the other direction), `flatness.soup` (the mean of some of them).
    """
    return _split(tree, replica_axis, stacked_size(tree, replica_axis, "tree"))


# In one program; slices one by one would each be compiled.
@functools.partial(jax.jit, static_argnums=(1, 2))
def _split(tree, axis, size):
    take = lambda leaf, a: jax.lax.index_in_dim(leaf, a, axis, False)
    return [jax.tree.map(functools.partial(take, a=a), tree) for a in range(size)]


def per_replica(
    tx: optax.GradientTransformation, *, stacked_extra_args: Sequence[str] = ()
) -> optax.GradientTransformationExtraArgs:
    """Applies a transformation to each replica of stacked parameters separately.

    An elementwise transformation (SGD, Adam, ...) needs no wrapper on stacked parameters. A
    transformation that takes a norm (`clip_by_global_norm`, `lars`, `optax.contrib.sam`, ...) does:
    without the wrapper it would take the norm over all replicas. The state is the stack of the
    replicas' states.

    Do not wrap the coupling, which must see all replicas. Do not wrap transformations that hold a
    random key in their state: every replica would draw the same noise.

    Args:
      tx: the transformation.
      stacked_extra_args: names of the extra arguments of `update` that carry a leading replica
        axis, such as `("value",)`; all others are shared by the replicas.

    Returns:
      A transformation of stacked parameters.

    Examples:
      >>> import jax.numpy as jnp, optax, flatjax
      >>> tx = flatjax.per_replica(optax.clip_by_global_norm(1.0))
      >>> grads = jnp.array([[3.0, 4.0], [0.3, 0.4]])
      >>> clipped, _ = tx.update(grads, tx.init(grads))
      >>> clipped  # the second replica is below the threshold, and stays
      Array([[0.6, 0.8],
             [0.3, 0.4]], dtype=float32)

    See Also:
      `map_replicas` (the same for a function), `check_chain` (finds norms over all replicas).
    """
    tx = optax.with_extra_args_support(tx)

    def init_fn(params):
        has_replicas = stacked_size(params) > 0  # vmap needs at least one array
        return jax.vmap(tx.init)(params) if has_replicas else tx.init(params)

    def update_fn(updates, state, params=None, **extra_args):
        stacked = {name: extra_args[name] for name in stacked_extra_args if name in extra_args}
        shared = {name: value for name, value in extra_args.items() if name not in stacked}

        def update(updates, state, params, stacked):
            return tx.update(updates, state, params, **stacked, **shared)

        if not jax.tree.leaves(updates):
            return update(updates, state, params, stacked)
        return jax.vmap(update)(updates, state, params, stacked)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def replica_mesh(
    num_replicas: int, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
    """Makes a mesh `("replica", "data")` of all devices for y replicas.

    The size of the replica axis must divide y: each device then holds y / size replicas. The
    function takes the largest divisor of the number of devices that divides y, and gives the rest
    to the data axis.

    Args:
      num_replicas: y, the number of replicas.
      devices: the devices, all of `jax.devices()` by default.

    Returns:
      The mesh. Shard stacked pytrees with `NamedSharding(mesh, P("replica"))` and batches of shape
      (y, B, ...) with `P("replica", "data")`.

    Raises:
      ValueError: `num_replicas` is not positive, or there are no devices.

    Examples:
      >>> import jax, flatjax
      >>> dict(flatjax.replica_mesh(3, jax.devices()[:1]).shape)
      {'replica': 1, 'data': 1}

    See Also:
      `map_replicas` (runs a function on it), `stack_replicas` (places the stack on it), `diloco`
      (workers that communicate rarely).
    """
    _checks.check_count("num_replicas", num_replicas)
    devices = list(jax.devices() if devices is None else devices)
    if not devices:
        raise ValueError("devices must not be empty.")
    replica_size = int(np.gcd(num_replicas, len(devices)))
    grid = np.array(devices).reshape(replica_size, len(devices) // replica_size)
    return jax.sharding.Mesh(grid, ("replica", "data"))


def check_mesh_fit(num_replicas: int, mesh: jax.sharding.Mesh, axis: str = "replica") -> None:
    """Raises unless the size of the mesh axis divides the number of replicas."""
    if axis not in mesh.shape:
        raise ValueError(f"mesh must have an axis {axis!r}, got axes {tuple(mesh.shape)}.")
    size: Any = mesh.shape[axis]
    if num_replicas % size:
        fits = [d for d in range(1, num_replicas + 1) if num_replicas % d == 0]
        raise ValueError(
            f"{num_replicas} replicas do not fit the mesh axis {axis!r} of size {size}: its size "
            f"must divide the number of replicas (one of {fits}). See flatjax.replica_mesh."
        )
