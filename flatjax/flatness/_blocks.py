"""Blocks of the weights, as masks that can be compared and hashed."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import chex
import jax

from flatjax import _masks, _vectors
from flatjax._masks import Mask
from flatjax.flatness import _inputs

ALL = "all"  # the block of all weights that move
LAYERS = "layers"


@dataclasses.dataclass(frozen=True)
class FrozenMask:
    """A mask as a function; masks that mark the same leaves are equal.

    Attributes:
      structure: tree structure of the parameters.
      marks: the mask's bools, one for each leaf.
    """

    structure: Any
    marks: tuple[bool, ...]

    def __call__(self, params: chex.ArrayTree) -> chex.ArrayTree:
        """Returns the pytree of bools."""
        return jax.tree.unflatten(self.structure, self.marks)


def masks_of(
    params: chex.ArrayTree, mask: Mask, blocks: Mapping[str, Mask] | str | None
) -> dict[str, Mask]:
    """Makes the masks of all weights that move and of the requested blocks.

    Raises:
      ValueError: no weights move, of the mask or of a block, or a block is named like the block of
        all weights.
      TypeError: `blocks` is neither a mapping nor "layers".
    """
    _inputs.measured(params, mask)  # raises if no weight moves
    every = None if mask is None else _frozen(params, mask)
    masks: dict[str, Mask] = {ALL: every}
    if blocks is None:
        return masks
    if blocks == LAYERS:
        blocks = _layers(params, mask)
    if not isinstance(blocks, Mapping):
        raise TypeError(f"blocks must be {{name: mask}} or {LAYERS!r}, got {blocks!r}.")
    for name, own in blocks.items():
        if name == ALL:
            raise ValueError(f"blocks must not be named {ALL!r}: that is the block of all weights.")
        masks[name] = _frozen(params, mask, own)
        if not size_of(params, masks[name]):
            raise ValueError(f"blocks[{name!r}] must mark weights that move, got none.")
    return masks


def size_of(params: chex.ArrayTree, mask: Mask) -> int:
    """Counts the weights that move."""
    return _vectors.size(_inputs.weights(params, mask))


def paths_of(tree: chex.ArrayTree) -> list[str]:
    """Returns the paths of the leaves, such as "dense/kernel"."""
    paths = [path for path, _ in jax.tree.leaves_with_path(tree)]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]


def _frozen(params, *masks) -> FrozenMask:
    """Returns the mask of the leaves that all given masks mark."""
    moving = [
        jax.tree.leaves(_masks.moving(params, mask), is_leaf=lambda leaf: leaf is None)
        for mask in masks
    ]
    marks = tuple(all(leaf is not None for leaf in leaves) for leaves in zip(*moving, strict=True))
    return FrozenMask(_structure(params), marks)


def _structure(params):
    return jax.tree.structure(params, is_leaf=lambda leaf: leaf is None)


def _layers(params, mask) -> dict[str, Mask]:
    """Makes a mask for each top-level entry of the parameters that has weights."""
    entries = jax.tree.leaves_with_path(params, is_leaf=lambda node: node is not params)
    if len(entries) < 2:
        raise ValueError(
            "blocks='layers' needs parameters with several entries at the top level, such as one "
            f"per layer; got {len(entries)}. Pass the part that holds them, or {{name: mask}}."
        )
    masks: dict[str, Mask] = {}
    for number, (path, _) in enumerate(entries):
        marks = [
            i == number
            for i, (_, entry) in enumerate(entries)
            for _ in jax.tree.leaves(entry, is_leaf=lambda leaf: leaf is None)
        ]
        one = FrozenMask(_structure(params), tuple(marks))
        if size_of(params, _frozen(params, mask, one)):
            masks[jax.tree_util.keystr(path, simple=True, separator="/")] = one
    return masks
