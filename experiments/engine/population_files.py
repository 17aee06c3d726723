"""The checkpoint of a population: one file, deleted when results are written.

The file is a zip of arrays (`numpy.savez`). Its entry "about" is JSON: the population's identity,
its position, and a digest of the arrays. A file of another population is replaced.
"""

import io
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from experiments.engine import fingerprints
from experiments.report import atomic, store

Nested = dict[str, Any]  # dictionaries of dictionaries of arrays


class PopulationFile:
    """The file of a population that may be interrupted.

    Args:
      path: the file.
      identity: everything except the program that determines the final models, as JSON values.
    """

    def __init__(self, path: pathlib.Path, identity: Mapping[str, Any]):
        self._path, self._identity = path, store.digest(identity)

    def save(self, position: dict[str, int], arrays: Nested) -> None:
        """Writes the population's position, and nested dictionaries of arrays."""
        flat = {
            name: _plain(np.asarray(leaf))
            for name, leaf in traverse_util.flatten_dict(arrays, sep="/").items()
        }
        digest = fingerprints.of_arrays(flat)
        about = {"identity": self._identity, "position": position, "digest": digest}
        file = io.BytesIO()
        np.savez(file, about=json.dumps(about), **flat)  # type: ignore[arg-type]
        atomic.write_bytes(self._path, file.getvalue())

    def restore(self) -> tuple[dict[str, int], Nested] | None:
        """Returns the arguments of `save`; None if there is no file of this population.

        Raises:
          DamagedFileError: the file is damaged.
        """
        if not self._path.exists():
            return None
        try:
            with np.load(self._path, allow_pickle=False) as archive:
                flat = {name: archive[name] for name in archive.files}
            about = json.loads(str(flat.pop("about")))
            is_whole = fingerprints.of_arrays(flat) == about["digest"]
        except Exception as error:  # wrong bits in headers cause any error
            raise store.DamagedFileError(
                f"{self._path} is damaged ({error}). Delete it."
            ) from error
        if not is_whole:
            raise store.DamagedFileError(f"{self._path} is damaged. Delete it.")
        if about["identity"] != self._identity:
            return None
        return about["position"], traverse_util.unflatten_dict(flat, sep="/")

    def remove(self) -> None:
        """Deletes the file, if there is one."""
        self._path.unlink(missing_ok=True)


def _plain(array):
    """Views numbers that NumPy's files do not know (bfloat16) as unsigned ones."""
    return array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array


def leaves_of(tree: chex.ArrayTree) -> Nested:
    """Returns the leaves of a pytree by number, random keys as their numbers."""
    is_key = lambda leaf: jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    plain = lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf
    return {str(number): plain(leaf) for number, leaf in enumerate(jax.tree.leaves(tree))}


def with_leaves(like: chex.ArrayTree, leaves: Nested) -> chex.ArrayTree:
    """Inverts `leaves_of`: makes a pytree like `like` with these leaves."""

    def restored(leaf, saved):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(saved, impl=jax.random.key_impl(leaf))
        return jnp.asarray(saved.view(leaf.dtype))

    flat, structure = jax.tree.flatten(like)
    pairs = zip(flat, (leaves[str(number)] for number in range(len(leaves))), strict=True)
    return jax.tree.unflatten(structure, [restored(*pair) for pair in pairs])
