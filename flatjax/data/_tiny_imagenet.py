"""Tiny ImageNet as a TensorFlow Datasets builder that needs no TensorFlow.

Images are read directly from the official zip file, or from a folder with its contents. They are
decoded with Pillow and written once as raw bytes, as ArrayRecord. Nothing is extracted, so that no
name in the file can point outside a folder.

This module imports TFDS. Only `flatjax.data.load("tiny_imagenet")` imports this module.
"""

from __future__ import annotations

import collections
import hashlib
import io
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from flatjax.data._fashion_mnist import LocalInfo

ENVIRONMENT_VARIABLE = "FLATJAX_TINY_IMAGENET"
# Not downloaded: there is no published checksum to validate a download. The checksums of the zip
# file (CRC-32) are checked on reading.
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
FOLDER = "tiny-imagenet-200"
IMAGE_SHAPE = (64, 64, 3)
HOW_TO_GET_IT = (
    f"Tiny ImageNet is {URL}: set {ENVIRONMENT_VARIABLE} to that file, or to the folder "
    f"{FOLDER} unpacked from it"
)

_LARGEST_FILE = 2**24  # bytes; the largest text in the official file has less than 2^22
_OFFICIAL_CLASSES, _OFFICIAL_TRAIN, _OFFICIAL_VAL = 200, 500, 10_000
_Example = tuple[str, int]  # file and label
# RuntimeError: encrypted, or compressed in a way that Python does not support.
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError)


