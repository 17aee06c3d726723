"""Weights and images that PyTorch and the tests make alike, so that none need be stored.

A tensor's values follow from its name and shape in PyTorch's state dictionary
(`layer1.0.conv1.weight`, (64, 64, 3, 3)); the tests find the name of each leaf of a linen network.
The scales keep activations of order 1 in deep residual networks whose norms use running statistics
that have nothing to do with the data, and let biases and means matter.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_LEAVES = {  # of linen, in PyTorch
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def uniform(name: str, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Numbers between `low` and `high`, the same for a name for ever (NumPy's raw bits are)."""
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(math.prod(shape))
    fraction = (bits >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
    return (low + (high - low) * fraction).astype(np.float32).reshape(shape)


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of this name in PyTorch, in PyTorch's layout (output channels first)."""
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        return uniform(name, shape, 0.5, 1.5)
    if leaf.endswith("weight") and len(shape) == 1:  # of a norm
        return uniform(name, shape, 0.3, 0.9)
    if leaf.endswith("weight"):
        limit = math.sqrt(3 * 2 / math.prod(shape[1:]))  # variance 2 / fan-in
        return uniform(name, shape, -limit, limit)
    return uniform(name, shape, -0.5, 0.5)  # biases, running means, tokens, embeddings


def images(*shape: int) -> np.ndarray:
    """Images (B, H, W, C) of variance 1."""
    return uniform("images", shape, -math.sqrt(3), math.sqrt(3))


def state_dict(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Values for PyTorch's state dictionary of these shapes."""
    return {name: value(name, tuple(shape)) for name, shape in shapes.items()}


def variables(shapes: Any, module_name: Callable[[tuple[str, ...]], str]) -> Any:
    """The same values for a linen network.

    Args:
      shapes: its variables (`jax.eval_shape` of `init`): "params" and "batch_stats" of
        convolutions, dense layers and norms.
      module_name: the name in PyTorch of the module at a path in linen, for example
        ("stage1_block0", "conv1") -> "layer1.0.conv1".
    """

    def fill(tree, modules):
        return {
            name: fill(entry, (*modules, name))
            if isinstance(entry, Mapping)
            else linen_value(f"{module_name(modules)}.{_LEAVES[name]}", entry.shape)
            for name, entry in tree.items()
        }

    return {collection: fill(tree, ()) for collection, tree in shapes.items()}


def linen_value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of this name in linen's layout of kernels, (..., inputs, outputs), and shape."""
    if len(shape) not in (2, 4):
        return value(name, shape)
    *spatial, inputs, outputs = shape
    outputs_first = value(name, (outputs, inputs, *spatial))
    return np.moveaxis(outputs_first, (0, 1), (-1, -2))
