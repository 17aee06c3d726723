"""Caches expensive arrays in files, which store what they were made from."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

ENVIRONMENT_VARIABLE = "FLATJAX_CACHE_DIR"


def default_folder() -> Path:
    """Returns FLATJAX_CACHE_DIR, else flatjax in XDG_CACHE_HOME or ~/.cache."""
    if folder := os.environ.get(ENVIRONMENT_VARIABLE):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "flatjax")


def cached_array(
    path: Path, identity: Mapping[str, Any], make: Callable[[], np.ndarray]
) -> np.ndarray:
    """Reads an array from a file, or makes it and writes the file.

    The file is an uncompressed zip file (`numpy.savez`). Its CRC-32 checksums are checked when it
    is read. It is written whole or not at all.

    Args:
      path: the file, with the ending npz. Its folder is created if necessary.
      identity: everything that the array depends on, as JSON. A file of another identity is
        replaced.
      make: function that makes the array.

    Returns:
      The array.

    Warns:
      UserWarning: the file is damaged and is made again, or it cannot be written.
    """
    text = json.dumps(identity, sort_keys=True)
    if (found := _read(path, text)) is not None:
        return found
    array = make()
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(temporary, identity=text, array=array)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        warnings.warn(
            f"{path} cannot be written ({error}): the next time, the same work is done again. Set "
            f"{ENVIRONMENT_VARIABLE} to a folder that can.",
            stacklevel=3,
        )
    return array


def _read(path: Path, identity: str) -> np.ndarray | None:
    """Reads the array of a file; None if there is none of this identity."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return archive["array"] if str(archive["identity"]) == identity else None
    except Exception as error:  # of any kind if bits of the headers are wrong
        warnings.warn(f"{path} is damaged ({error}): it is made again.", stacklevel=4)
        return None
