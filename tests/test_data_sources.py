"""Loading data sets by name: digits, and whatever TFDS has a builder for."""

import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import ClassVar

import numpy as np
import PIL.Image
import pytest
import requests
import tensorflow_datasets as tfds

from flatjax.data import load
from flatjax.data._sources import TFDS_NAMES, _check_features, _tfds_builder

without_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed"
)


def files_under(folder: Path) -> list[Path]:
    """All files but TFDS's note of which configuration is the default."""
    return [path for path in folder.rglob("*") if path.is_file() and path.parent.name != ".config"]


def examples_of(split):
    """The examples in an order that does not depend on the one in which they were written."""
    return sorted(
        (image.tobytes(), int(label)) for image, label in zip(split.image, split.label, strict=True)
    )


# digits


def test_digits_are_those_of_scikit_learn_scaled_to_the_full_range():
    from sklearn.datasets import load_digits

    digits = load("digits")
    bunch = load_digits()
    image = np.floor(bunch.images / 16 * 255 + 0.5).astype(np.uint8)
    expected = sorted(zip((i.tobytes() for i in image), bunch.target.tolist(), strict=True))
    assert sorted(examples_of(digits.train) + examples_of(digits.test)) == expected
    assert (len(digits.train), len(digits.test)) == (1297, 500)
    assert (digits.train.image.min(), digits.train.image.max()) == (0, 255)


def test_digits_split_is_stratified_and_never_changes():
    digits = load("digits")
    train, test = (np.bincount(split.label) for split in (digits.train, digits.test))
    np.testing.assert_allclose(test, (train + test) * 500 / 1797, atol=1)
    fingerprint = hashlib.sha256(
        digits.test.image.tobytes() + digits.test.label.astype("<i4").tobytes()
    )
    assert fingerprint.hexdigest()[:16] == "f1463988d6630576"


@pytest.mark.slow
def test_digits_need_no_tfds():
    code = (
        "import sys; from flatjax.data import load; load('digits');"
        "sys.exit('tensorflow_datasets' in sys.modules)"
    )
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


# Any other builder of TFDS

PATCHES = np.random.default_rng(1).integers(256, size=(20, 4, 6, 3), dtype=np.uint8)


