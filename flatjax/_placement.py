"""One function of one replica, run for all replicas: vmapped, unrolled or spread over a mesh."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from flatjax import _cpu, _replicas

PLACEMENTS = ("auto", "vmap", "unroll", "mesh")


def map_replicas(
    fn: Callable[..., Any],
    *,
    placement: str = "auto",
    in_axes: Sequence[int | None] | int = 0,
    mesh: jax.sharding.Mesh | None = None,
) -> Callable[..., Any]:
    """Lifts a function of one replica to stacked arguments, as `jax.vmap` does.

    The placement changes the program, not the result:

    - `"vmap"`: one batched program. Best on GPU and TPU, and everywhere for dense layers.
    - `"unroll"`: y copies of the program inside one jit, which cost y times one. On a CPU a
      convolution whose kernel is batched becomes a grouped one, about ten times slower than y
      plain ones; `flatjax.models.conv_general_dilated` does not, but the maps of y networks
      together no longer fit a cache.
    - `"mesh"`: each device of the mesh axis `"replica"` runs its own replicas; other axes of the
      mesh (`"data"`) stay automatic, so that batch norm sees the whole batch of a replica.
    - `"auto"` (default): mesh where one is given, else vmapped; if the function contains a
      convolution, it is unrolled in programs for CPU. It is then traced for both.

    Args:
      fn: a function of one replica's arguments (pytrees), returning a pytree of arrays.
      placement: one of the above.
      in_axes: 0 for arguments stacked along their leading axis, None for shared ones; one value or
        one for each positional argument.
      mesh: the mesh of the `"mesh"` placement, see `flatjax.replica_mesh`.

    Returns:
      A function of the stacked arguments that returns stacked results. It may be jitted,
      differentiated and called inside jit.

    Raises:
      ValueError: unknown placement; mesh placement without a mesh; y does not fit the mesh;
        arguments disagree on y.

    Examples:
      >>> import jax.numpy as jnp, flatjax
      >>> dot = flatjax.map_replicas(jnp.dot, in_axes=(0, None), placement="unroll")
      >>> dot(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1.0, 1.0]))
      Array([3., 7.], dtype=float32)
    """
    if placement not in PLACEMENTS:
        raise ValueError(f"placement must be one of {PLACEMENTS}, got {placement!r}.")
    if placement == "mesh" and mesh is None:
        raise ValueError("placement='mesh' needs mesh, see flatjax.replica_mesh.")

    @functools.wraps(fn)
    def mapped(*args):
        axes = _argument_axes(in_axes, args)
        size = _replicas.stacked_size(
            [arg for arg, axis in zip(args, axes, strict=True) if axis == 0], 0, "arguments"
        )
        if size == 0:
            raise ValueError("arguments stacked by in_axes must hold arrays, got none.")
        if placement == "mesh" or (placement == "auto" and mesh is not None):
            return _over_mesh(fn, args, axes, size, mesh)
        if placement == "vmap":
            return jax.vmap(fn, in_axes=axes)(*args)
        place = _unroll if placement == "unroll" else _auto
        return place(fn, args, axes, size)

    return mapped


def _argument_axes(in_axes, args) -> tuple[int | None, ...]:
    axes = (in_axes,) * len(args) if in_axes is None or isinstance(in_axes, int) else tuple(in_axes)
    if len(axes) != len(args):
        raise ValueError(f"in_axes has {len(axes)} entries for {len(args)} positional arguments.")
    if any(axis not in (0, None) for axis in axes) or all(axis is None for axis in axes):
        raise ValueError(f"in_axes must hold 0 and None, and at least one 0; got {in_axes!r}.")
    return axes


def _take(args, axes, index):
    return [
        arg if axis is None else jax.tree.map(lambda leaf: leaf[index], arg)
        for arg, axis in zip(args, axes, strict=True)
    ]


def _auto(fn, args, axes, size):
    vmapped = lambda: jax.vmap(fn, in_axes=axes)(*args)
    unrolled = lambda: _unroll(fn, args, axes, size)
    if size == 1:
        return unrolled()
    # Traced where it runs, on the arguments themselves: inside a shard_map their types say more
    # than shape and dtype.
    one_replica = lambda *args: fn(*_take(args, axes, 0))
    if not _cpu.contains_convolution(one_replica, *args):
        return vmapped()
    return _cpu.unrolled_or(unrolled, vmapped)


def _unroll(fn, args, axes, size):
    results = []
    for a in range(size):
        replica_args = _take(args, axes, a)
        if results:
            replica_args = _cpu.after(results[-1], replica_args)
        results.append(fn(*replica_args))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)


def _over_mesh(fn, args, axes, size, mesh):
    _replicas.check_mesh_fit(size, mesh)

    def local(*args):
        return map_replicas(fn, in_axes=axes)(*args)

    specs = tuple(PartitionSpec() if axis is None else PartitionSpec("replica") for axis in axes)
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=specs,
        out_specs=PartitionSpec("replica"),
        axis_names={"replica"},
    )(*args)
