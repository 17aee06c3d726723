"""Fashion-MNIST as a TensorFlow Datasets builder that needs no TensorFlow.

TFDS has its own builder, but preparing its `Image` feature encodes PNGs with TensorFlow. Here
images are a `Tensor` feature of raw bytes. The four IDX files are read with NumPy, written once as
ArrayRecord, and read back with random access and without decoding.

This module imports TFDS. Only `flatjax.data.load("fashion_mnist")` imports this module. TFDS reads
the sizes and SHA-256 sums of its downloads from `checksums.tsv` in the same folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from flatjax.data._idx import read_idx

ENVIRONMENT_VARIABLE = "FLATJAX_FASHION_MNIST"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
IMAGE_SHAPE = (28, 28, 1)
HOW_TO_GET_IT = (
    "Fashion-MNIST is the Debian package dataset-fashion-mnist (apt-get install "
    f"dataset-fashion-mnist), or four files *-ubyte.gz at {URL}: set {ENVIRONMENT_VARIABLE} to the "
    "folder that holds them"
)


class LocalInfo(tfds.core.DatasetInfo):
    """Information on a data set that is not in TFDS's own bucket."""

    def initialize_from_bucket(self) -> None:
        """Does nothing; TFDS would use the network and leave a temporary folder."""


class FashionMNIST(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Fashion-MNIST: 60,000 + 10,000 grey 28x28 images of clothes in 10 classes.

    The IDX files, compressed with gzip or not, are taken from the first of

    1. `idx_dir`;
    2. the folder named by the environment variable FLATJAX_FASHION_MNIST;
    3. /usr/share/datasets/fashion-mnist, where Debian's package dataset-fashion-mnist puts them;
    4. upstream, through TFDS's download manager, which verifies their checksums.

    A folder that is named or exists must hold all four files. All files are read and checked before
    anything is written, so that bad files leave no half-written data set. Examples keep the order
    of the files.

    Args:
      idx_dir: folder of the IDX files; see above for the default.
      **kwargs: passed to `tfds.core.GeneratorBasedBuilder` (`data_dir`, `file_format`, ...).

    Raises:
      FileNotFoundError: from `download_and_prepare`, if a file is missing.
      ValueError: from `download_and_prepare`, if a file is damaged.
    """

    # Not "fashion_mnist", the name of TFDS's own: the two differ on disk and share a data_dir.
    name = "flatjax_fashion_mnist"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "Raw bytes, in the order of the files."}
    # SHA-256 of the unpacked files, which have no checksums of their own.
    SHA256: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        "train-labels-idx1-ubyte": (
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
        "t10k-images-idx3-ubyte": (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        "t10k-labels-idx1-ubyte": (
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
        ),
    }
    NUM_EXAMPLES: ClassVar[dict[str, int]] = {"train": 60_000, "test": 10_000}

    def __init__(self, *, idx_dir: str | os.PathLike[str] | None = None, **kwargs: Any):
        self._idx_dir = idx_dir
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return LocalInfo(
            builder=self,
            description="Zalando's article images, a drop-in replacement for MNIST.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(
                        shape=IMAGE_SHAPE, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
                    ),
                    "label": tfds.features.ClassLabel(
                        names=[
                            "T-shirt/top",
                            "Trouser",
                            "Pullover",
                            "Dress",
                            "Coat",
                            "Sandal",
                            "Shirt",
                            "Sneaker",
                            "Bag",
                            "Ankle boot",
                        ]
                    ),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://github.com/zalandoresearch/fashion-mnist",
            citation=(
                "@article{xiao2017fashion, author={Xiao, Han and Rasul, Kashif and Vollgraf, "
                "Roland}, title={Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine "
                "Learning Algorithms}, journal={arXiv:1708.07747}, year={2017}}"
            ),
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        names = {"train": "train", "test": "t10k"}
        image_files = {split: f"{name}-images-idx3-ubyte" for split, name in names.items()}
        label_files = {split: f"{name}-labels-idx1-ubyte" for split, name in names.items()}
        paths = self._find([*image_files.values(), *label_files.values()], dl_manager)
        arrays = {}
        for split, count in self.NUM_EXAMPLES.items():
            read = lambda file, shape: read_idx(
                paths[file], shape, sha256=self.SHA256.get(file), hint=HOW_TO_GET_IT
            )
            images = read(image_files[split], (count, *IMAGE_SHAPE[:2]))
            labels = read(label_files[split], (count,))
            num_classes = self.info.features["label"].num_classes
            if labels.max() >= num_classes:
                raise ValueError(
                    f"{paths[label_files[split]]}: expected labels below {num_classes}, "
                    f"got {labels.max()}. {HOW_TO_GET_IT}"
                )
            arrays[split] = images[..., None], labels
        return {split: self._generate_examples(*pair) for split, pair in arrays.items()}

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            yield index, {"image": image, "label": label}

    def _find(
        self, files: list[str], dl_manager: tfds.download.DownloadManager
    ) -> Mapping[str, os.PathLike[str]]:
        """Finds each of the IDX files, or downloads them if no folder is known."""
        folder = self._idx_dir or os.environ.get(ENVIRONMENT_VARIABLE)
        if not folder and DEBIAN_FOLDER.is_dir():
            folder = DEBIAN_FOLDER
        if not folder:
            return dl_manager.download({file: f"{URL}{file}.gz" for file in files})
        paths = {}
        for file in files:
            plain = Path(folder, file).expanduser()
            compressed = plain.with_name(f"{file}.gz")
            paths[file] = plain if plain.exists() and not compressed.exists() else compressed
        return paths
