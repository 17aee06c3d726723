"""The devices of a run: one device, or a mesh of one or several processes.

A mesh has two axes: the replicas are spread over `replica`, and the batch of each replica over
`data`. The placement does not change the results, except that another order of sums rounds
differently. A run can therefore continue on other devices.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import flatjax
from experiments.engine.config import TrainConfig
from flatjax._cpu import compiled_once

AXES = ("replica", "data")


def make_mesh(text: str, config: TrainConfig) -> Mesh:
    """Makes the mesh of `--mesh`.

    Args:
      text: sizes of the axes, `"replica=3,data=2"`; a missing axis has size 1. `"auto"` uses all
        devices, with as many as possible along the replica axis.
      config: the run, which must fit the mesh.

    Returns:
      A mesh of the first devices, of all processes. Neighbours on the data axis communicate in
      every step; where possible, they belong to one process.

    Raises:
      ValueError: the text has another form, asks for more devices than there are, or leaves a
        process without a device; or the run does not fit. The message names the nearest choice.
    """
    devices = jax.devices()
    if text == "auto":
        mesh = flatjax.replica_mesh(config.num_replicas, devices)
        check_fit(mesh, config)
        return mesh
    if not re.fullmatch(r"(replica|data)=[1-9]\d*(,(replica|data)=[1-9]\d*)?", text):
        raise ValueError(f"mesh must read replica=3,data=2 (one of them, or both) or auto: {text}.")
    pairs = [part.split("=") for part in text.split(",")]
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError(f"mesh must name each axis once, got {text}.")
    sizes = {name: int(size) for name, size in pairs}
    replica, data = (sizes.get(name, 1) for name in AXES)
    _check_sizes(replica, data, config)
    _check_devices(replica, data, config, devices)
    grid = np.array(devices[: replica * data]).reshape(replica, data)
    return Mesh(grid, AXES)


def check_fit(mesh: Mesh, config: TrainConfig) -> None:
    """Raises unless the mesh has both axes and the run divides over them."""
    if mesh.axis_names != AXES:
        raise ValueError(f"mesh must have the axes {AXES}, got {mesh.axis_names}.")
    _check_sizes(mesh.shape["replica"], mesh.shape["data"], config)


def _check_sizes(replica, data, config):
    if config.num_replicas % replica:
        nearest = _nearest_divisor(config.num_replicas, replica)
        raise ValueError(
            f"mesh: replica={replica} does not divide the {config.num_replicas} replicas of "
            f"{config.algorithm.name}; the nearest size that does is replica={nearest}."
        )
    if config.batch_size % data:
        below = config.batch_size // data * data
        fits = " or ".join(str(size) for size in (below, below + data) if size)
        raise ValueError(
            f"batch_size must divide over data={data} of the mesh, got {config.batch_size}; the "
            f"nearest that does is {fits}, or data={_nearest_divisor(config.batch_size, data)}."
        )


def _check_devices(replica, data, config, devices):
    if replica * data > len(devices):
        most = max(n for n in range(1, len(devices) + 1) if replica % n == 0)
        fits = max(n for n in range(1, len(devices) // most + 1) if config.batch_size % n == 0)
        raise ValueError(
            f"mesh: replica={replica},data={data} needs {replica * data} devices, there are "
            f"{len(devices)}; the nearest that fits is replica={most},data={min(fits, data)}."
        )
    used = {device.process_index for device in devices[: replica * data]}
    if len(used) < jax.process_count():
        auto = flatjax.replica_mesh(config.num_replicas, devices).shape
        raise ValueError(
            f"mesh: replica={replica},data={data} leaves some of the {jax.process_count()} "
            f"processes without a device; all of them are used by replica={auto['replica']},"
            f"data={auto['data']}."
        )


def _nearest_divisor(number, size):
    """Returns the nearest divisor; of two at equal distance, the larger one."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return min(divisors, key=lambda d: (abs(d - size), -d))


