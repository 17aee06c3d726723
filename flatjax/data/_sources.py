"""Loads a whole classification data set by name into host memory."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import json
import os
import re
import tempfile
import urllib.error
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flatjax.data._dataset import Dataset, Split
from flatjax.data._local import load_local
from flatjax.data._subsets import stratified_counts

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

# Image-classification sets of TFDS whose builders encode images with TensorFlow when they are
# prepared. Without TensorFlow, their sources need not be downloaded first.
TFDS_NAMES = ("cifar10", "cifar100", "emnist", "kmnist", "mnist", "svhn_cropped")

_NAMES = ("digits", "fashion_mnist", "tiny_imagenet", *TFDS_NAMES)
_DIGITS_TEST_EXAMPLES = 500
_READ_CHUNK = 1000  # bounds the decoded examples held as Python objects


def load(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Loads a data set by its name.

    - `"digits"`: the 1797 8x8 images bundled with scikit-learn (the test part of UCI's optical
      digits), with values scaled from 0 to 16 to 0 to 255. The split is fixed by flatjax: 500 test
      images, each class in proportion, evenly spaced in scikit-learn's order. The other 1297 are
      for training.
    - `"fashion_mnist"`: 60,000 + 10,000 28x28 images, from local IDX files if there are any, else
      from upstream; see `flatjax.data._fashion_mnist.FashionMNIST`. TensorFlow is not needed.
    - `"tiny_imagenet"`: 100,000 + 10,000 64x64 colour images in 200 classes, from the official zip
      file or a folder unpacked from it (environment variable FLATJAX_TINY_IMAGENET); see
      `flatjax.data._tiny_imagenet.TinyImageNet`. TensorFlow is not needed.
    - Any image-classification set known to TFDS, including your own registered builders:
      `"cifar10"`, `"cifar100"`, `"mnist"`, `"emnist/letters"`, ... Its images must have one shape
      and 8 bits. Without a `test` split, `validation` is used. *Preparing* most sets needs
      TensorFlow (`pip install 'flatjax[tensorflow]'`); reading them again does not.
    - `"folder:PATH"`: your images, one folder for each class; see `from_folder`, whose options are
      written before the colon: `"folder,size=64x48,channels=1,test=0.2:PATH"`.
    - `"npz:PATH"`: your arrays, in a file written by `numpy.savez`; see `from_arrays`. Their names
      are `x_train`, `y_train`, `x_test`, `y_test` (as in Keras) or `train_images`, `train_labels`,
      `test_images`, `test_labels`; `class_names` is optional. Without test arrays, say how many of
      the examples are for testing: `"npz,test=0.2:PATH"`. If the labels are targets of a
      regression: `"npz,task=regression:PATH"`. `load_text` reads texts.
    - `"npy:FOLDER"`: the same arrays, each in a file written by `numpy.save` (`x_train.npy`, ...).
      Images are uint8 or float32 and stay in their files, which the operating system reads where
      they are used (`numpy.memmap`).

    Named sets except digits are prepared once under `data_dir` as ArrayRecord files, and read from
    there. Digests of the prepared data are recorded, and checked at each reading. Only installed
    builders are used: no code that comes with the data is executed.

    Args:
      name: one of the names above; for TFDS `"name"` or `"name/config"`.
      data_dir: folder of prepared data sets. The default of TFDS is the environment variable
        TFDS_DATA_DIR, else ~/tensorflow_datasets. For `"folder:PATH"` it is the `cache_dir`.

    Returns:
      The whole data set as NumPy arrays. Arrays in npy files are mapped, not read.

    Raises:
      ValueError: the name is unknown, the set is not for image classification, or a source file or
        a prepared file is damaged. Or FLATJAX_TINY_IMAGENET names another source than the prepared
        one.
      FileNotFoundError: a source file is missing.
      ConnectionError: the sources could not be downloaded.
      ImportError: a library that is needed to prepare the set is missing.
      NotImplementedError: `data_dir` holds the set in a format without random access (TFRecord).

    Examples:
      >>> digits = load("digits")
      >>> digits.train
      Split(image=uint8(1297, 8, 8, 1), label=int32(1297,))

    See Also:
      `from_arrays` (your arrays), `from_folder` (your images), `load_text` (your text).
    """
    if name == "digits":
        return _digits()
    if (dataset := load_local(name, data_dir)) is not None:
        return dataset
    origin = None
    if name == "fashion_mnist":
        from flatjax.data._fashion_mnist import HOW_TO_GET_IT, FashionMNIST

        builder = _built(name, FashionMNIST, data_dir)
        _prepare(name, builder, hint=HOW_TO_GET_IT, force_checksums_validation=True)
    elif name == "tiny_imagenet":
        from flatjax.data import _tiny_imagenet

        builder = _built(name, _tiny_imagenet.TinyImageNet, data_dir)
        is_new = _prepare(name, builder, hint=_tiny_imagenet.HOW_TO_GET_IT)
        if source := os.environ.get(_tiny_imagenet.ENVIRONMENT_VARIABLE):
            origin = _tiny_imagenet.origin(source) | {"is_new": is_new}
    else:
        builder = _tfds_builder(name, data_dir)
        _check_features(name, builder)
        _prepare(name, builder, hint="Prepare it once on a machine with network, or pass data_dir")
    return _verified(_read(name, builder), builder.data_path, origin)


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    image = ((255 * bunch.images + 8) // 16).astype(np.uint8)[..., None]  # rounded to the nearest
    label = bunch.target.astype(np.int32)
    is_test = np.zeros(len(label), bool)
    for digit, count in enumerate(stratified_counts(label, _DIGITS_TEST_EXAMPLES)):
        members = np.flatnonzero(label == digit)
        middles = (2 * np.arange(count) + 1) * len(members) // (2 * count)
        is_test[members[middles]] = True
    everything = Split(image=image, label=label)
    return Dataset("digits", everything[~is_test], everything[is_test], 10, tuple("0123456789"))


def _tfds_builder(
    name: str, data_dir: str | os.PathLike[str] | None
) -> tfds.core.GeneratorBasedBuilder:
    """Returns the installed builder of this name."""
    close = difflib.get_close_matches(str(name), _NAMES, 1)
    known = f"did you mean {close[0]!r}? " if close else ""
    known += (
        "expected 'digits', 'fashion_mnist', 'tiny_imagenet', 'folder:PATH', 'npz:PATH', "
        f"'npy:FOLDER', one of {', '.join(map(repr, TFDS_NAMES))}, or 'name' or 'name/config' "
        "of another image-classification set of TensorFlow Datasets "
        "(https://www.tensorflow.org/datasets/catalog/overview) or of your own, whose builder's "
        "module must be imported first"
    )
    # TFDS also understands 'namespace:name', which downloads and runs code. It is refused here.
    if not isinstance(name, str) or not re.fullmatch(r"\w+(/[\w.+-]+)?", name):
        raise ValueError(f"name must be the name of a data set, got {name!r}: {known}")

    import tensorflow_datasets as tfds

    short_name, _, config = name.partition("/")
    try:
        builder_cls = tfds.builder_cls(short_name)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(f"name is not a known data set, got {name!r}: {known}") from None
    with _temporary_files_removed():
        return _built(name, builder_cls, data_dir, config=config or None)


@contextlib.contextmanager
def _temporary_files_removed() -> Iterator[None]:
    """Removes files that TFDS leaves in the temporary folder meanwhile."""
    with tempfile.TemporaryDirectory(prefix="flatjax-") as folder:
        before, tempfile.tempdir = tempfile.tempdir, folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def _built(name: str, builder_cls: Any, data_dir: Any, **options: Any) -> Any:
    """Makes the builder, which reads prepared information if there is any."""
    try:
        return builder_cls(data_dir=data_dir, **options)
    except (ImportError, NotImplementedError, OSError):
        raise
    except Exception as error:
        if "BuilderConfig" in str(error):  # an unknown one was asked for
            raise
        raise ValueError(
            f"{name}: the information in its prepared folder (under {data_dir or 'TFDS_DATA_DIR'}, "
            f"*.json and *.txt) is damaged ({error}). Delete the folder to prepare it again"
        ) from error


def _check_features(name: str, builder: tfds.core.GeneratorBasedBuilder) -> None:
    import tensorflow_datasets as tfds

    features = dict(builder.info.features.items())
    image_key, label_key = _supervised_keys(builder)
    image = features.get(image_key)
    if image is None or len(image.shape) != 3 or None in image.shape or image.np_dtype != np.uint8:
        raise ValueError(
            f"{name}: expected a feature {image_key!r} of uint8 and one fixed shape (H, W, C), "
            f"got {image!r}"
        )
    if not isinstance(features.get(label_key), tfds.features.ClassLabel):
        raise ValueError(
            f"{name}: expected a feature {label_key!r} that is a ClassLabel, "
            f"got {features.get(label_key)!r}"
        )


def _supervised_keys(builder: tfds.core.GeneratorBasedBuilder) -> tuple[str, str]:
    keys = builder.info.supervised_keys or ("image", "label")
    return keys[0], keys[1]


def _prepare(
    name: str,
    builder: tfds.core.GeneratorBasedBuilder,
    *,
    hint: str,
    force_checksums_validation: bool = False,
) -> bool:
    """Downloads and writes the whole data set; returns False if it exists."""
    if builder.data_path.exists():  # TFDS moves it there when it is complete
        return False

    import requests
    import tensorflow_datasets as tfds

    needs_tensorflow = (
        f"{name}: preparing it needs TensorFlow, once (reading it again does not): "
        "pip install 'flatjax[tensorflow]'"
    )
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    if builder.name in TFDS_NAMES and not has_tensorflow:
        raise ImportError(needs_tensorflow)
    try:
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(
                force_checksums_validation=force_checksums_validation
            ),
        )
    except ImportError as error:
        if has_tensorflow or "tensorflow" not in str(error):
            raise
        raise ImportError(needs_tensorflow) from error
    except (requests.RequestException, urllib.error.URLError, tfds.download.DownloadError) as error:
        raise ConnectionError(
            f"{name}: not prepared under {builder.data_dir}, and its sources could not be "
            f"downloaded ({error}). {hint}"
        ) from error
    except OSError:
        # If several processes prepare one set, the first to finish wins. The others find its files
        # in place.
        if not builder.data_path.exists():
            raise
        return False
    return True


