"""Image files as arrays of 8 bits, decoded with Pillow on all cores.

This module imports Pillow; `flatjax.data.from_folder` imports it only when it is called.
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

# What a file holds decides, not how its name ends. Formats that start other programs are not here.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_MODES = {1: "L", 3: "RGB"}
_ORIENTATION = 0x0112  # the tag of EXIF; Pillow turns TIFF files, and no others, by itself
_CHUNK = 64  # images that a thread takes at once
_SHOWN_PROBLEMS = 5
_SHOW_PROGRESS_AFTER = 5.0  # seconds


def decode_files(
    folder: Path, names: Sequence[str], size: tuple[int, int] | None, channels: int
) -> np.ndarray:
    """Decodes image files in threads: Pillow lets others run while it decodes.

    Args:
      folder: where the files are.
      names: their names there.
      size: (H, W) to which all are brought; None if all have one size.
      channels: 1 or 3.

    Returns:
      uint8 of shape (N, H, W, channels).

    Raises:
      ValueError: files cannot be decoded, or sizes differ; the message names the files.
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
    """The cores that this process may use; all, where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_image(path: Path, size: tuple[int, int], channels: int, resize: bool) -> np.ndarray:
    """Decodes one image, as a viewer shows it.

    Args:
      path: the file.
      size: (H, W) of the result.
      channels: 1 or 3.
      resize: scale an image of another size to cover it, and cut off what is outside on two sides;
        without, such an image is refused before it is decoded.

    Returns:
      uint8 of shape (H, W, channels).
    """
    with PIL.Image.open(path, formats=_FORMATS) as image:
        is_turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) != 1
        if resize:
            # JPEG files decode to a half, a quarter, ... of their size in a fraction of the time.
            image.draft(None, (2 * max(size),) * 2)
        elif (found := _shown_size(image)) != size:
            raise ValueError(
                f"{found[0]}x{found[1]} pixels high and wide, the first image has "
                f"{size[0]}x{size[1]}: give a size to bring all to"
            )
        if is_turned:
            PIL.ImageOps.exif_transpose(image, in_place=True)
        shown = _as_shown(image, _MODES[channels])
        if shown.size != size[::-1]:
            shown = PIL.ImageOps.fit(shown, size[::-1], PIL.Image.Resampling.BILINEAR)
        return np.asarray(shown).reshape(*size, channels)


def _as_shown(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    """The image in a mode of 8 bits a channel: what is transparent shows a white page."""
    if image.mode.startswith("I;16"):  # Pillow's own conversion would cut off what is above 255
        values = np.asarray(image).astype(np.uint32)
        image = PIL.Image.fromarray(((255 * values + 32767) // 65535).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of 32 bits, mode {image.mode}: their range is not known")
    if image.has_transparency_data:
        page = PIL.Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        image = page
    return image.convert(mode)


def _size_of(path: Path) -> tuple[int, int]:
    """Height and width, from the header of a file: nothing is decoded."""
    with PIL.Image.open(path, formats=_FORMATS) as image:
        return _shown_size(image)


def _shown_size(image: PIL.Image.Image) -> tuple[int, int]:
    """Height and width after an image is turned as its EXIF orientation says."""
    lies = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) >= 5
    return image.size if lies else image.size[::-1]
