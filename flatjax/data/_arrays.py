"""Makes data sets from arrays in memory or in a NumPy file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flatjax._checks import check_choice, check_count, described
from flatjax.data._dataset import Dataset, Split
from flatjax.data._subsets import split_validation

TaskKind = Literal["classification", "regression"]

# Names of the arrays in the files of Keras's data sets and of MedMNIST.
_NAMES = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
_SHOWN = 5  # labels in a warning


def from_arrays(
    train: tuple[Any, Any],
    test: tuple[Any, Any] | float | int,
    *,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    task: TaskKind = "classification",
    name: str = "arrays",
) -> Dataset:
    """Makes a data set of arrays.

    Args:
      train: images and labels. Images have shape (N, H, W, C), or (N, H, W) if they are grey.
        Vectors of shape (N, D) become images of one pixel with D channels, so that each feature is
        normalized by itself. Values are uint8, 0 to 255, or finite floats, which become float32.
        Labels are integers of shape (N,) or (N, 1), counted from 0. For a regression they are
        finite numbers of shape (N,) or (N, D).
      test: images and labels for testing; or the number or fraction of the examples in `train` that
        are set aside for testing (`split_validation` with seed 0).
      num_classes: number of classes; by default the length of `class_names`, else the largest
        label + 1. For a regression: number of targets.
      class_names: the names of the classes, in the order of the labels; or of the targets.
      task: `"classification"` or `"regression"`.
      name: the name of the data set.

    Returns:
      The data set. uint8 images in C order are not copied.

    Raises:
      TypeError: an array has a dtype that is not listed above.
      ValueError: shapes are not listed above, do not fit together, or seem to have channels first;
        or values are not finite.

    Warns:
      UserWarning: no training example has some label below the largest one, and neither
        `num_classes` nor `class_names` is given. The labels may start at 1.

    Examples:
      >>> rng = np.random.default_rng(0)
      >>> x, y = rng.normal(size=(100, 5)), np.arange(100) % 3
      >>> from_arrays((x, y), test=0.2)
      Dataset(name='arrays', train=Split(image=float32(80, 1, 1, 5), label=int32(80,)),
              test=Split(image=float32(20, 1, 1, 5), label=int32(20,)), num_classes=3)

    See Also:
      `from_folder` (for files of images), `load` (for known data sets), `split_validation` (holds
      examples out).
    """
    check_choice("task", task, ("classification", "regression"))
    is_regression = task == "regression"
    first = make_split("train", train, regression=is_regression)
    if isinstance(test, tuple | list):
        splits = first, make_split("test", test, regression=is_regression)
    else:
        splits = split_validation(first, test, seed=0)
    names = None if class_names is None else tuple(map(str, class_names))
    if is_regression and num_classes is None:
        num_classes = first.label.shape[1]
    elif num_classes is None and names is not None:
        num_classes = len(names)
    elif num_classes is None:
        num_classes = 1 + max(int(split.label.max()) for split in splits)
        _warn_of_empty_classes(splits[0].label, num_classes)
    check_count("num_classes", num_classes, minimum=1)
    return Dataset(name, *splits, num_classes=num_classes, class_names=names)


def from_npz(
    path: str | os.PathLike[str],
    *,
    test: float | int | None = None,
    task: TaskKind = "classification",
    name: str | None = None,
) -> Dataset:
    """Loads the arrays of an npz file; `flatjax.data.load` lists their names.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged or does not hold these arrays. Python objects are not loaded.
    """
    file = Path(path).expanduser()
    return _named(file, _read(file), test, task, name or f"npz:{path}")


def from_npy(
    path: str | os.PathLike[str], *, task: TaskKind = "classification", name: str | None = None
) -> Dataset:
    """Maps the images in a folder of npy files; `flatjax.data.load` has their names.

    The images stay in the files; the operating system reads the examples that are used. They are
    uint8 or float32 in C order, as `numpy.save` writes arrays. Labels are read at once.

    Raises:
      FileNotFoundError: there is no such folder.
      TypeError: images are of another dtype.
      ValueError: a file is damaged, or the folder does not hold these arrays.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    arrays = {file.stem: _map(file) for file in sorted(folder.glob("*.npy"))}
    return _named(folder, arrays, None, task, name or f"npy:{path}")


def is_mapped(array: Any) -> bool:
    """Whether an array lies in a file, or is a view of one that does.

    Examples:
      >>> is_mapped(np.zeros(3)[1:])
      False
    """
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


def _named(
    file: Path,
    arrays: dict[str, np.ndarray],
    test: float | int | None,
    task: TaskKind,
    name: str,
) -> Dataset:
    """Makes a data set of arrays by their names in a file or folder."""
    expected = " or ".join(", ".join(names) for names in _NAMES)
    names = next((names for names in _NAMES if set(names[:2]) <= arrays.keys()), None)
    if names is None:
        raise ValueError(f"{file}: expected arrays {expected}, got {', '.join(sorted(arrays))}")
    has_test = set(names[2:]) <= arrays.keys()
    if has_test and test is not None:
        raise ValueError(f"{file}: test must not be given: the file holds test arrays")
    if not has_test and test is None:
        raise ValueError(
            f"{file}: test must say how many of the examples are for testing (0.2, or a number): "
            f"there are no arrays {names[2]}, {names[3]}"
        )
    pair = lambda images, labels: (arrays[images], arrays[labels])
    class_names = arrays["class_names"].tolist() if "class_names" in arrays else None
    try:
        return from_arrays(
            pair(*names[:2]),
            pair(*names[2:]) if test is None else test,
            class_names=class_names,
            task=task,
            name=name,
        )
    except (TypeError, ValueError) as error:
        raise type(error)(f"{file}: {error}") from error