class TinyImageNet(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Tiny ImageNet: 100,000 + 10,000 images of 64x64 pixels in 200 classes.

    The zip file, or a folder with the same layout, is the first of

    1. `source`;
    2. the path in the environment variable FLATJAX_TINY_IMAGENET.

    It must hold `wnids.txt` (the classes, one WordNet id a line), `train/<wnid>/images/*.JPEG`, and
    `val/images/*.JPEG` with their classes in `val/val_annotations.txt`. All of it may be in a
    folder `tiny-imagenet-200`. The official test images have no labels and are not read. The test
    split is `val`.

    Labels count the classes in the order of the lines of `wnids.txt`. These are not sorted, so
    loaders that sort folders by name number the classes differently. The names of the classes are
    the WordNet ids. There are as many classes as lines, so a part of the set with the same layout
    can be used as well. Training images are in the order of the classes, and within a class sorted
    by file name. Test images are in the order of their annotations. Grey images get three equal
    channels. Files whose names begin with a dot, which macOS adds, are not read. If there are 200
    classes, each must have 500 images, and there must be 10,000 for validation.

    Lists of files are checked before anything is written, and images while they are written. A bad
    image leaves no half-written data set.

    Args:
      source: zip file or folder; see above for the default.
      **kwargs: passed to `tfds.core.GeneratorBasedBuilder` (`data_dir`, `file_format`, ...).

    Raises:
      FileNotFoundError: from `download_and_prepare`, if there is no such file or folder, or if a
        file is missing in it.
      ValueError: from `download_and_prepare`, if a file is damaged, an image has another size, or
        a class is not in `wnids.txt`. All errors name the file.
    """

    name = "flatjax_tiny_imagenet"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "Raw bytes; classes as in wnids.txt."}

    def __init__(self, *, source: str | os.PathLike[str] | None = None, **kwargs: Any):
        self._source = source
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return LocalInfo(
            builder=self,
            description="200 classes of ImageNet, 500 training images each, at 64x64 pixels.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(
                        shape=IMAGE_SHAPE, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
                    ),
                    "label": tfds.features.ClassLabel(),  # named when wnids.txt has been read
                }
            ),
            supervised_keys=("image", "label"),
            homepage="http://cs231n.stanford.edu/",
            citation=(
                "@techreport{le2015tiny, author={Le, Ya and Yang, Xuan S.}, title={Tiny ImageNet "
                "Visual Recognition Challenge}, institution={Stanford University, CS 231N}, "
                "year={2015}}"
            ),
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # nothing is downloaded
        source = self._source or os.environ.get(ENVIRONMENT_VARIABLE)
        if not source:
            raise FileNotFoundError(f"no source is named. {HOW_TO_GET_IT}")
        files = _Files(Path(source).expanduser())
        files.check_names()
        classes = _classes(files)
        self.info.features["label"].names = list(classes)
        lists = {"train": _train_examples(files, classes), "test": _val_examples(files, classes)}
        return {split: self._generate_examples(files, lists[split]) for split in lists}

    def _generate_examples(
        self, files: _Files, examples: list[_Example]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (file, label) in enumerate(examples):
            yield index, {"image": _decoded(files, file), "label": label}


class _Files:
    """The files of a zip file or a folder, by their names in the official layout."""

    def __init__(self, source: Path):
        self._source = source
        self._zip: zipfile.ZipFile | None = None
        if source.is_dir():
            inside = source / FOLDER
            self._folder = inside if (inside / "wnids.txt").is_file() else source
        elif source.exists():
            try:
                self._zip = zipfile.ZipFile(source)
            except zipfile.BadZipFile as error:
                raise ValueError(
                    f"{source}: not a zip file, or truncated ({error}). {HOW_TO_GET_IT}"
                ) from error
            self._names = set(self._zip.namelist())
            self._root = f"{FOLDER}/" if f"{FOLDER}/wnids.txt" in self._names else ""
            self._listings: dict[str, list[str]] = collections.defaultdict(list)
            for name in self._names:
                folder, _, file = name.removeprefix(self._root).rpartition("/")
                self._listings[folder].append(file)
        else:
            raise FileNotFoundError(f"{source}: there is no such file. {HOW_TO_GET_IT}")

    def images_under(self, folder: str) -> list[str]:
        """Lists the images in a folder, sorted by name."""
        if self._zip is None:
            listing = [path.name for path in (self._folder / folder).glob("*")]
        else:
            listing = self._listings[folder]
        images = sorted(file for file in listing if file and not file.startswith("."))
        for file in images:
            if not file.endswith(".JPEG"):
                raise self.error("expected images *.JPEG only", f"{folder}/{file}")
        return [f"{folder}/{file}" for file in images]

    def check_names(self) -> None:
        """Checks that the list of the zip file and each file have the same name.

        Otherwise a damaged name in the list would hide an image.
        """
        if self._zip is None:
            return
        for info in self._zip.infolist():
            try:
                self._zip.open(info).close()
            except _UNREADABLE as error:
                raise self.error(f"damaged ({error})", info.filename) from error

    def listing(self) -> str:
        """Returns a digest of the names and sizes of all files.

        It is the same for a folder and its zip file.
        """
        if self._zip is None:
            paths = (path for path in self._folder.rglob("*") if path.is_file())
            sizes = {
                path.relative_to(self._folder).as_posix(): path.stat().st_size for path in paths
            }
        else:
            infos = (info for info in self._zip.infolist() if not info.is_dir())
            sizes = {info.filename.removeprefix(self._root): info.file_size for info in infos}
        lines = sorted(f"{name} {size}" for name, size in sizes.items() if "/." not in f"/{name}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def read(self, name: str) -> bytes:
        """Returns the content of a file."""
        if self._zip is None:
            exists = (self._folder / name).is_file()
        else:
            exists = self._root + name in self._names
        if not exists:
            raise self.error("there is no such file", name, FileNotFoundError)
        if self._zip is None:
            return (self._folder / name).read_bytes()
        info = self._zip.getinfo(self._root + name)
        if info.file_size > _LARGEST_FILE:
            raise self.error(f"too large: {info.file_size} bytes when unpacked", name)
        try:
            return self._zip.read(info)
        except _UNREADABLE as error:
            raise self.error(f"damaged ({error})", name) from error

    def lines(self, name: str) -> list[str]:
        """Returns the lines of a text file, without blank ones."""
        try:
            text = self.read(name).decode()
        except UnicodeDecodeError as error:
            raise self.error(f"not a text ({error})", name) from error
        return [line for line in text.splitlines() if line.strip()]

    def error(self, problem: str, name: str, kind: type[Exception] = ValueError) -> Exception:
        """Makes an error that names the file and its folder."""
        return kind(f"{self._source}: {name}: {problem}. {HOW_TO_GET_IT}")


def origin(source: str) -> dict[str, str | None]:
    """Identifies a source by its path and a digest of the list of its files.

    The digest is None if the source no longer exists.
    """
    path = Path(source).expanduser().absolute()
    return {"path": str(path), "files": _Files(path).listing() if path.exists() else None}


def _classes(files: _Files) -> dict[str, int]:
    """Returns the label of each WordNet id."""
    wnids = [line.strip() for line in files.lines("wnids.txt")]
    bad = [wnid for wnid in wnids if not re.fullmatch(r"\w+", wnid)]
    if not wnids or bad or len(set(wnids)) < len(wnids):
        got = f"{bad[0]!r}" if bad else f"{len(wnids)} lines, {len(set(wnids))} of them different"
        raise files.error(f"expected a WordNet id in each line, got {got}", "wnids.txt")
    return {wnid: label for label, wnid in enumerate(wnids)}


def _train_examples(files: _Files, classes: dict[str, int]) -> list[_Example]:
    examples = []
    for wnid, label in classes.items():
        folder = f"train/{wnid}/images"
        images = files.images_under(folder)
        if not images:
            raise files.error("there are no images *.JPEG", folder, FileNotFoundError)
        _check_count(files, folder, len(images), _OFFICIAL_TRAIN, classes)
        examples += [(image, label) for image in images]
    return examples


def _check_count(files, folder, count, official, classes):
    if len(classes) == _OFFICIAL_CLASSES and count != official:
        raise files.error(f"expected {official} images, got {count}", folder)


def _val_examples(files: _Files, classes: dict[str, int]) -> list[_Example]:
    """Reads the annotations: file name, WordNet id and a bounding box in each line."""
    annotations = "val/val_annotations.txt"
    labels = {}
    for line in files.lines(annotations):
        image, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0].strip()
        if not wnid or f"val/images/{image}" in labels:
            raise files.error(
                f"expected a new file name and a WordNet id in each line, got {line!r}", annotations
            )
        if wnid not in classes:
            raise files.error(f"{image} is of the class {wnid}, not in wnids.txt", annotations)
        labels[f"val/images/{image}"] = classes[wnid]
    present = set(files.images_under("val/images"))
    if unknown := sorted(present - labels.keys()):
        raise files.error(f"has no annotation in {annotations}", unknown[0])
    if missing := sorted(labels.keys() - present):
        raise files.error("there is no such file", missing[0], FileNotFoundError)
    _check_count(files, "val/images", len(labels), _OFFICIAL_VAL, classes)
    return list(labels.items())


def _decoded(files: _Files, name: str) -> np.ndarray:
    """Decodes the image as uint8 of shape `IMAGE_SHAPE`."""
    content = files.read(name)
    try:
        with PIL.Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            size = image.size  # from the header: a large image is refused before it is decoded
            if size == IMAGE_SHAPE[1::-1]:
                return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise files.error(f"not a JPEG image, or damaged ({error})", name) from error
    raise files.error(f"expected 64x64 pixels, got {size[0]}x{size[1]}", name)