class FlatjaxTestPatches(tfds.core.GeneratorBasedBuilder):
    """Image classification, in the variants that `load` must tell apart."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=name)
        for name in (
            *("bytes", "png", "array", "validation", "train_only"),
            *("no_label", "text_label", "ragged", "float"),
            *("offline", "unreachable", "missing", "scipy"),
        )
    ]

    def _info(self):
        config = self.builder_config.name
        image = {
            "png": tfds.features.Image(shape=(4, 6, 3)),
            "array": tfds.features.Image(shape=(4, 6, 3)),
            "ragged": tfds.features.Image(shape=(None, None, 3)),
            "float": tfds.features.Tensor(shape=(4, 6, 3), dtype=np.float32),
        }.get(config, tfds.features.Tensor(shape=(4, 6, 3), dtype=np.uint8, encoding="bytes"))
        label = {
            "text_label": tfds.features.Text(),
            "no_label": None,
        }.get(config, tfds.features.ClassLabel(num_classes=5))
        features = {"picture": image} | ({} if label is None else {"kind": label})
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("picture", "kind"),
        )

    def _split_generators(self, dl_manager):
        match self.builder_config.name:
            case "offline":
                raise requests.ConnectionError("no route to host")
            case "unreachable":
                raise urllib.error.URLError("no route to host")
            case "missing":
                raise tfds.download.DownloadError("no route to host, 404")
            case "scipy":
                raise ImportError("No module named 'scipy'")
            case "train_only":
                return {"train": self._generate_examples(range(15))}
        test = "validation" if self.builder_config.name == "validation" else "test"
        return {
            "train": self._generate_examples(range(15)),
            test: self._generate_examples(range(15, 20)),
        }

    def _generate_examples(self, indices):
        for index in indices:
            picture = PATCHES[index]
            if self.builder_config.name == "png":
                file = io.BytesIO()
                PIL.Image.fromarray(picture).save(file, "PNG")
                picture = io.BytesIO(file.getvalue())
            yield index, {"picture": picture, "kind": index % 5}


@pytest.mark.parametrize("config", ["bytes", "png", "validation"])
def test_a_tfds_set_is_prepared_and_read_without_tensorflow(tmp_path, config):
    for _ in range(2):  # prepared, then found
        dataset = load(f"flatjax_test_patches/{config}", data_dir=tmp_path)
        assert dataset.num_classes == 5
        assert dataset.image_shape == (4, 6, 3)
        for split, indices in ((dataset.train, range(15)), (dataset.test, range(15, 20))):
            assert examples_of(split) == sorted((PATCHES[i].tobytes(), i % 5) for i in indices)


def test_the_first_config_is_the_default(tmp_path):
    assert len(load("flatjax_test_patches", data_dir=tmp_path).test) == 5


def test_data_are_read_in_chunks(monkeypatch, tmp_path):
    monkeypatch.setattr("flatjax.data._sources._READ_CHUNK", 4)
    dataset = load("flatjax_test_patches", data_dir=tmp_path)
    assert examples_of(dataset.train) == sorted((PATCHES[i].tobytes(), i % 5) for i in range(15))


@without_tensorflow
@pytest.mark.parametrize("name", ["flatjax_test_patches/array", "cifar10", "emnist/letters"])
def test_the_error_says_when_preparing_needs_tensorflow(tmp_path, name):
    with pytest.raises(ImportError, match=rf"{name}.*pip install 'flatjax\[tensorflow\]'"):
        load(name, data_dir=tmp_path)
    assert files_under(tmp_path) == []


def test_another_missing_library_is_not_taken_for_tensorflow(tmp_path):
    with pytest.raises(ImportError, match="No module named 'scipy'"):
        load("flatjax_test_patches/scipy", data_dir=tmp_path)


@pytest.mark.parametrize("config", ["offline", "unreachable", "missing"])
def test_without_network_the_error_says_where_the_set_was_expected(tmp_path, config):
    with pytest.raises(ConnectionError, match=f"{tmp_path}.*no route to host.*data_dir"):
        load(f"flatjax_test_patches/{config}", data_dir=tmp_path)
    assert files_under(tmp_path) == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("no_label", "expected a feature 'kind' that is a ClassLabel, got None"),
        ("text_label", "expected a feature 'kind' that is a ClassLabel, got Text"),
        ("ragged", r"expected a feature 'picture' of uint8 and one fixed shape .*None, None, 3"),
        ("float", "expected a feature 'picture' of uint8 .*float32"),
        ("train_only", r"expected splits train and test \(or validation\), got \['train'\]"),
    ],
)
def test_a_set_that_is_not_image_classification_is_refused(tmp_path, config, message):
    with pytest.raises(ValueError, match=f"flatjax_test_patches/{config}: {message}"):
        load(f"flatjax_test_patches/{config}", data_dir=tmp_path)


def test_a_set_without_random_access_is_refused(tmp_path):
    load("flatjax_test_patches", data_dir=tmp_path)
    (info_file,) = tmp_path.rglob("dataset_info.json")
    info = json.loads(info_file.read_text())
    info_file.write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(
        NotImplementedError, match=r"prepared at .*TFRECORD format.*another data_dir"
    ):
        load("flatjax_test_patches", data_dir=tmp_path)


@pytest.mark.parametrize(
    "name", ["no_such_set", "kaggle:mnist", "mnist:3.0.1", "mnist/a=True", "../mnist", "", 3]
)
def test_an_unknown_name_lists_the_known_ones(tmp_path, name):
    with pytest.raises(ValueError, match=r"'digits', 'fashion_mnist', .*'cifar10', .*catalog"):
        load(name, data_dir=tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", TFDS_NAMES)
def test_the_listed_sets_of_tfds_are_image_classification(tmp_path, name):
    builder = _tfds_builder(name, tmp_path)
    _check_features(name, builder)
    assert builder.name == name
