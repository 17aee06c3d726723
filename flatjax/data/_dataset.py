"""Data sets as validated NumPy arrays."""

from __future__ import annotations

import dataclasses

import numpy as np

from flatjax._checks import check_class_names, described

_IMAGE_SHAPES = {"uint8": ("(N, H, W, C)", 4), "float32": ("(N, H, W, C)", 4)}
_LABEL_SHAPES = {"int32": ("(N,)", 1), "float32": ("(N, D)", 2)}


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Labelled images, or inputs and targets of a regression, in host memory.

    Attributes:
      image: the images, of shape (N, H, W, C): uint8, 0 to 255, or float32 of any range.
      label: the classes, int32 of shape (N,), counted from 0; or the targets of a regression,
        float32 of shape (N, D).

    Raises:
      TypeError: an array is not a NumPy array or has another dtype.
      ValueError: the shapes do not fit together, the split is empty, a label is negative, or a
        target is not finite.

    Examples:
      >>> import numpy as np
      >>> split = Split(image=np.zeros((3, 8, 8, 1), np.uint8), label=np.arange(3, dtype=np.int32))
      >>> split
      Split(image=uint8(3, 8, 8, 1), label=int32(3,))
      >>> len(split)
      3

    See Also:
      `Dataset` (holds two of them), `eval_batches` (cuts it into batches), `to_device` (puts it on
      the device).
    """

    image: np.ndarray
    label: np.ndarray

    def __post_init__(self) -> None:
        for name, shapes in (("image", _IMAGE_SHAPES), ("label", _LABEL_SHAPES)):
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype.name not in shapes:
                raise TypeError(
                    f"{name} must be a NumPy array of {' or '.join(shapes)}, got {described(array)}"
                )
            axes, ndim = shapes[array.dtype.name]
            if array.ndim != ndim or array.size == 0:
                raise ValueError(
                    f"{name} must have shape {axes} and not be empty, got {array.shape}"
                )
        if len(self.image) != len(self.label):
            raise ValueError(
                "image and label must have the same length, "
                f"got {len(self.image)} images and {len(self.label)} labels"
            )
        if self.is_regression and not np.isfinite(self.label).all():
            raise ValueError("label must be finite, but a target is not")
        if not self.is_regression and self.label.min() < 0:
            raise ValueError(f"label must not be negative, got a label {self.label.min()}")

    @property
    def is_regression(self) -> bool:
        """Whether labels are targets of a regression, not classes."""
        return self.label.dtype == np.float32

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All arrays, each with one row for an example."""
        return self.image, self.label

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: np.ndarray | slice) -> Split:
        """Returns the examples at `index`: an array of positions, a mask or a slice."""
        return Split(image=self.image[index], label=self.label[index])

    def __repr__(self) -> str:
        return f"Split(image={described(self.image)}, label={described(self.label)})"


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A classification or regression task with a training and a test split.

    Attributes:
      name: the name by which it was loaded.
      train: the training examples.
      test: the test examples.
      num_classes: number of classes; labels are below it. Of a regression: number of targets D.
      class_names: the name of each class, in the order of the labels; None if they have none.

    Raises:
      ValueError: images of the two splits differ in shape or dtype, a label is not a class, or the
        numbers of names and classes differ.

    Examples:
      >>> from flatjax.data import load
      >>> digits = load("digits")
      >>> digits
      Dataset(name='digits', train=Split(image=uint8(1297, 8, 8, 1), label=int32(1297,)),
              test=Split(image=uint8(500, 8, 8, 1), label=int32(500,)), num_classes=10)
      >>> digits.image_shape, digits.class_names[:3]
      ((8, 8, 1), ('0', '1', '2'))

    See Also:
      `load` (reads one by its name), `from_arrays` (makes one), `split_validation` (holds examples
      out).
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.train.image.shape[1:] != self.test.image.shape[1:]:
            raise ValueError(
                "train and test images must have one shape (H, W, C), "
                f"got {self.train.image.shape[1:]} and {self.test.image.shape[1:]}"
            )
        if self.train.image.dtype != self.test.image.dtype:
            raise ValueError(
                "train and test images must have one dtype, "
                f"got {self.train.image.dtype} and {self.test.image.dtype}"
            )
        if self.train.is_regression != self.test.is_regression:
            raise ValueError("train and test must both have classes, or both have targets")
        for name in ("train", "test"):
            check_labels(name, getattr(self, name), self.num_classes)
        check_class_names(self.class_names, self.num_classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Returns height, width and channels of an image."""
        return self.train.image.shape[1:]


def check_labels(name: str, split: Split, num_classes: int) -> None:
    """Raises if a label is not a class, or the number of targets is wrong."""
    if split.is_regression:
        if split.label.shape[1] != num_classes:
            raise ValueError(
                f"{name} must have num_classes={num_classes} targets, got {split.label.shape[1]}"
            )
    elif split.label.max() >= num_classes:
        raise ValueError(
            f"{name} labels must be below num_classes={num_classes}, "
            f"got a label {split.label.max()}"
        )
