"""The data set of a configuration: by name, or from a function of the user."""

import functools
import importlib
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from flatjax import data
from flatjax.data._arrays import is_mapped as _is_mapped
from flatjax.data._local import is_text

InMemory: TypeAlias = data.Dataset | data.TokenDataset
Split: TypeAlias = data.Split | data.TokenSplit
Examples: TypeAlias = data.DeviceSplit | data.DeviceTokens


def is_function(name: str) -> bool:
    """Whether a data set is package.module:function, and not folder:PATH."""
    is_local = re.match("(folder|npz|npy)[:,]", name) is not None
    return (
        not (is_local or is_text(name))
        and re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", name) is not None
    )


# Studies make many tasks of one data set; its arrays are never changed.
@functools.lru_cache(maxsize=1)
def load(name: str) -> InMemory | data.Stream:
    """Loads a data set; a function of the user is imported and called.

    Raises:
      ValueError: the name is unknown, or the function cannot be imported.
      TypeError: the function returns something else.
    """
    if is_text(name):
        return data.load_text(name)
    if not is_function(name):
        return data.load(name)
    module, _, function = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            "dataset must be a name that flatjax.data.load knows, or package.module:function that "
            f"Python can import from here, got {name!r} ({error})."
        ) from error
    found = make()
    if not isinstance(found, data.Dataset | data.TokenDataset | data.Stream):
        raise TypeError(
            f"dataset: {name} must return a flatjax.data.Dataset, a TokenDataset or a Stream, "
            f"got {type(found)}."
        )
    return found


def is_mapped(examples: Split) -> bool:
    """Whether examples lie in a file, so that processes need not hold all of them."""
    return _is_mapped(examples.arrays[0])


def load_in_memory(name: str) -> InMemory:
    """Loads a data set that must be in memory.

    Raises:
      ValueError: it is a stream; or an error of `load`.
    """
    dataset = load(name)
    if isinstance(dataset, data.Stream):
        raise ValueError(f"dataset must be in memory here, but {name} is a stream.")
    return dataset


def first_examples(stream: data.Stream, batch_size: int, at_least: int) -> data.Split:
    """Returns the first examples of a stream, in whole batches.

    Raises:
      ValueError: batches have another size than `batch_size`.
    """
    reader, found = stream.read(), []
    for _ in range(min(stream.num_batches, -(-at_least // batch_size))):
        found.append(next(reader))
        if len(found[0]) != batch_size:
            raise ValueError(
                f"batch_size must be {len(found[0])}, the size of the batches of {stream.name}, "
                f"got {batch_size}."
            )
    return joined(found)


def joined(splits: Sequence[data.Split]) -> data.Split:
    """Concatenates splits."""
    arrays: Any = ([getattr(split, name) for split in splits] for name in ("image", "label"))
    return data.Split(*map(np.concatenate, arrays))
