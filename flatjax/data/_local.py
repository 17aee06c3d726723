"""Loads the user's own data by a name, for the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from flatjax.data._arrays import from_npz
from flatjax.data._dataset import Dataset
from flatjax.data._folder import from_folder


def _size(text: str) -> tuple[int, int]:
    sides = [int(side) for side in text.split("x")]
    return sides[0], sides[-1]


def _count_or_fraction(text: str) -> float | int:
    return float(text) if "." in text else int(text)


_OPTIONS: dict[str, dict[str, Callable[[str], Any]]] = {
    "folder": {"size": _size, "channels": int, "test": _count_or_fraction},
    "npz": {"test": _count_or_fraction},
}


def load_local(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset | None:
    """Loads a name such as `"folder,size=64:PATH"`; returns None for other names.

    Raises:
      ValueError: an option is unknown or has an invalid value.
    """
    if not isinstance(name, str) or not (found := re.fullmatch(r"(folder|npz)(,.*?)?:(.+)", name)):
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
                f"{kind},size=64x48,test=0.2:PATH or the like, got {option!r}"
            ) from None
    if kind == "npz":
        return from_npz(path, **options, name=name)
    return from_folder(path, **options, cache_dir=data_dir)
