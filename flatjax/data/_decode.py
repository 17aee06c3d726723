"""Decodes image files into 8-bit arrays with Pillow on all cores.

This module imports Pillow. `flatjax.data.from_folder` imports this module only when called.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import tqdm

# The content of a file decides, not its ending. Formats that start other programs are excluded.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_MODES = {1: "L", 3: "RGB"}
_ORIENTATION = 0x0112  # the tag of EXIF; Pillow turns TIFF files, and no others, by itself
_ON_ITS_SIDE = (5, 6, 7, 8)  # orientations; above 8 they mean nothing
_CHUNK = 64  # images that a thread takes at once
_SHOWN_PROBLEMS = 5
_SHOW_PROGRESS_AFTER = 5.0  # seconds


def decode_files(
    folder: Path, names: Sequence[str], size: tuple[int, int] | None, channels: int
) -> np.ndarray:
    """Decodes image files in threads; Pillow lets other threads run meanwhile.

    Args:
      folder: folder of the files.
      names: names of the files in the folder.
      size: (H, W) to which all images are scaled; None if all have one size.
      channels: 1 or 3.

    Returns:
      uint8 of shape (N, H, W, channels).

    Raises:
      ValueError: files cannot be decoded or differ in size; the message names the files.
    """
    expected = size or _size_of(folder / names[0])
    images = np.empty((len(names), *expected, channels), np.uint8)

    def decode_chunk(start: int) -> list[str]:
        problems = []
        for position in range(start, min(start + _CHUNK, len(names))):
            name = names[position]
            try:
                images[position] = read_image(folder / name, expected, channels, size is not None)
            except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
                problems.append(f"{name} ({error})")
        return problems

    starts = range(0, len(names), _CHUNK)
    bar = tqdm.tqdm(total=len(names), desc="decoding", delay=_SHOW_PROGRESS_AFTER, disable=None)
    problems: list[str] = []
    with bar, ThreadPoolExecutor(_num_cores()) as pool:
        for found in pool.map(decode_chunk, starts):
            problems += found
            bar.update(_CHUNK)
    if problems:
        more = len(problems) - _SHOWN_PROBLEMS
        shown = "; ".join(problems[:_SHOWN_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise ValueError(f"{folder}: {len(problems)} of {len(names)} images are refused: {shown}")
    return images


def _num_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_image(path: Path, size: tuple[int, int], channels: int, resize: bool) -> np.ndarray:
    """Decodes one image, as a viewer shows it.

    Args:
      path: the file.
      size: (H, W) of the result.
      channels: 1 or 3.
      resize: scale an image of another size to cover `size`, and crop it on two sides. Without
        `resize`, such an image is refused before it is decoded.

    Returns:
      uint8 of shape (H, W, channels).
    """
    with PIL.Image.open(path, formats=_FORMATS) as image:
        is_turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) != 1
        if resize:
            # JPEG files can be decoded at a half, a quarter, ... of their size in a fraction of the
            # time.
            image.draft(None, (2 * max(size),) * 2)
        elif (found := _shown_size(image)) != size:
            raise ValueError(
                f"{found[0]}x{found[1]} pixels high and wide, the first image has "
                f"{size[0]}x{size[1]}: pass `size` to scale all images (folder,size=32:PATH)"
            )
        if is_turned:
            PIL.ImageOps.exif_transpose(image, in_place=True)
        shown = _as_shown(image, _MODES[channels])
        if shown.size != size[::-1]:
            shown = PIL.ImageOps.fit(shown, size[::-1], PIL.Image.Resampling.BILINEAR)
        return np.asarray(shown).reshape(*size, channels)


def _as_shown(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    """Converts an image to 8 bits a channel, on a white background if transparent."""
    is_grey_map = image.mode == "I" and image.format == "PPM"  # which Pillow scales to 16 bits
    if image.mode.startswith("I;16") or is_grey_map:
        # Pillow's own conversion would clip values above 255, and forget which is transparent.
        values = np.asarray(image).astype(np.uint32)
        shown = np.where(values == image.info.get("transparency"), 65535, values)
        image = PIL.Image.fromarray(((255 * shown + 32767) // 65535).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of 32 bits, mode {image.mode}: their range is not known")
    if image.has_transparency_data:
        page = PIL.Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        image = page
    return image.convert(mode)


def _size_of(path: Path) -> tuple[int, int]:
    """Reads height and width from the header of a file, without decoding."""
    with PIL.Image.open(path, formats=_FORMATS) as image:
        return _shown_size(image)


def _shown_size(image: PIL.Image.Image) -> tuple[int, int]:
    """Returns height and width after rotation by the EXIF orientation."""
    lies = image.format != "TIFF" and image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE
    return image.size if lies else image.size[::-1]
