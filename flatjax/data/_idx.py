"""Reader for IDX files, the format of MNIST and its relatives.

A file starts with a magic number: two zero bytes, 8 for unsigned bytes, and the number of
dimensions. The dimensions follow as big-endian 32-bit integers, then the bytes. The file may be
compressed with gzip.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np

_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 8


def read_idx(
    path: str | os.PathLike[str],
    shape: tuple[int, ...],
    *,
    sha256: str | None = None,
    hint: str = "",
) -> np.ndarray:
    """Reads an IDX file of unsigned bytes of a known shape.

    Args:
      path: the file, plain or compressed with gzip. Its first bytes decide, not its name.
      shape: the expected shape.
      sha256: published digest of the unpacked file; not checked if None.
      hint: how to get a good file, added to every error message.

    Returns:
      uint8 of shape `shape`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not an IDX file of this shape. The magic number, dimensions or length are
        wrong, the compression is damaged, or it is not the published file.

    Examples:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "labels-idx1-ubyte")
      ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3]) + bytes([7, 8, 9]))
      ...     read_idx(path, (3,))
      array([7, 8, 9], dtype=uint8)
    """
    path = Path(path)
    header = struct.pack(f">4B{len(shape)}I", 0, 0, _UNSIGNED_BYTE, len(shape), *shape)
    size = len(header) + int(np.prod(shape))
    if not path.is_file():
        raise FileNotFoundError(
            _message(path, f"expected an IDX file of shape {shape}, but there is no file", hint)
        )
    with path.open("rb") as file:
        compressed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    try:
        with gzip.open(path) if compressed else path.open("rb") as file:
            content = file.read(size + 1)  # one byte more, to detect a file that is too long
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(_message(path, f"damaged gzip file ({error})", hint)) from error
    if content[:4] != header[:4]:
        raise ValueError(
            _message(
                path,
                f"expected the magic number {header[:4].hex(' ')} (unsigned bytes, "
                f"{len(shape)} dimensions), got {content[:4].hex(' ') or 'an empty file'}",
                hint,
            )
        )
    if content[4 : len(header)] != header[4:]:
        raise ValueError(
            _message(
                path,
                f"expected the dimensions {shape}, "
                f"got {_dimensions(content[4 : len(header)])} in its header",
                hint,
            )
        )
    if len(content) != size:
        came = "more" if len(content) > size else str(len(content))
        raise ValueError(_message(path, f"expected {size} bytes, got {came}", hint))
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        problem = f"expected the published file, of SHA-256 {sha256}, got {found}: it is damaged"
        raise ValueError(_message(path, problem, hint))
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


def _dimensions(content: bytes) -> tuple[int, ...]:
    whole = len(content) // 4
    return struct.unpack(f">{whole}I", content[: 4 * whole])


def _message(path: Path, problem: str, hint: str) -> str:
    return f"{path}: {problem}" + (f". {hint}" if hint else "")
