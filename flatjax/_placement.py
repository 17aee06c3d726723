"""Runs a function of one replica for all: vmapped, unrolled or on a mesh."""

import functools
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from flatjax import _cpu, _replicas
from flatjax._keys import is_typed

PLACEMENTS = ("auto", "vmap", "unroll", "mesh")


def map_replicas(
    fn: Callable[..., Any],
    *,
    placement: str = "auto",
    in_axes: Sequence[int | None] | int = 0,
    mesh: jax.sharding.Mesh | None = None,
) -> Callable[..., Any]:
    """Lifts a function of one replica to stacked arguments, as `jax.vmap` does.

    The placement changes the program but not the result:

    - `"vmap"`: one batched program. It is best on GPU and TPU, and everywhere for dense layers.
    - `"unroll"`: y copies of the program inside one jit, which cost y times as much as one. A
      batched kernel turns a convolution into a grouped one, which on a CPU is about ten times
      slower than y plain ones. `flatjax.models.conv_general_dilated` avoids this, but the feature
      maps of y networks together no longer fit into a cache.
    - `"mesh"`: each device of the mesh axis `"replica"` runs its own replicas. Other axes of the
      mesh (`"data"`) stay automatic, so that batch norm sees the whole batch of a replica. Here
      JAX refuses collectives over a vmapped axis of `fn`, as in Equinox's batch norm.
    - `"auto"` (default): mesh if one is given, otherwise vmap. In programs for CPU, a function
      that contains a convolution is unrolled; it is therefore traced for both.

    Arguments are pytrees, including modules of Haiku, Equinox and NNX. Leaves that are not arrays
    (functions, strings, numbers, a flag such as `train=True`) are shared by the replicas. They
    reach `fn` unchanged and not traced. Results may have leaves that are neither arrays nor
    numbers; these are returned unchanged.

    Args:
      fn: a function of one replica's arguments, returning a pytree.
      placement: one of the names above.
      in_axes: 0 for arguments stacked along their leading axis, None for shared ones; one value or
        one for each positional argument. Arrays in keyword arguments must be stacked, as for
        `jax.vmap`.
      mesh: the mesh of the `"mesh"` placement, see `flatjax.replica_mesh`.

    Returns:
      A function of the stacked arguments that returns stacked results. It may be jitted,
      differentiated and called inside jit.

    Raises:
      ValueError: the placement is unknown, `"mesh"` is asked for without a mesh, y does not fit the
        mesh, or the arguments disagree on y.

    Examples:
      >>> import jax.numpy as jnp, flatjax
      >>> dot = flatjax.map_replicas(jnp.dot, in_axes=(0, None), placement="unroll")
      >>> dot(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1.0, 1.0]))
      Array([3., 7.], dtype=float32)

    See Also:
      `stack_replicas` (makes the stack), `replica_mesh` (several devices), `per_replica` (the same
      for an optimizer).
    """
    if placement not in PLACEMENTS:
        raise ValueError(f"placement must be one of {PLACEMENTS}, got {placement!r}.")
    if placement == "mesh" and mesh is None:
        raise ValueError("mesh must be given with placement='mesh': see flatjax.replica_mesh.")

    @functools.wraps(fn)
    def mapped(*args, **kwargs):
        call = _Call(fn, args, kwargs, _argument_axes(in_axes, args))
        if placement == "mesh" or (placement == "auto" and mesh is not None):
            return call.results(_over_mesh(call, mesh))
        place = {"vmap": _vmap, "unroll": _unroll, "auto": _auto}[placement]
        return call.results(place(call, call.arrays, call.size))

    return mapped


def stack_replicas(
    init_fn: Callable[[chex.PRNGKey], chex.ArrayTree], keys: chex.PRNGKey
) -> chex.ArrayTree:
    """Initialises one replica per key and stacks them along a leading axis.

    Independent keys give independent initialisations, from which Replicated-SGD starts. One
    repeated key (`jnp.stack([key] * y)`) gives a common initialisation.

    Args:
      init_fn: initialises one replica, `init_fn(key) -> params`. The result is any pytree, also a
        module of NNX or Equinox. Leaves that are not arrays (functions, strings) are shared by the
        replicas.
      keys: the keys, stacked: `jax.random.split(key, y)`.

    Returns:
      The pytree of `init_fn` with a leading axis of size y on every array.

    Raises:
      ValueError: `keys` is a single key.

    Examples:
      >>> import jax, flatjax
      >>> init_fn = lambda key: {"w": jax.random.normal(key, (4, 2))}
      >>> flatjax.stack_replicas(init_fn, jax.random.split(jax.random.key(0), 3))["w"].shape
      (3, 4, 2)

    See Also:
      `unstack_replicas` (the other direction), `map_replicas` (runs a function for each replica),
      `resize_replicas` (another number of replicas).
    """
    if getattr(keys, "ndim", None) != (1 if is_typed(keys) else 2):
        raise ValueError(
            f"keys must be a stack of keys, as jax.random.split(key, y) gives; got {keys!r}."
        )
    return map_replicas(init_fn, placement="vmap")(keys)


