"""Damaged single files: cached values, records, and data."""

import contextlib
import functools
import gzip
import io
import os
import pathlib
import random
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import PIL.Image

from experiments.damage.attempts import CONFIG, Row, outcome
from experiments.damage.damages import DAMAGES, tries_of
from experiments.report import store
from flatjax import data
from flatjax.data._idx import read_idx


def rows(place: pathlib.Path, tries: int) -> list[Row]:
    """Makes all rows; `place` is an empty directory for their files."""
    return [
        *_cache_rows(place / "caches", tries),
        *_idx_rows(place / "data", tries),
        *_tiny_rows(place / "tiny", tries),
        *_folder_rows(place / "folder", tries),
    ]


# --- caches and records -------------------------------------------------------------------------

_IDENTITY = {"config": CONFIG.to_json(), "seeds": [0, 1]}
_VALUE = [{"settings": {"learning_rate": 0.1}, "error": [12.5, 0.25 * i]} for i in range(4)]


def _cache_rows(place, tries) -> Iterator[Row]:
    tuning, lines = place / "tuning.json", place / "records.jsonl"

    def write_cache(identity=_IDENTITY, value=_VALUE):
        place.mkdir(parents=True, exist_ok=True)
        tuning.unlink(missing_ok=True)
        store.cached(tuning, identity, lambda: value)

    def write_lines():
        place.mkdir(parents=True, exist_ok=True)
        lines.unlink(missing_ok=True)
        for record in _VALUE:
            store.append_line(lines, record)

    def read_cache():
        found = store.read_cached(tuning, _IDENTITY)
        return _VALUE if found is None else found  # a missing value would be computed again

    def read_lines():
        """Reads the lines; the last records may be missing, and would be computed again."""
        found = store.read_lines(lines, must_be_sealed=True)
        return found + _VALUE[len(found) :]

    def swapped(draw, tries):
        for _ in range(tries):
            other = {"seeds": [0, 2]} if draw.random() < 0.5 else {"config": {"epochs": 7.0}}
            write_cache(_IDENTITY | other, _VALUE[:2])
            yield outcome(read_cache, _VALUE, place)

    for kind in DAMAGES:
        attempts = _damaged(tuning, kind, write_cache, read_cache, _VALUE)
        yield Row("cached value", kind, tries_of(kind, tries), attempts)
    yield Row("cached value", "another study's", tries, swapped)
    for kind in DAMAGES:
        attempts = _damaged(lines, kind, write_lines, read_lines, _VALUE)
        yield Row("lines of records", kind, tries_of(kind, tries), attempts)


def _damaged(
    path: pathlib.Path,
    kind: str,
    write: Callable[[], None],
    read: Callable[[], Any],
    wanted: Any,
) -> Callable[[random.Random, int], Iterable[str]]:
    """Attempts at a single file, which is written again before each attempt."""

    def attempts(draw, tries):
        for _ in range(tries):
            write()
            DAMAGES[kind](path, draw)
            yield outcome(read, wanted, path.parent)

    return attempts


# --- data with published digests ----------------------------------------------------------------


def _idx_rows(place, tries) -> Iterator[Row]:
    """Attempts at Fashion-MNIST's labels and images, packed and plain, if they exist."""
    from flatjax.data._fashion_mnist import DEBIAN_FOLDER, FashionMNIST

    shapes = {"t10k-labels-idx1-ubyte": (10_000,), "t10k-images-idx3-ubyte": (10_000, 28, 28)}
    for name, shape in shapes.items():
        packed = DEBIAN_FOLDER / f"{name}.gz"
        if not packed.exists():
            continue
        what = "labels" if "labels" in name else "images"
        for label, path in ((f"{what}, packed", place / packed.name), (what, place / name)):

            def write(path=path, packed=packed):
                place.mkdir(parents=True, exist_ok=True)
                content = packed.read_bytes()
                path.write_bytes(content if path.suffix else gzip.decompress(content))

            def read(path=path, shape=shape, sha256=FashionMNIST.SHA256[name]):
                return read_idx(path, shape, sha256=sha256).tobytes()

            wanted = read_idx(packed, shape).tobytes()
            for kind in DAMAGES:
                attempts = _damaged(path, kind, write, read, wanted)
                yield Row(f"Fashion-MNIST, {label}", kind, tries_of(kind, tries), attempts)


