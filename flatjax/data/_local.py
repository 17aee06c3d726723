"""Loads the user's own data by a name, for the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from flatjax.data._arrays import from_npy, from_npz
from flatjax.data._dataset import Dataset
from flatjax.data._folder import from_folder
from flatjax.data._tokens import TokenDataset, from_text, from_tfds_text


def _size(text: str) -> tuple[int, int]:
    sides = [int(side) for side in text.split("x")]
    return sides[0], sides[-1]


def _count_or_fraction(text: str) -> float | int:
    return float(text) if "." in text else int(text)


def _flag(text: str) -> bool:
    return {"true": True, "false": False}[text]


_OPTIONS: dict[str, dict[str, Callable[[str], Any]]] = {
    "folder": {"size": _size, "channels": int, "test": _count_or_fraction},
    "npz": {"test": _count_or_fraction, "task": str},
    "npy": {"task": str},
    "text": {"unit": str, "context": int, "test": float, "files": str, "mapped": _flag},
    "tfds_text": {"unit": str, "context": int},
}


def load_local(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset | None:
    """Loads a name such as `"folder,size=64:PATH"`; returns None for other names.

    Raises:
      ValueError: an option is unknown or has an invalid value.
    """
    if (found := _parsed(name, "folder|npz|npy")) is None:
        return None
    kind, options, path = found
    if kind == "npz":
        return from_npz(path, **options, name=name)
    if kind == "npy":
        return from_npy(path, **options, name=name)
    return from_folder(path, **options, cache_dir=data_dir)


def load_text(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> TokenDataset:
    """Loads a text by its name, as the command line does.

    - `"text:PATH"`: a file or a folder, see `from_text`, whose options are written before the
      colon: `"text,unit=characters,context=64,test=0.2,files=*.py:PATH"`. A large file
      stays where it is: `"text,mapped=true:FILE"`.
    - `"tfds_text:NAME"`: a set of TensorFlow Datasets, see `from_tfds_text`:
      `"tfds_text,context=64:wiki40b/en"`.

    Args:
      name: one of the names above.
      data_dir: where prepared sets of TFDS are kept.

    Returns:
      The training and the test tokens.

    Raises:
      ValueError: there is no such name or option, and errors of these functions.

    Examples:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     file = pathlib.Path(folder, "abc.txt")
      ...     _ = file.write_text("abc" * 100)
      ...     load_text(f"text,unit=characters,context=8:{file}").train
      TokenSplit(tokens=uint8(33, 9))

    See Also:
      `from_text` (for a string), `from_tfds_text` (for TensorFlow Datasets).
    """
    if (found := _parsed(name, "text|tfds_text")) is None:
        raise ValueError(f"name must be 'text:PATH' or 'tfds_text:NAME', got {name!r}")
    kind, options, path = found
    if kind == "text":
        return from_text(path, **options, name=name)
    return from_tfds_text(path, **options, data_dir=data_dir)


def is_text(name: str) -> bool:
    """Whether `load_text` is who knows this name."""
    return re.match(r"(tfds_)?text[,:]", name) is not None


def _parsed(name: Any, kinds: str) -> tuple[str, dict[str, Any], str] | None:
    """Kind, options and path of a name; None if it is of no such kind."""
    if not isinstance(name, str) or not (found := re.fullmatch(f"({kinds})(,.*?)?:(.+)", name)):
        return None
    kind, written, path = found.groups()
    parsers, options = _OPTIONS[kind], {}
    for option in (written or "").split(",")[1:]:
        key, _, text = option.partition("=")
        try:
            options[key] = parsers[key](text)
        except (KeyError, ValueError):
            raise ValueError(
                f"{name}: options of {kind} are {', '.join(parsers)}, written "
                f"{kind},{_EXAMPLES[kind]}:PATH or the like, got {option!r}"
            ) from None
    return kind, options, path


_EXAMPLES = {
    "folder": "size=64x48,test=0.2",
    "npz": "test=0.2",
    "npy": "task=regression",
    "text": "unit=characters,test=0.2",
    "tfds_text": "unit=characters,context=64",
}
