"""Digests of arrays: of a state, wherever its parts lie, and of data."""

import hashlib
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flatjax import data

_MULTIPLIER = 2654435761  # odd, so that each position weighs something else modulo 2^32


def of_arrays(tree: Any) -> str:
    """A digest of a pytree of arrays: of paths, dtypes, shapes and every bit.

    The sums are computed where the arrays lie, in whole numbers modulo 2^32, so that they do not
    depend on the mesh or on the number of processes.

    Examples:
      >>> of_arrays({"w": jnp.zeros(3)}) == of_arrays({"w": jnp.zeros(3).at[1].set(-0.0)})
      False
    """
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(tree), strict=True)
    sums = np.asarray(_sums(list(leaves)))
    names = [
        (jax.tree_util.keystr(path), str(leaf.dtype), leaf.shape)
        for path, leaf in zip(paths, leaves, strict=True)
    ]
    return hashlib.blake2b(repr((names, sums.tolist())).encode(), digest_size=8).hexdigest()


@jax.jit
def _sums(leaves):
    return jnp.stack([_sum(leaf) for leaf in leaves])


def _sum(leaf):
    """A plain sum and one weighted by position, of the words of an array, (2,)."""
    words = _words(leaf)
    position, stride = jnp.zeros((), jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        # Without a flat view, which would gather an array that is spread over devices.
        index = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        position = position + index * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    weight = position * jnp.uint32(_MULTIPLIER) | jnp.uint32(1)
    return jnp.stack([jnp.sum(words, dtype=jnp.uint32), jnp.sum(words * weight, dtype=jnp.uint32)])


def _words(leaf):
    """The bits of an array as uint32."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag])
    if leaf.dtype == bool:
        return leaf.astype(jnp.uint32)
    if leaf.dtype.itemsize == 8:
        return jax.lax.bitcast_convert_type(leaf, jnp.uint32)
    bits = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    return jax.lax.bitcast_convert_type(leaf, bits).astype(jnp.uint32)


def of_split(split: data.Split) -> dict[str, Any]:
    """How many examples, and a digest of images and labels."""
    value = 0
    for array in (split.image, split.label):
        value = zlib.crc32(np.ascontiguousarray(array), value)
    return {"examples": len(split), "crc32": f"{value:08x}"}
