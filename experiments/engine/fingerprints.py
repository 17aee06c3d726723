"""Digests of arrays: of a state on any devices, and of data."""

import hashlib
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from flatjax import data

_ROWS = 4096  # examples that are copied at once


def of_arrays(tree: Any) -> str:
    """Computes a digest of a pytree: of paths, dtypes, shapes and every bit.

    It does not depend on the mesh or on the number of processes; all processes must call it.

    Examples:
      >>> of_arrays({"w": np.zeros(3)}) == of_arrays({"w": np.array([0.0, -0.0, 0.0])})
      False
    """
    value = hashlib.blake2b(digest_size=8)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = _on_host(leaf)
        # 15 ms for 25 MB; saving takes 180 ms, and BLAKE2 would take 70 ms.
        content = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        name = (jax.tree_util.keystr(path), str(leaf.dtype), leaf.shape, content)
        value.update(repr(name).encode())
    return value.hexdigest()


def _on_host(leaf):
    """Returns the whole of an array or of random keys, gathered from all devices."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def of_split(split: data.Split | data.TokenSplit) -> dict[str, Any]:
    """Returns the number of examples, and a digest of the data."""
    value = 0
    for array in split.arrays:
        for start in range(0, len(array), _ROWS):  # sequences in a file are not contiguous
            value = zlib.crc32(np.ascontiguousarray(array[start : start + _ROWS]), value)
    return {"examples": len(split), "crc32": f"{value:08x}"}