def _read(name: str, builder: tfds.core.GeneratorBasedBuilder) -> Dataset:
    splits = list(builder.info.splits)
    test = "test" if "test" in splits else "validation"
    if "train" not in splits or test not in splits:
        again = "" if splits else ". Its dataset_info.json is missing: delete the folder"
        raise ValueError(
            f"{name}: expected splits train and test (or validation), got {splits} "
            f"in {builder.data_path}{again}"
        )
    try:
        classes = builder.info.features[_supervised_keys(builder)[1]]
        return Dataset(
            name,
            train=_read_split(builder, "train"),
            test=_read_split(builder, test),
            num_classes=classes.num_classes,
            class_names=tuple(classes.names),
        )
    except (ImportError, NotImplementedError, OSError, MemoryError):
        raise
    except Exception as error:  # of any kind, from the readers of ArrayRecord and protocol buffers
        raise ValueError(
            f"{name}: a prepared file in {builder.data_path} is damaged ({error}). "
            "Delete the folder to prepare it again"
        ) from error


def _verified(dataset: Dataset, folder: Any, origin: dict[str, Any] | None) -> Dataset:
    """Compares a data set with the record of its first reading, or writes it."""
    path = Path(os.fspath(folder), "flatjax.json")
    found: dict[str, Any] = {"num_classes": dataset.num_classes}
    for name in ("train", "test"):
        split = getattr(dataset, name)
        content = zlib.crc32(split.label, zlib.crc32(split.image))
        found[name] = {"examples": len(split), "crc32": f"{content:08x}"}
    if not path.exists():
        with contextlib.suppress(OSError):  # a folder without write permission
            # If it was prepared before there were records, its origin is not known.
            known = origin if origin and origin.pop("is_new") else None
            text = json.dumps({"origin": known} | found)
            temporary = path.with_name(f"flatjax.json.{os.getpid()}")
            try:
                temporary.write_text(text, encoding="utf-8")
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        return dataset
    again = f"Delete {path.parent} to prepare it again"
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        before = recorded.pop("origin")
        if before is not None and before.keys() != {"path", "files"}:
            raise ValueError("the origin must have a path and files")
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: damaged ({error}). {again}") from error
    if recorded != found:
        raise ValueError(
            f"{dataset.name}: the data differ from the prepared data: a file in {path.parent} is "
            f"damaged (recorded {recorded}, found {found}). {again}"
        )
    if origin and before and not _same_origin(origin, before):
        raise ValueError(
            f"{dataset.name} was prepared from {before['path']}, and {origin['path']}, which is "
            "named now, does not hold the same files. Unset the environment variable to read the "
            f"prepared data. {again}"
        )
    return dataset


def _same_origin(wanted: dict[str, Any], found: dict[str, Any]) -> bool:
    if wanted["files"] is None:  # gone since
        return wanted["path"] == found["path"]
    return wanted["files"] == found["files"]


def _read_split(builder: tfds.core.GeneratorBasedBuilder, split: str) -> Split:
    image_key, label_key = _supervised_keys(builder)
    source = builder.as_data_source(split)
    images = np.empty((len(source), *builder.info.features[image_key].shape), np.uint8)
    labels = np.empty(len(source), np.int32)
    for start in range(0, len(source), _READ_CHUNK):
        # Read in batches: reading one record at a time takes five times as long.
        positions = range(start, min(start + _READ_CHUNK, len(source)))
        for position, example in zip(positions, source.__getitems__(positions), strict=True):
            images[position] = example[image_key]
            labels[position] = example[label_key]
    return Split(image=images, label=labels)