def _argument_axes(in_axes, args) -> tuple[int | None, ...]:
    axes = (in_axes,) * len(args) if in_axes is None or isinstance(in_axes, int) else tuple(in_axes)
    if len(axes) != len(args):
        raise ValueError(f"in_axes has {len(axes)} entries for {len(args)} positional arguments.")
    if any(axis not in (0, None) for axis in axes) or (args and set(axes) == {None}):
        raise ValueError(f"in_axes must hold 0 and None, and at least one 0; got {in_axes!r}.")
    return axes


class _Call:
    """A function and its arguments, callable with one replica's arrays.

    Attributes:
      arrays: the leaves of all arguments that are arrays.
      axes: 0 for each stacked array, None for each shared one.
      size: the number of replicas.
    """

    def __init__(self, fn, args, kwargs, axes):
        stacked = [arg for arg, axis in zip(args, axes, strict=True) if axis == 0] + [kwargs]
        only_arrays = lambda arg: arg if _is_leaf(arg) else jax.tree.map(_array_or_none, arg)
        self.size = _replicas.stacked_size([only_arrays(arg) for arg in stacked], 0, "arguments")
        if self.size == 0:
            raise ValueError("arguments stacked by in_axes must hold arrays, got none.")
        self._fn = fn
        self._leaves, self._treedef = jax.tree.flatten((args, kwargs))
        leaf_axes = [
            axis
            for arg, axis in zip((*args, kwargs), (*axes, 0), strict=True)
            for _ in jax.tree.leaves(arg)
        ]
        pairs = list(zip(self._leaves, leaf_axes, strict=True))
        self.arrays = [leaf for leaf, _ in pairs if _is_array(leaf)]
        self.axes = tuple(axis for leaf, axis in pairs if _is_array(leaf))

    def __call__(self, *arrays):
        """Returns the arrays and numbers among the results of one replica."""
        given = iter(arrays)
        leaves = [next(given) if _is_array(leaf) else leaf for leaf in self._leaves]
        args, kwargs = jax.tree.unflatten(self._treedef, leaves)
        results, self._result_treedef = jax.tree.flatten(self._fn(*args, **kwargs))
        is_mapped = lambda leaf: _is_array(leaf) or isinstance(leaf, numbers.Number)
        self._static_results = [None if is_mapped(leaf) else leaf for leaf in results]
        return [leaf for leaf in results if is_mapped(leaf)]

    def results(self, stacked):
        """Returns the function's result, with stacked arrays."""
        given = iter(stacked)
        leaves = [next(given) if leaf is None else leaf for leaf in self._static_results]
        return jax.tree.unflatten(self._result_treedef, leaves)


def _is_array(leaf):
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape")


def _array_or_none(leaf):
    return leaf if _is_array(leaf) else None


def _is_leaf(arg):
    return jax.tree.structure(arg) == jax.tree.structure(0)


def _take(call, arrays, index):
    """Takes the arrays of one replica."""
    pairs = zip(arrays, call.axes, strict=True)
    return [array if axis is None else array[index] for array, axis in pairs]


def _vmap(call, arrays, size):
    del size
    return jax.vmap(call, in_axes=call.axes)(*arrays)


def _auto(call, arrays, size):
    vmapped = lambda: _vmap(call, arrays, size)
    unrolled = lambda: _unroll(call, arrays, size)
    if size == 1:
        return unrolled()
    # The branches are traced on the arguments themselves: inside a shard_map, their types hold
    # more than shape and dtype.
    one_replica = lambda *arrays: call(*_take(call, arrays, 0))
    if not _cpu.contains_convolution(one_replica, *arrays):
        return vmapped()
    return _cpu.unrolled_or(unrolled, vmapped)


def _unroll(call, arrays, size):
    results = []
    for a in range(size):
        own = _take(call, arrays, a)
        if results:
            own = _cpu.after(results[-1], own)
        results.append(call(*own))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)


def _over_mesh(call, mesh):
    _replicas.check_mesh_fit(call.size, mesh)
    local_size = call.size // mesh.shape["replica"]
    spec_of = lambda axis: PartitionSpec() if axis is None else PartitionSpec("replica")
    return jax.shard_map(
        lambda *arrays: _auto(call, arrays, local_size),
        mesh=mesh,
        in_specs=tuple(map(spec_of, call.axes)),
        out_specs=PartitionSpec("replica"),
        axis_names={"replica"},
    )(*call.arrays)
