"""Fashion-MNIST: IDX files and our TFDS builder, which needs no TensorFlow."""

import gzip
import hashlib
import random
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from flatjax.data import Normalization, _fashion_mnist, load
from flatjax.data._fashion_mnist import FashionMNIST
from flatjax.data._idx import read_idx

with_debian_package = pytest.mark.skipif(
    not _fashion_mnist.DEBIAN_FOLDER.is_dir(),
    reason="the Debian package dataset-fashion-mnist is not installed",
)


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# IDX files


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("shape", [(5,), (3, 4, 2)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_read_idx_returns_the_array(tmp_path, shape, pack):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    path = tmp_path / "array"
    path.write_bytes(pack(idx_bytes(array)))
    np.testing.assert_array_equal(read_idx(path, shape), array)


GOOD = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
DAMAGES = {
    "truncated": (GOOD[:-1], "expected 40 bytes, got 39"),
    "too long": (GOOD + b"\0", "expected 40 bytes, got more"),
    "empty": (b"", "expected the magic number 00 00 08 03 .* an empty file"),
    "truncated header": (GOOD[:10], r"expected the dimensions \(2, 3, 4\), got \(2,\)"),
    "floats": (b"\0\0\x0d" + GOOD[3:], "got 00 00 0d 03"),
    "labels": (idx_bytes(np.zeros(2, np.uint8)), "3 dimensions.*, got 00 00 08 01"),
    "other dimensions": (idx_bytes(np.zeros((2, 4, 3), np.uint8)), r"got \(2, 4, 3\)"),
    "not idx": (b"<!DOCTYPE html>", "got 3c 21 44 4f"),
    "truncated gzip": (gzip.compress(GOOD)[:-12], "damaged gzip file"),
    "wrong checksum in gzip": (gzip.compress(GOOD)[:-8] + bytes(8), "damaged gzip file"),
    "garbage in gzip": (gzip.compress(GOOD)[:10] + b"\xff" * 30, "damaged gzip file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_read_idx_names_the_damaged_file_and_what_was_expected(tmp_path, damage):
    content, message = DAMAGES[damage]
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"images-idx3-ubyte: .*{message}.*get it so"):
        read_idx(path, (2, 3, 4), hint="get it so")


def test_read_idx_names_the_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: .*\(2, 3\).*get it so"):
        read_idx(tmp_path / "nowhere", (2, 3), hint="get it so")


# Fashion-MNIST through our builder: a small one, its IDX files made here

NUM_EXAMPLES = {"train": 30, "test": 12}
FILES = {"train": "train", "test": "t10k"}
KINDS = ("images-idx3", "labels-idx1")


@pytest.fixture
def nothing_installed(monkeypatch, tmp_path):
    """No folder of IDX files is known, and the set is small."""
    monkeypatch.delenv("FLATJAX_FASHION_MNIST", raising=False)
    monkeypatch.setattr(_fashion_mnist, "DEBIAN_FOLDER", tmp_path / "not installed")
    monkeypatch.setattr(FashionMNIST, "NUM_EXAMPLES", NUM_EXAMPLES)
    monkeypatch.setattr(FashionMNIST, "SHA256", {})


@pytest.fixture
def arrays(nothing_installed):
    rng = np.random.default_rng(0)
    return {
        split: (
            rng.integers(256, size=(count, 28, 28), dtype=np.uint8),
            rng.integers(10, size=count, dtype=np.uint8),
        )
        for split, count in NUM_EXAMPLES.items()
    }


def write_idx_files(folder, arrays, *, compress=True):
    folder.mkdir()
    for split, (images, labels) in arrays.items():
        for kind, array in zip(KINDS, (images, labels), strict=True):
            path = folder / f"{FILES[split]}-{kind}-ubyte{'.gz' if compress else ''}"
            path.write_bytes(gzip.compress(idx_bytes(array)) if compress else idx_bytes(array))
    return folder


@pytest.fixture
def idx_folder(tmp_path, arrays):
    return write_idx_files(tmp_path / "idx", arrays)


def assert_holds(dataset, arrays):
    assert dataset.num_classes == 10
    for split, (images, labels) in arrays.items():
        np.testing.assert_array_equal(getattr(dataset, split).image, images[..., None])
        np.testing.assert_array_equal(getattr(dataset, split).label, labels)


@pytest.mark.parametrize("compress", [True, False])
def test_fashion_mnist_reads_back_what_the_idx_files_hold(monkeypatch, tmp_path, arrays, compress):
    folder = write_idx_files(tmp_path / "idx", arrays, compress=compress)
    monkeypatch.setenv("FLATJAX_FASHION_MNIST", str(folder))
    assert_holds(load("fashion_mnist", data_dir=tmp_path / "data"), arrays)


def test_fashion_mnist_is_prepared_once(monkeypatch, tmp_path, arrays, idx_folder):
    monkeypatch.setenv("FLATJAX_FASHION_MNIST", str(idx_folder))
    load("fashion_mnist", data_dir=tmp_path / "data")
    monkeypatch.setenv("FLATJAX_FASHION_MNIST", "nowhere")
    assert_holds(load("fashion_mnist", data_dir=str(tmp_path / "data")), arrays)


def test_fashion_mnist_is_found_where_debian_puts_it(monkeypatch, tmp_path, arrays, idx_folder):
    monkeypatch.setattr(_fashion_mnist, "DEBIAN_FOLDER", idx_folder)
    assert_holds(load("fashion_mnist", data_dir=tmp_path / "data"), arrays)


def test_an_explicit_folder_wins_over_the_environment(monkeypatch, tmp_path, idx_folder):
    monkeypatch.setenv("FLATJAX_FASHION_MNIST", "nowhere")
    FashionMNIST(data_dir=tmp_path / "data", idx_dir=idx_folder).download_and_prepare(
        file_format="array_record"
    )
    assert len(load("fashion_mnist", data_dir=tmp_path / "data").train) == NUM_EXAMPLES["train"]


def test_our_builder_does_not_take_the_name_of_that_of_tfds(tmp_path):
    assert tfds.builder_cls("fashion_mnist") is not FashionMNIST
    assert tfds.builder("fashion_mnist", data_dir=tmp_path).name != FashionMNIST.name


@pytest.mark.parametrize("file", ["t10k-labels-idx1-ubyte.gz", "train-images-idx3-ubyte.gz"])
def test_a_missing_file_is_named(monkeypatch, tmp_path, idx_folder, file):
    monkeypatch.setenv("FLATJAX_FASHION_MNIST", str(idx_folder))
    (idx_folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{file}.*apt-get install dataset-fashion-mnist"):
        load("fashion_mnist", data_dir=tmp_path / "data")


def test_a_damaged_file_leaves_nothing_behind(monkeypatch, tmp_path, arrays, idx_folder):
    monkeypatch.setenv("FLATJAX_FASHION_MNIST", str(idx_folder))
    path = idx_folder / "t10k-images-idx3-ubyte.gz"  # the last to be read
    good = path.read_bytes()
    path.write_bytes(good[:-100])
    with pytest.raises(ValueError, match=f"{path.name}: damaged.*dataset-fashion-mnist"):
        load("fashion_mnist", data_dir=tmp_path / "data")
    assert files_under(tmp_path / "data") == []
    path.write_bytes(good)
    assert_holds(load("fashion_mnist", data_dir=tmp_path / "data"), arrays)


def test_an_interruption_while_writing_leaves_nothing_behind(monkeypatch, tmp_path, idx_folder):
    monkeypatch.setenv("FLATJAX_FASHION_MNIST", str(idx_folder))

    def interrupted(self, images, labels):
        yield 0, {"image": images[0], "label": 0}
        raise KeyboardInterrupt

    monkeypatch.setattr(FashionMNIST, "_generate_examples", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load("fashion_mnist", data_dir=tmp_path / "data")
    assert files_under(tmp_path / "data") == []


IDX_FILES = [f"{name}-{kind}-ubyte" for name in FILES.values() for kind in KINDS]


@pytest.mark.parametrize("file", IDX_FILES)
def test_a_flipped_bit_in_a_plain_file_is_noticed(monkeypatch, tmp_path, arrays, file):
    folder = write_idx_files(tmp_path / "idx", arrays, compress=False)
    digest = lambda path: hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(FashionMNIST, "SHA256", {p.name: digest(p) for p in folder.iterdir()})
    monkeypatch.setenv("FLATJAX_FASHION_MNIST", str(folder))
    content = bytearray((folder / file).read_bytes())
    content[-1] ^= 1
    (folder / file).write_bytes(bytes(content))
    with pytest.raises(ValueError, match=f"{file}: expected the published file, of SHA-256"):
        load("fashion_mnist", data_dir=tmp_path / "data")
    assert files_under(tmp_path / "data") == []


@with_debian_package
def test_published_digests_are_those_of_the_files():
    for file, digest in FashionMNIST.SHA256.items():
        content = gzip.decompress((_fashion_mnist.DEBIAN_FOLDER / f"{file}.gz").read_bytes())
        assert hashlib.sha256(content).hexdigest() == digest


def test_flips_in_prepared_files_are_noticed(monkeypatch, tmp_path, arrays, idx_folder):
    monkeypatch.setenv("FLATJAX_FASHION_MNIST", str(idx_folder))
    data_dir = tmp_path / "data"
    good = load("fashion_mnist", data_dir=data_dir)
    draw, detected = random.Random(0), 0
    for path in files_under(data_dir):
        content = path.read_bytes()
        for _ in range(6):
            damaged = bytearray(content)
            damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            path.write_bytes(bytes(damaged))
            message = None
            try:
                found = load("fashion_mnist", data_dir=data_dir)
                assert found.num_classes == good.num_classes
                assert_holds(found, arrays)
            except (ValueError, FileNotFoundError) as error:
                message = str(error)
            detected += message is not None
            assert message is None or str(data_dir) in message
        path.write_bytes(content)
    assert detected > 10
    assert_holds(load("fashion_mnist", data_dir=data_dir), arrays)


def test_preparing_leaves_no_temporary_folder(monkeypatch, tmp_path, arrays, idx_folder):
    monkeypatch.setenv("FLATJAX_FASHION_MNIST", str(idx_folder))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    load("fashion_mnist", data_dir=tmp_path / "data")
    with pytest.raises((ImportError, ConnectionError)):
        load("cifar10", data_dir=tmp_path / "data")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_labels_must_be_classes(monkeypatch, tmp_path, arrays):
    arrays["test"][1][3] = 10
    folder = write_idx_files(tmp_path / "idx", arrays)
    monkeypatch.setenv("FLATJAX_FASHION_MNIST", str(folder))
    with pytest.raises(ValueError, match=r"t10k-labels.*expected labels below 10, got 10"):
        load("fashion_mnist", data_dir=tmp_path / "data")
    assert files_under(tmp_path / "data") == []


def test_a_second_process_may_prepare_the_same_set(monkeypatch, tmp_path, arrays, idx_folder):
    monkeypatch.setenv("FLATJAX_FASHION_MNIST", str(idx_folder))
    split_generators = FashionMNIST._split_generators

    def overtaken(self, dl_manager):
        with monkeypatch.context() as other_process:
            other_process.setattr(FashionMNIST, "_split_generators", split_generators)
            load("fashion_mnist", data_dir=tmp_path / "data")
        return split_generators(self, dl_manager)

    monkeypatch.setattr(FashionMNIST, "_split_generators", overtaken)
    assert_holds(load("fashion_mnist", data_dir=tmp_path / "data"), arrays)


class FakeDownloadManager:
    """Stands for the network: the URL's file out of a folder, or an error."""

    downloaded_size = 0

    def __init__(self, source: Path | Exception):
        self._source = source

    def download(self, urls):  # noqa: D102
        if isinstance(self._source, Exception):
            raise self._source
        return {key: self._source / url.rpartition("/")[2] for key, url in urls.items()}


def test_fashion_mnist_is_downloaded_where_no_folder_is_known(
    monkeypatch, tmp_path, arrays, idx_folder
):
    monkeypatch.setattr(
        FashionMNIST, "_make_download_manager", lambda *_, **__: FakeDownloadManager(idx_folder)
    )
    assert_holds(load("fashion_mnist", data_dir=tmp_path / "data"), arrays)


def test_without_network_the_error_says_how_to_get_fashion_mnist(
    monkeypatch, tmp_path, nothing_installed
):
    offline = FakeDownloadManager(requests.ConnectionError("no route to host"))
    monkeypatch.setattr(FashionMNIST, "_make_download_manager", lambda *_, **__: offline)
    with pytest.raises(ConnectionError, match=r"no route to host.*dataset-fashion-mnist"):
        load("fashion_mnist", data_dir=tmp_path / "data")
    assert files_under(tmp_path / "data") == []


@with_debian_package
def test_registered_checksums_are_those_of_the_upstream_files(monkeypatch, tmp_path):
    # Debian took file name and time out of the gzip headers; with them put back, the files are
    # upstream's to the byte. TFDS verifies what it finds in manual_dir as it does downloads.
    manual_dir = tmp_path / "manual"
    manual_dir.mkdir()
    files = [f"{name}-{kind}-ubyte" for name in FILES.values() for kind in KINDS]
    for file in files:
        content = (_fashion_mnist.DEBIAN_FOLDER / f"{file}.gz").read_bytes()
        time = 0x59A7E9DE if file.startswith("train") else 0x59A7E9F3
        header = b"\x1f\x8b\x08\x08" + struct.pack("<I", time) + content[8:10]
        (manual_dir / f"{file}.gz").write_bytes(header + file.encode() + b"\0" + content[10:])
    monkeypatch.delenv("FLATJAX_FASHION_MNIST", raising=False)
    monkeypatch.setattr(_fashion_mnist, "DEBIAN_FOLDER", tmp_path / "not installed")
    builder = FashionMNIST(data_dir=tmp_path / "data")
    assert set(builder.url_infos) == {f"{_fashion_mnist.URL}{file}.gz" for file in files}

    def download():
        config = tfds.download.DownloadConfig(
            manual_dir=manual_dir, force_checksums_validation=True
        )
        dl_manager = builder._make_download_manager(download_dir=None, download_config=config)
        return builder._find(files, dl_manager)

    assert download() == {file: manual_dir / f"{file}.gz" for file in files}
    (manual_dir / "t10k-labels-idx1-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(NonMatchingChecksumError, match="wrong checksum"):
        download()


@with_debian_package
@pytest.mark.slow
def test_real_fashion_mnist(monkeypatch, tmp_path):
    monkeypatch.delenv("FLATJAX_FASHION_MNIST", raising=False)
    dataset = load("fashion_mnist", data_dir=tmp_path)
    assert dataset.train.image.shape == (60_000, 28, 28, 1)
    assert dataset.test.image.shape == (10_000, 28, 28, 1)
    assert np.bincount(dataset.train.label).tolist() == [6000] * 10
    assert np.bincount(dataset.test.label).tolist() == [1000] * 10
    assert dataset.train.label[:5].tolist() == [9, 0, 0, 3, 0]
    normalization = Normalization.from_images(dataset.train.image)
    assert normalization.mean + normalization.std == pytest.approx((0.2860, 0.3530), abs=5e-5)
