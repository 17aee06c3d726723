"""Data sets from arrays, and from files of NumPy's; images of floats."""

import jax
import numpy as np
import pytest

from flatjax.data import (
    Dataset,
    Normalization,
    Split,
    epoch_order,
    eval_batches,
    from_arrays,
    load,
    take_batch,
    to_device,
)
from flatjax.data._arrays import is_mapped

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(256, size=(12, 5, 4, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3
NAMES = np.array(["cat", "dog", "pig"])
VECTORS = RANDOM.normal(3.0, [0.1, 1.0, 100.0], size=(12, 3))


def test_uint8_images_are_kept_and_not_copied():
    found = from_arrays((IMAGES, LABELS), (IMAGES[:2], LABELS[:2]))
    assert found.train.image is IMAGES or found.train.image.base is IMAGES
    assert (found.num_classes, found.class_names, found.name) == (3, None, "arrays")
    np.testing.assert_array_equal(found.test.label, LABELS[:2])
    assert found.train.label.dtype == np.int32


@pytest.mark.parametrize(
    ("image", "shape"),
    [(VECTORS, (1, 1, 3)), (IMAGES[..., 0], (5, 4, 1)), (VECTORS[:, None], (1, 3, 1))],
)
def test_axes_are_added(image, shape):
    found = from_arrays((image, LABELS[:, None]), 4)
    assert found.image_shape == shape
    assert len(found.test) == 4
    both = np.concatenate([found.train.image, found.test.image]).reshape(12, -1)
    expected = image.reshape(12, -1).astype(both.dtype)
    assert sorted(map(bytes, both)) == sorted(map(bytes, expected))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.float32])
def test_floats_become_float32(dtype):
    found = from_arrays((VECTORS.astype(dtype), LABELS), 0.25).train
    assert found.image.dtype == np.float32


def test_arrays_of_jax_are_taken():
    found = from_arrays((jax.numpy.asarray(VECTORS), jax.numpy.asarray(LABELS)), 0.25)
    assert isinstance(found.train.image, np.ndarray)


def test_names_count_the_classes():
    names = ["a", "b", "c", "none of these"]
    found = from_arrays((IMAGES, LABELS), 3, class_names=names)
    assert (found.num_classes, found.class_names) == (4, tuple(names))
    assert from_arrays((IMAGES, LABELS), 3, num_classes=7).num_classes == 7


def test_classes_without_training_examples_are_warned_of():
    with pytest.warns(UserWarning, match=r"no training example has label 0 \(of 4 classes\)"):
        assert from_arrays((IMAGES, LABELS + 1), 3).num_classes == 4
    gaps = LABELS * 10
    with pytest.warns(UserWarning, match=r"label 1, 2, 3, 4, 5 and 13 more \(of 21 classes\)"):
        from_arrays((IMAGES, gaps), (IMAGES, gaps))
    with pytest.warns(UserWarning, match=r"has label 3 \(of 4 classes\)"):
        from_arrays((IMAGES, LABELS), (IMAGES[:1], [3]))
    for options in ({"num_classes": 4}, {"class_names": "abcd"}):  # intended
        assert from_arrays((IMAGES, LABELS + 1), 3, **options).num_classes == 4


def with_nan(array):
    return np.where(np.arange(len(array))[:, None] == 7, np.nan, array)