def _read(file: Path) -> dict[str, np.ndarray]:
    """Reads all arrays; checksums of the zip file are checked."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such file")
    wanted = {name for names in _NAMES for name in names} | {"class_names"}
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            names = archive.files
            return {name: archive[name] if name in wanted else np.zeros(0) for name in names}
    except MemoryError:
        raise
    except Exception as error:  # of any kind if bits of the headers are wrong
        raise ValueError(
            f"{file}: damaged, or not a file that numpy.savez wrote ({error})"
        ) from error


def _map(file: Path) -> np.ndarray:
    """Maps the array of an npy file."""
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # of any kind if bits of the header are wrong
        raise ValueError(
            f"{file}: damaged, or not a file that numpy.save wrote ({error})"
        ) from error


def make_split(name: str, pair: Any, *, regression: bool = False) -> Split:
    """Makes a split of images and labels, with the axes and dtypes of `from_arrays`."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"{name} must be a pair of images and labels, got {type(pair).__name__}")
    label = _target if regression else _label
    return Split(_image(f"{name} images", pair[0]), label(f"{name} labels", pair[1]))


def _image(name: str, values: Any) -> np.ndarray:
    image = np.asarray(values)
    if is_mapped(image) and image.dtype not in (np.uint8, np.float32):
        raise TypeError(
            f"{name} must be uint8 or float32 to stay in their file, got {described(image)}"
        )
    if is_mapped(image) and not image.flags.c_contiguous:
        raise ValueError(f"{name} must be in C order to stay in their file")
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise TypeError(
            f"{name} must be uint8, 0 to 255, or floating point, got {described(image)}: convert "
            "them with .astype(np.uint8) or .astype(np.float32)"
        )
    if image.ndim not in (2, 3, 4) or not image.size:
        raise ValueError(
            f"{name} must have shape (N, H, W, C), (N, H, W) or (N, D), got {image.shape}"
        )
    if image.ndim == 4 and image.shape[1] in (1, 3) and image.shape[2] == image.shape[3] > 4:
        raise ValueError(
            f"{name} must have their channels last, got {image.shape}: "
            "pass np.moveaxis(images, 1, -1)"
        )
    if image.ndim == 3:
        image = image[..., None]
    if image.ndim == 2:
        image = image[:, None, None, :]
    if image.dtype != np.uint8:
        with np.errstate(over="ignore"):
            image = image.astype(np.float32, copy=not is_mapped(image))
        for start in range(0, len(image), 1000):  # the mask of all of a large file is large, too
            if not np.isfinite(part := image[start : start + 1000]).all():
                place = start + int(np.argwhere(~np.isfinite(part))[0][0])
                raise ValueError(f"{name} must be finite in float32, but image {place} is not")
    return np.ascontiguousarray(image)


def _target(name: str, values: Any) -> np.ndarray:
    target = np.asarray(values)
    if not (np.issubdtype(target.dtype, np.floating) or np.issubdtype(target.dtype, np.integer)):
        raise TypeError(f"{name} must be numbers, got {described(target)}")
    if target.ndim not in (1, 2) or not target.size:
        raise ValueError(f"{name} must have shape (N,) or (N, D), got {target.shape}")
    with np.errstate(over="ignore"):
        target = target.astype(np.float32).reshape(len(target), -1)
    if not np.isfinite(target).all():
        raise ValueError(f"{name} must be finite in float32")
    return np.ascontiguousarray(target)


def _label(name: str, values: Any) -> np.ndarray:
    label = np.asarray(values)
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    if label.ndim == 2:
        raise ValueError(
            f"{name} must have shape (N,), got {label.shape}: "
            "for one-hot labels pass .argmax(axis=1)"
        )
    if not np.issubdtype(label.dtype, np.integer):
        raise TypeError(f"{name} must be integers, got {described(label)}: {_remedy(label)}")
    if label.size and not 0 <= int(label.min()) <= int(label.max()) < 2**31:
        raise ValueError(f"{name} must be counted from 0, got {label.min()} to {label.max()}")
    return label.astype(np.int32)


def _remedy(label: np.ndarray) -> str:
    """Says what to do with labels that are no integers."""
    if label.dtype.kind in "USO":
        return (
            "number the names by names, y = np.unique(y, return_inverse=True), and pass them as "
            "class_names=names (in a file: the array class_names)"
        )
    is_whole = label.dtype.kind == "f" and np.array_equal(label, np.round(label))
    if label.dtype.kind == "b" or is_whole:
        return "pass y.astype(int)"
    return "targets need task='regression', in a command --dataset npz,task=regression:PATH"


def _warn_of_empty_classes(label: np.ndarray, num_classes: int) -> None:
    """Warns if no training example has some label."""
    found = np.unique(label)
    missing = num_classes - len(found)
    if missing:
        first = np.setdiff1d(np.arange(min(num_classes, len(found) + _SHOWN)), found)[:_SHOWN]
        shown = ", ".join(map(str, first)) + (f" and {missing - _SHOWN} more" * (missing > _SHOWN))
        warnings.warn(
            f"no training example has label {shown} (of {num_classes} classes). Labels are counted "
            "from 0: subtract 1 if they start at 1. If classes are meant to be empty, pass "
            "num_classes or class_names.",
            stacklevel=3,
        )
