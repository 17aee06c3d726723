"""CIFAR by TFDS's own builders: prepared sets are read, and trained on, without TensorFlow."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.image_classification import cifar

from flatjax.data import load

ROOT = Path(__file__).parents[1]
COUNTS = {"train": 160, "test": 40}


def make_examples(name, split):
    """Random images in the layout of CIFAR; their hue tells the class, so that it can be learned.

    CIFAR-100 has two labels, and both are drawn: a loader that mixes them up is found out.
    """
    rng = np.random.default_rng([len(name), len(split)])
    num_classes = 10 if name == "cifar10" else 100
    label = rng.permutation(np.arange(COUNTS[split]) % num_classes)
    image = rng.integers(0, 40, size=(COUNTS[split], 32, 32, 3))
    hue = np.random.default_rng(0).integers(0, 216, size=(num_classes, 3))
    examples = {"image": (image + hue[label][:, None, None]).astype(np.uint8), "label": label}
    if name == "cifar100":
        examples["coarse_label"] = rng.integers(20, size=COUNTS[split])
    return examples


def prepare(name, data_dir):
    """Prepares a small set with TFDS's builder, all but its source: PNG files need no TensorFlow.

    The builder's class, its features, names and version, and the files on disk are the real ones.
    """
    builder = tfds.builder_cls(name)(data_dir=data_dir)

    def generate(split):
        examples = make_examples(name, split)
        for index in range(COUNTS[split]):
            example = {key: array[index] for key, array in examples.items()}
            image = PIL.Image.fromarray(example.pop("image"))
            yield index, example | {"id": f"{split}_{index:05d}", "image": image}

    def split_generators(dl_manager):
        for key, feature in builder.info.features.items():
            if isinstance(feature, tfds.features.ClassLabel):
                feature.names = [f"{key} {value}" for value in range(feature.num_classes)]
        return {split: generate(split) for split in COUNTS}

    builder._split_generators = split_generators
    builder.download_and_prepare(file_format="array_record")
    return builder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tensorflow_datasets")
    for name in ("cifar10", "cifar100"):
        assert isinstance(prepare(name, data_dir), cifar.Cifar10)
    return data_dir


@pytest.mark.parametrize(("name", "num_classes"), [("cifar10", 10), ("cifar100", 100)])
def test_a_prepared_set_is_read_pixel_for_pixel(data_dir, name, num_classes):
    assert list(data_dir.glob(f"{name}/3.*/{name}-train.array_record*"))
    dataset = load(name, data_dir=data_dir)
    assert dataset.num_classes == num_classes
    assert dataset.image_shape == (32, 32, 3)
    for split in COUNTS:
        expected = make_examples(name, split)
        found = getattr(dataset, split)
        # TFDS shuffled them; a noisy image tells which it is.
        order = {image.tobytes(): index for index, image in enumerate(expected["image"])}
        positions = [order[image.tobytes()] for image in found.image]
        assert sorted(positions) == list(range(COUNTS[split]))
        np.testing.assert_array_equal(found.label, expected["label"][positions])


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed"
)
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_without_tensorflow_nothing_is_downloaded_that_could_not_be_prepared(
    monkeypatch, tmp_path, name
):
    def download(*_, **__):
        raise AssertionError("a download was started")

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", download)
    with pytest.raises(ImportError, match=rf"{name}: .*once.*pip install 'flatjax\[tensorflow\]'"):
        load(name, data_dir=tmp_path)


@pytest.mark.slow
def test_the_command_line_trains_on_a_prepared_set(data_dir, tmp_path):
    arguments = (
        "--dataset cifar10 --model small_convnet --model-options features=(8,) hidden=(16,) "
        "--algorithm sgd --epochs 6 --batch-size 20 "
        "--learning-rate 0.02 --augment flip --sigmas 0.1 --local-energy-samples 2 "
        "--local-energy-examples 40 --no-progress --json"
    )
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "train", *arguments.split(), "--out", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"TFDS_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["gradient_evaluations"] == 6 * (144 // 20)
    assert result["test_error"] < 50  # chance is 90