@dataclasses.dataclass(frozen=True)
class OneDevice:
    """A run on JAX's default device, with the interface of `OnMesh`."""

    mesh: Mesh | None = None

    def check_fit(self, config: TrainConfig) -> None:
        """Every run fits one device."""

    def jit_init(self, init: Callable[..., Any], state: chex.ArrayTree) -> Callable[..., Any]:
        """Compiles a function that returns a state like `state`."""
        del state
        return jax.jit(init, compiler_options=compiled_once())

    def jit_draw(self, draw: Callable[..., Any], like: chex.ArrayTree) -> Callable[..., Any]:
        """Prepares a function that returns the order of an epoch and a key."""
        del like
        return draw

    def jit_training(self, steps: Callable[..., Any], state: chex.ArrayTree) -> Callable[..., Any]:
        """Compiles (hyper, state, ...) -> (state, losses); the old state is donated."""
        del state
        return jax.jit(steps, donate_argnums=1)

    def constrain(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns the batch of a training step, inside jit."""
        return batch

    def constrain_weights(self, tree: chex.ArrayTree) -> chex.ArrayTree:
        """Returns a pytree like the parameters, inside jit."""
        return tree

    def shardings(self, state: chex.ArrayTree) -> chex.ArrayTree:
        """Returns the shardings of a state's arrays."""
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.tree.map(lambda leaf: device, state)

    def put(self, tree: chex.ArrayTree) -> chex.ArrayTree:
        """Moves numbers and arrays from the host to the device."""
        return jax.tree.map(jnp.asarray, tree)

    def put_rows(self, tree: chex.ArrayTree) -> chex.ArrayTree:
        """Moves rows of batches (n, y, B, ...) from the host to the device."""
        return self.put(tree)

    def own_replicas(self, num_replicas: int) -> Sequence[int]:
        """Returns the replicas whose batches this process holds."""
        return range(num_replicas)

    def local(self, tree: chex.ArrayTree) -> chex.ArrayTree:
        """Returns a pytree for measurements."""
        return tree


@dataclasses.dataclass(frozen=True)
class OnMesh:
    """A run whose arrays are spread over a mesh.

    Attributes:
      mesh: the mesh.
      shard: whether to spread weights, gradients and optimizer state of a replica over `data`,
        instead of keeping them whole on each of its devices.
    """

    mesh: Mesh
    shard: bool = False

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of arrays that every device holds whole."""
        return NamedSharding(self.mesh, P())

    @property
    def stacked(self) -> NamedSharding:
        """The sharding of arrays with a leading replica axis."""
        return NamedSharding(self.mesh, P("replica"))

    @property
    def batch(self) -> NamedSharding:
        """The sharding of batches (y, B, ...)."""
        return NamedSharding(self.mesh, P("replica", "data"))

    @property
    def order(self) -> NamedSharding:
        """The sharding of batches in a row, (n, y, B)."""
        return NamedSharding(self.mesh, P(None, "replica", "data"))

    def check_fit(self, config: TrainConfig) -> None:
        """Raises a ValueError unless the run divides over the mesh."""
        check_fit(self.mesh, config)

    def shardings(self, state: chex.ArrayTree) -> chex.ArrayTree:
        """Returns the shardings of a state's arrays.

        Stacked arrays are spread over `replica`. Shared ones (counts, couplings, keys, the center
        of DiLoCo) are on all devices. With `shard`, each is also spread along its longest axis over
        `data`.
        """
        return jax.tree.map(lambda leaf: NamedSharding(self.mesh, self._spec(leaf.shape)), state)

    def _spec(self, shape):
        replica, data = (self.mesh.shape[name] for name in AXES)
        if not shape:
            return P()
        names = ["replica" if shape[0] % replica == 0 else None] + [None] * (len(shape) - 1)
        fits = [axis for axis, size in enumerate(shape) if axis > 0 and size % data == 0]
        if self.shard and data > 1 and fits:
            names[max(fits, key=lambda axis: shape[axis])] = "data"
        while names and names[-1] is None:
            del names[-1]
        return P(*names)

    def jit_init(self, init: Callable[..., Any], state: chex.ArrayTree) -> Callable[..., Any]:
        """Compiles a function that returns a state like `state`, made in place."""
        shardings = self.shardings(state)
        return jax.jit(init, out_shardings=shardings, compiler_options=compiled_once())

    def jit_draw(self, draw: Callable[..., Any], like: chex.ArrayTree) -> Callable[..., Any]:
        """Compiles a function that returns the order of an epoch and a key."""
        of = lambda leaf: self.order if leaf.ndim else self.replicated
        return jax.jit(draw, out_shardings=jax.tree.map(of, like))

    def jit_training(self, steps: Callable[..., Any], state: chex.ArrayTree) -> Callable[..., Any]:
        """Compiles (hyper, state, ...) -> (state, losses); the old state is donated."""
        shardings = (self.shardings(state), self.stacked)
        jitted = jax.jit(steps, donate_argnums=1, out_shardings=shardings)
        # Virtual devices share threads. If a second step were started, a device could wait in a
        # collective for a device that waits for its thread, and XLA would end the process.
        local = self.mesh.local_devices
        are_virtual = len(local) > 1 and local[0].platform == "cpu"

        def on_mesh(*arguments):
            # Set the mesh, so that the coupling knows over which axis to gather rounded weights.
            with jax.set_mesh(self.mesh):
                found = jitted(*arguments)
            return jax.block_until_ready(found) if are_virtual else found

        return on_mesh

    def put(self, tree: chex.ArrayTree) -> chex.ArrayTree:
        """Moves numbers and arrays, equal in all processes, to every device."""
        return jax.tree.map(functools.partial(_place, self.replicated), tree)

    def put_rows(self, tree: chex.ArrayTree) -> chex.ArrayTree:
        """Moves rows of batches (n, y, B, ...) from the host to the replicas' devices.

        A process needs only the batches of its own replicas.
        """
        return jax.tree.map(functools.partial(_place, self.order), tree)

    def own_replicas(self, num_replicas: int) -> Sequence[int]:
        """Returns the replicas of which this process holds batches, or parts of batches."""
        parts = self.stacked.addressable_devices_indices_map((num_replicas,)).values()
        found = [range(num_replicas)[index[0]] for index in parts if index is not None]
        return sorted({replica for part in found for replica in part})

    def constrain(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Spreads the batch of a training step over the mesh, inside jit."""
        # There are one or a few keys per replica, not per example.
        of = lambda name: self.stacked if name == "key" else self.batch
        return jax.lax.with_sharding_constraint(batch, {name: of(name) for name in batch})

    def constrain_weights(self, tree: chex.ArrayTree) -> chex.ArrayTree:
        """Spreads a pytree like the parameters in the same way, inside jit."""
        return jax.lax.with_sharding_constraint(tree, self.shardings(tree)) if self.shard else tree

    @functools.cached_property
    def _gather(self):
        return jax.jit(lambda tree: tree, out_shardings=self.replicated)

    def local(self, tree: chex.ArrayTree) -> chex.ArrayTree:
        """Copies a pytree to the first device of each process, for measurements."""
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), self._gather(tree))


def _place(sharding, leaf):
    leaf = np.asarray(leaf, jnp.result_type(leaf))
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])


Placement: TypeAlias = OneDevice | OnMesh