# --- a data set in the layout of Tiny ImageNet ----------------------------------------------------


def _tiny_rows(place, tries) -> Iterator[Row]:
    """Attempts at the zip file, and at the data set prepared from it."""
    packed, good, copy = place / "tiny.zip", place / "good", place / "copy"

    def load(data_dir):
        said = io.StringIO()  # TFDS prints bars
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            dataset = data.load("tiny_imagenet", data_dir=data_dir)
        return [array.tobytes() for array in _arrays(dataset)]

    def wanted():
        place.mkdir(parents=True, exist_ok=True)
        if not good.exists():
            _write_zip(packed)
            with _source(packed):
                load(good)
        return load(good)

    def from_zip(kind, draw, tries):
        expected = wanted()
        for _ in range(tries):
            shutil.rmtree(copy, ignore_errors=True)
            _write_zip(packed)
            DAMAGES[kind](packed, draw)
            with _source(packed):
                yield outcome(lambda: load(copy), expected, place)

    def prepared(kind, draw, tries):
        expected = wanted()
        for _ in range(tries):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(good, copy)
            paths = sorted(path for path in copy.rglob("*") if path.is_file())
            DAMAGES[kind](draw.choice(paths), draw)
            yield outcome(lambda: load(copy), expected, place)

    for kind in DAMAGES:
        number = tries_of(kind, tries)
        yield Row("Tiny ImageNet, zip", kind, number, functools.partial(from_zip, kind))
    for kind in DAMAGES:
        number = tries_of(kind, tries)
        yield Row("prepared data set", kind, number, functools.partial(prepared, kind))


def _folder_rows(place, tries) -> Iterator[Row]:
    """Attempts at the cache of a folder's images."""
    images, cache = place / "images", place / "cache"

    def load():
        with warnings.catch_warnings(action="ignore"):  # a damaged cache is made again, with one
            dataset = data.from_folder(images, test=0.5, cache_dir=cache)
        return [array.tobytes() for array in _arrays(dataset)]

    def write():
        if not images.exists():
            rng = np.random.default_rng(0)
            for name in ("blue", "red"):
                (images / name).mkdir(parents=True)
                for number in range(4):
                    pixels = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
                    PIL.Image.fromarray(pixels).save(images / name / f"{number}.png")
        shutil.rmtree(cache, ignore_errors=True)
        return load()

    def damaged(kind, draw, tries):
        for _ in range(tries):
            wanted = write()
            DAMAGES[kind](draw.choice(sorted(cache.iterdir())), draw)
            yield outcome(load, wanted, place)

    for kind in DAMAGES:
        attempts = functools.partial(damaged, kind)
        yield Row("image cache of a folder", kind, tries_of(kind, tries), attempts)


def _arrays(dataset):
    for split in (dataset.train, dataset.test):
        yield from (split.image, split.label)


@contextlib.contextmanager
def _source(path):
    """Makes a source of Tiny ImageNet from a zip file."""
    os.environ["FLATJAX_TINY_IMAGENET"] = str(path)
    try:
        yield
    finally:
        del os.environ["FLATJAX_TINY_IMAGENET"]


def _write_zip(path):
    """Writes two classes with two images each, and two validation images."""
    wnids = ("n02124075", "n04067472")
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(name, content):
            archive.writestr(zipfile.ZipInfo(f"tiny-imagenet-200/{name}"), content)

        def add_image(name):
            pixels = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
            file = io.BytesIO()
            PIL.Image.fromarray(pixels).resize((64, 64)).save(file, "JPEG")
            add(name, file.getvalue())

        add("wnids.txt", "\n".join(wnids))
        for wnid in wnids:
            for index in range(2):
                add_image(f"train/{wnid}/images/{wnid}_{index}.JPEG")
        for index in range(2):
            add_image(f"val/images/val_{index}.JPEG")
        lines = [f"val_{index}.JPEG\t{wnid}\t0\t0\t9\t9\n" for index, wnid in enumerate(wnids)]
        add("val/val_annotations.txt", "".join(lines))