@pytest.mark.parametrize(
    ("train", "options", "error", "message"),
    [
        ((IMAGES.astype(int), LABELS), {}, TypeError, r"train images must be uint8.*int64.*astype"),
        ((IMAGES[0, 0, 0], LABELS), {}, ValueError, r"train images must have shape .*got \(3,\)"),
        ((with_nan(VECTORS), LABELS), {}, ValueError, "train images must be finite.*image 7 is"),
        ((VECTORS * 1e200, LABELS), {}, ValueError, "train images must be finite"),
        ((np.zeros((12, 3, 8, 8)), LABELS), {}, ValueError, "channels last.*moveaxis"),
        ((np.zeros((12, 1, 8, 8)), LABELS), {}, ValueError, "channels last.*moveaxis"),
        ((IMAGES, LABELS[:5]), {}, ValueError, "image and label must have the same length"),
        ((IMAGES, np.eye(3)[LABELS]), {}, ValueError, r"train labels must have shape.*argmax"),
        ((IMAGES, LABELS / 2), {}, TypeError, "train labels must be integers, got float64"),
        ((IMAGES, LABELS / 2), {}, TypeError, "task='regression', in a command .* npz,task="),
        (
            (IMAGES, LABELS / 1),
            {},
            TypeError,
            r"integers, got float64\(12,\): pass y.astype\(int\)",
        ),
        ((IMAGES, LABELS > 0), {}, TypeError, r"pass y.astype\(int\)"),
        ((IMAGES, NAMES[LABELS]), {}, TypeError, r"got <U3\(12,\): .*np.unique\(y, return_inv"),
        ((IMAGES, LABELS - 1), {}, ValueError, "train labels must be counted from 0, got -1 to 1"),
        (IMAGES, {}, TypeError, "train must be a pair of images and labels, got ndarray"),
        ((IMAGES, LABELS), {"num_classes": 2}, ValueError, "labels must be below num_classes=2"),
        ((IMAGES, LABELS), {"class_names": "ab"}, ValueError, "labels must be below num_classes=2"),
        ((IMAGES, LABELS), {"class_names": "abc", "num_classes": 4}, ValueError, "names must be 4"),
        ((IMAGES, LABELS), {"test": (VECTORS, LABELS)}, ValueError, "must have one shape"),
        ((IMAGES, LABELS), {"test": (IMAGES / 255, LABELS)}, ValueError, "must have one dtype"),
        ((IMAGES, LABELS), {"test": 1.5}, ValueError, "size must set aside"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_other_arrays_are_refused(train, options, error, message):
    with pytest.raises(error, match=message):
        from_arrays(train, **{"test": 3} | options)


# Floats through the rest


def test_floats_are_normalized_feature_by_feature():
    split = from_arrays((VECTORS, LABELS), (VECTORS, LABELS)).train
    normalization = Normalization.from_images(split.image)
    assert normalization.dtype == "float32"
    (batch,) = eval_batches(split, normalization, 12)
    expected = (VECTORS - VECTORS.mean(0)) / VECTORS.std(0)
    np.testing.assert_allclose(batch["image"][:, 0, 0], expected, rtol=2e-4, atol=2e-6)
    order = epoch_order(jax.random.key(0), 12, 4, 2)
    found = take_batch(to_device(split), order[0], normalization)["image"]
    np.testing.assert_allclose(found[:, :, 0, 0], expected[order[0]], rtol=2e-4, atol=2e-6)


def test_each_normalization_takes_its_own_dtype():
    floats = Normalization(mean=(0.0,), std=(2.0,), dtype="float32")
    np.testing.assert_array_equal(floats.normalize(np.full((1, 1, 1, 1), 3, np.float32)), 1.5)
    with pytest.raises(TypeError, match="images must be float32, got uint8"):
        floats.normalize(np.zeros((1, 1, 1, 1), np.uint8))
    with pytest.raises(TypeError, match="images must be uint8, got float32"):
        Normalization(mean=(0.0,), std=(2.0,)).normalize(np.zeros((1, 1, 1, 1), np.float32))
    with pytest.raises(ValueError, match="dtype must be 'uint8' or 'float32', got 'int8'"):
        Normalization(mean=(0.0,), std=(2.0,), dtype="int8")


def test_constant_features_are_named():
    image = np.concatenate([VECTORS, np.full((12, 1), 0.1)], axis=1)
    split = from_arrays((image, LABELS), 3).train
    with pytest.raises(ValueError, match=r"1 are constant \(\[3\]"):
        Normalization.from_images(split.image)


def test_one_data_set_has_one_dtype():
    label = LABELS.astype(np.int32)
    with pytest.raises(ValueError, match="one dtype, got uint8 and float32"):
        Dataset("x", Split(IMAGES, label), Split(IMAGES.astype(np.float32), label), 3)


# Files


def write(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


KERAS = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:2], "y_test": LABELS[:2]}


def test_a_file_as_keras_names_its_arrays(tmp_path):
    name = write(tmp_path / "data.npz", **KERAS, class_names=np.array(["a", "b", "c"]))
    found = load(name)
    np.testing.assert_array_equal(found.train.image, IMAGES)
    np.testing.assert_array_equal(found.test.label, LABELS[:2])
    assert (found.name, found.class_names) == (name, ("a", "b", "c"))


def test_a_file_as_medmnist_names_its_arrays(tmp_path):
    pair = {"train_images": IMAGES, "train_labels": LABELS[:, None], "val_images": IMAGES}
    name = write(tmp_path / "data.npz", **pair, test_images=IMAGES, test_labels=LABELS[:, None])
    assert len(load(name).test) == 12


def test_a_file_with_a_stated_split(tmp_path):
    write(tmp_path / "data.npz", x_train=VECTORS, y_train=LABELS)
    assert len(load(f"npz,test=3:{tmp_path / 'data.npz'}").test) == 3
    assert len(load(f"npz,test=0.5:{tmp_path / 'data.npz'}").test) == 6


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"x": IMAGES, "y": LABELS}, "", "expected arrays x_train, y_train, .* got x, y"),
        (KERAS, ",test=3", "test must not be given: the file holds test arrays"),
        ({"x_train": IMAGES, "y_train": LABELS}, "", "test must say how many"),
        (KERAS | {"y_test": LABELS}, "", "image and label must have the same length"),
        (KERAS | {"y_train": np.array([None] * 12)}, "", "damaged, or not .*allow_pickle"),
        (KERAS, ",size=3", "options of npz are test"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_other_files_are_refused(tmp_path, arrays, options, message):
    path = tmp_path / "data.npz"
    write(path, **arrays)
    with pytest.raises(ValueError, match=message) as error:
        load(f"npz{options}:{path}")
    assert str(path) in str(error.value)


def test_missing_and_damaged_files_are_named(tmp_path):
    path = tmp_path / "data.npz"
    with pytest.raises(FileNotFoundError, match=r"data\.npz: there is no such file"):
        load(f"npz:{path}")
    name = write(path, **KERAS)
    content = path.read_bytes()
    place = content.index(IMAGES[0].tobytes())
    for damaged in (content[:place] + b"\0\1\2\3" + content[place + 4 :], content[:-9], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"data\.npz: damaged"):
            load(name)


def save(folder, **arrays):
    """Writes npy files."""
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return f"npy:{folder}"


@pytest.mark.parametrize("images", [IMAGES, VECTORS.astype(np.float32)], ids=["bytes", "floats"])
def test_images_of_a_folder_stay_in_their_files(images, tmp_path):
    arrays = {"x_train": images, "y_train": LABELS, "x_test": images[:5], "y_test": LABELS[:5]}
    mapped = load(save(tmp_path / "folder", **arrays))
    whole = load(write(tmp_path / "data.npz", **arrays))
    for one, other in ((mapped.train, whole.train), (mapped.test, whole.test)):
        assert is_mapped(one.image)
        assert is_mapped(one[2:4].image)
        assert not is_mapped(one[[1, 3]].image)
        assert not is_mapped(other.image)
        for found, expected in zip(one.arrays, other.arrays, strict=True):
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == expected.dtype
    assert Normalization.from_images(mapped.train.image) == Normalization.from_images(
        whole.train.image
    )


LATE = np.zeros((1200, 2), np.float32)
LATE[1100, 1] = np.inf


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (VECTORS, TypeError, "must be uint8 or float32 to stay in their file, got float64"),
        (np.asfortranarray(IMAGES), ValueError, "must be in C order"),
        (LATE, ValueError, "must be finite in float32, but image 1100"),
        (np.array([None] * 12), ValueError, r"x_test\.npy: damaged, or not .*numpy\.save"),
    ],
    ids=["double", "order", "nan", "objects"],
)
def test_what_cannot_stay_in_its_file_is_refused(images, error, message, tmp_path):
    labels = np.zeros(len(images), int)
    name = save(tmp_path / "folder", x_train=images, y_train=labels, x_test=images, y_test=labels)
    with pytest.raises(error, match=message) as raised:
        load(name)
    assert str(tmp_path / "folder") in str(raised.value)


def test_a_folder_without_arrays_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: there is no such folder"):
        load(f"npy:{tmp_path / 'none'}")
    with pytest.raises(ValueError, match="expected arrays x_train"):
        load(save(tmp_path / "empty"))
    with pytest.raises(ValueError, match="test must say how many"):
        load(save(tmp_path / "half", x_train=IMAGES, y_train=LABELS))
