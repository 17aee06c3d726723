"""A data set from a folder of images, one folder for each class."""

from __future__ import annotations

import collections
import hashlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flatjax._checks import check_count
from flatjax.data import _cache
from flatjax.data._dataset import Dataset, Split
from flatjax.data._subsets import split_validation

ENDINGS = ("jpg", "jpeg", "png", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm")
_TEST_FOLDERS = ("test", "val", "valid", "validation")
_OF_SYSTEMS = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")
_VERSION = 2  # version of the decoding: a new one invalidates all caches


class _File(NamedTuple):
    """An image file: its name in the folder, with slashes, and its size and time."""

    name: str
    label: int
    size: int
    time: int


def from_folder(
    path: str | os.PathLike[str],
    *,
    test: float | int | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int = 3,
    cache: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Loads images from a folder that holds one folder for each class.

    The layout is the one of torchvision's `ImageFolder` and Keras's `image_dataset_from_directory`:
    `PATH/train/CLASS/*.jpg` and `PATH/test/CLASS/*.jpg`. The folder `test` may also be called
    `val`, `valid` or `validation`. If there is no folder of test images, or the classes are
    directly in `PATH`, the argument `test` says how many images are set aside for testing.

    Classes are the folders, sorted by name. In each class images are sorted by name, including
    images in subfolders. Hidden files and folders are left out, and so are files that macOS,
    Windows and NAS systems add. Files of other kinds are left out with a warning that counts them.
    Images are read as a viewer shows them: rotated by their EXIF orientation, on white if
    transparent, CMYK and palettes as colours, 16 bits as 8, and only the first of several pictures.

    Images are decoded on all cores, and the result is cached. If the path, an option, or the name,
    size or time of change of a file differs, images are decoded again. 60,000 JPEG files of 32x32
    pixels take 22 s of CPU time, and 0.9 s from the cache.

    Args:
      path: the folder.
      test: number or fraction of the images that are set aside for testing. Each class gives its
        share, and the same images are drawn every time (`split_validation` with seed 0).
      size: size of the result, one number or (height, width). An image is scaled to cover it and
        cropped on two sides. By default all images must have one size.
      channels: 3, or 1 for grey.
      cache: whether to keep the decoded images. They take their full size in uint8.
      cache_dir: folder of the cache; the default is the environment variable FLATJAX_CACHE_DIR,
        else ~/.cache/flatjax.

    Returns:
      The data set, with `class_names`. All of it is held in memory.

    Raises:
      FileNotFoundError: there is no such folder, or a class has no images.
      ValueError: images cannot be decoded, differ in size, or belong to no class or to a class
        without training images. Or `test` is missing, or given although there are test images. The
        message names the files.
      ImportError: Pillow is missing.

    Examples:
      >>> import pathlib, tempfile
      >>> import PIL.Image
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     for name in ("train/cat/1.png", "train/dog/1.png", "test/cat/2.png"):
      ...         file = pathlib.Path(folder, name)
      ...         file.parent.mkdir(parents=True, exist_ok=True)
      ...         PIL.Image.new("RGB", (12, 8)).save(file)
      ...     pets = from_folder(folder, cache=False)
      >>> pets.train, pets.class_names
      (Split(image=uint8(2, 8, 12, 3), label=int32(2,)), ('cat', 'dog'))

    See Also:
      `from_arrays` (for arrays), `load` (for known data sets), `Stream` (for data that do not fit
      into memory).
    """
    root = Path(path).expanduser().absolute()
    height_width = _checked_size(size)
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels!r}")
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder")
    train_folder, test_folder = _parts(root)
    if (test is None) == (test_folder is None):
        raise ValueError(_explained(root, test, test_folder))
    classes = _class_folders(root / train_folder)
    others: collections.Counter[str] = collections.Counter()
    files = _labelled(root, train_folder, classes, others)
    _check_classes(root / train_folder, classes, files)
    num_train = len(files)
    if test_folder is not None:
        files += _labelled(root, test_folder, classes, others)
        if len(files) == num_train:
            raise FileNotFoundError(f"{root / test_folder}: there are no images")
    _warn_of(root, others)
    everything = Split(
        image=_images(root, files, height_width, channels, cache, cache_dir),
        label=np.array([file.label for file in files], np.int32),
    )
    if test is None:
        split = everything[:num_train], everything[num_train:]
    else:
        split = split_validation(everything, test, seed=0)
    return Dataset(f"folder:{path}", *split, len(classes), tuple(classes))


def _checked_size(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    height, width = size if isinstance(size, tuple | list) and len(size) == 2 else (size, size)
    return check_count("size", height, minimum=1), check_count("size", width, minimum=1)


# --- the contents of the folder -----------------------------------------------------------------


def _parts(root: Path) -> tuple[str, str | None]:
    """Returns the names of the folders of training and test images."""
    # Without folders in it, "train" is a class (as "bus" would be).
    if not (root / "train").is_dir() or not any(e.is_dir() for e in _visible(root / "train")):
        return "", None
    return "train", next((name for name in _TEST_FOLDERS if (root / name).is_dir()), None)


def _explained(root: Path, test: Any, test_folder: str | None) -> str:
    if test is None:
        return (
            f"test must say how many of the images in {root} are for testing (test=0.2, or a "
            f"number; by name folder,test=0.2:{root}): there is no folder of test images "
            f"({', '.join(_TEST_FOLDERS)}) next to a folder train"
        )
    return f"test must not be given: {root / str(test_folder)} holds test images"


def _class_folders(folder: Path) -> list[str]:
    """Returns the classes, sorted."""
    classes = []
    for entry in _visible(folder):
        if entry.is_dir():
            classes.append(entry.name)
        elif _ending(entry.name) in ENDINGS:
            raise ValueError(f"{entry.path}: this image has no class, expected {folder}/CLASS/*")
    if not classes:
        raise FileNotFoundError(f"{folder}: there are no folders of classes, expected CLASS/*.jpg")
    return classes


def _labelled(
    root: Path, part: str, classes: list[str], others: collections.Counter[str]
) -> list[_File]:
    """Lists the images of one part, class by class.

    `others` counts the endings of other files.
    """
    folder = root / part
    if unknown := [name for name in _class_folders(folder) if name not in classes]:
        raise ValueError(f"{folder / unknown[0]}: this class has no training images")
    files = []
    for label, name in enumerate(classes):
        start = f"{part}/{name}" if part else name
        if not (root / start).is_dir():
            continue
        for file, entry in _walk(root / start, start):
            if (ending := _ending(entry.name)) in ENDINGS:
                stat = entry.stat()
                files.append(_File(file, label, stat.st_size, stat.st_mtime_ns))
            else:
                others[ending] += 1
    return files


def _check_classes(folder: Path, classes: list[str], files: list[_File]) -> None:
    present = {file.label for file in files}
    empty = [name for label, name in enumerate(classes) if label not in present]
    if empty:
        raise FileNotFoundError(
            f"{folder / empty[0]}: this class has no images (*.{', *.'.join(ENDINGS)})"
        )


def _walk(folder: Path, name: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    for entry in _visible(folder):
        inside = f"{name}/{entry.name}"
        if entry.is_dir():
            yield from _walk(Path(entry.path), inside)
        else:
            yield inside, entry


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """Lists a folder by name, without hidden files and system files."""
    with os.scandir(folder) as entries:
        found = [one for one in entries if one.name[0] != "." and one.name not in _OF_SYSTEMS]
    return sorted(found, key=lambda entry: entry.name)


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""


def _warn_of(root: Path, others: collections.Counter[str]) -> None:
    if others:
        counts = ", ".join(f"{count} *.{ending}" for ending, count in others.most_common(5))
        warnings.warn(
            f"{root}: {others.total()} files are no images and are left out ({counts}). Images are "
            f"*.{', *.'.join(ENDINGS)}.",
            stacklevel=3,
        )


# --- their pixels -------------------------------------------------------------------------------


def _images(
    root: Path,
    files: list[_File],
    size: tuple[int, int] | None,
    channels: int,
    cache: bool,
    cache_dir: str | os.PathLike[str] | None,
) -> np.ndarray:
    """Returns all images, from the cache if possible."""

    def decode() -> np.ndarray:
        try:
            from flatjax.data._decode import decode_files
        except ImportError as error:
            raise ImportError(
                f"images in folders need Pillow ({error}): pip install 'flatjax[data]'"
            ) from error
        return decode_files(root, [file.name for file in files], size, channels)

    if not cache:
        return decode()
    listing = hashlib.sha256()
    for file in files:
        listing.update(f"{file.name}\0{file.size}\0{file.time}\n".encode(errors="surrogateescape"))
    made_from = {"folder": str(root), "size": size, "channels": channels, "version": _VERSION}
    place = hashlib.sha256(repr(made_from).encode(errors="surrogateescape")).hexdigest()[:16]
    folder = _cache.default_folder() if cache_dir is None else Path(cache_dir).expanduser()
    identity = made_from | {"files": listing.hexdigest()}
    return _cache.cached_array(folder / f"{root.name}-{place}.npz", identity, decode)
