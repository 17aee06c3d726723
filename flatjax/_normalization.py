"""Normalization of images, channel by channel."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from flatjax._checks import check_number, described


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Normalization:
    r"""Shifts and scales each channel to mean 0 and standard deviation 1.

    .. math::
      x = \frac{v / r - \mathrm{mean}_c}{\mathrm{std}_c}

    with the range r = 255 for uint8 images v, and r = 1 for float32 images.

    It is hashable and a static pytree node. A jitted function may close over it or take it as an
    argument; its numbers become constants of the program.

    Attributes:
      mean: mean of each channel, in units of the range r.
      std: standard deviation of each channel, in the same units.
      dtype: the dtype of the images, `"uint8"` or `"float32"`.

    Raises:
      ValueError: lengths differ, a standard deviation is not positive, or the dtype is unknown.

    Examples:
      >>> import jax.numpy as jnp
      >>> normalization = Normalization(mean=(0.5,), std=(0.25,))
      >>> normalization.normalize(jnp.array([[[[0], [255]]]], jnp.uint8)).ravel().tolist()
      [-2.0, 2.0]

    See Also:
      `from_arrays` (measures it), `flatjax.models.save` (keeps it with a model).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: Literal["uint8", "float32"] = "uint8"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, Iterable):
                raise TypeError(f"{name} must hold one number for each channel, got {values!r}")
            values = tuple(check_number(f"{name}[{c}]", value) for c, value in enumerate(values))
            object.__setattr__(self, name, values)
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(
                "mean and std must hold one number for each channel, "
                f"got {len(self.mean)} and {len(self.std)} numbers"
            )
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std must be positive in every channel, got {self.std}")
        if self.dtype not in ("uint8", "float32"):
            raise ValueError(f"dtype must be 'uint8' or 'float32', got {self.dtype!r}")

    @classmethod
    def from_images(cls, images: np.ndarray) -> Normalization:
        """Measures each channel over all pixels of all images; pass the training images.

        Args:
          images: uint8 or float32, of shape (N, H, W, C).

        Returns:
          The normalization that gives these images mean 0 and standard deviation 1.

        Raises:
          TypeError: `images` is not a NumPy array of uint8 or float32.
          ValueError: it has another shape, or a channel is constant (its std would be 0).

        Examples:
          >>> from flatjax.data import load
          >>> digits = Normalization.from_images(load("digits").train.image)
          >>> print(f"{digits.mean[0]:.3f} {digits.std[0]:.3f}")
          0.305 0.376
        """
        if not isinstance(images, np.ndarray) or images.dtype not in ("uint8", "float32"):
            raise TypeError(
                f"images must be a NumPy array of uint8 or float32, got {described(images)}"
            )
        if images.ndim != 4 or images.size == 0:
            raise ValueError(f"images must have shape (N, H, W, C), got {images.shape}")
        is_float = images.dtype == np.float32
        mean, std = _moments_of_floats(images) if is_float else _moments_of_bytes(images)
        if is_float and len(constant := np.flatnonzero(std == 0)):
            raise ValueError(
                f"images must vary in every channel, but {len(constant)} are constant "
                f"({constant[:5].tolist()}...): leave them out"
            )
        dtype: Any = images.dtype.name
        return cls(mean=tuple(mean.tolist()), std=tuple(std.tolist()), dtype=dtype)

    def normalize(self, images: jax.Array | np.ndarray) -> jax.Array:
        """Normalizes images. It is a pure function, for use inside or outside of jit.

        Args:
          images: images in this normalization's dtype, of shape (..., H, W, C).

        Returns:
          float32 of the same shape.

        Raises:
          TypeError: `images` have another dtype. If uint8 is expected, float images have probably
            been normalized before.
          ValueError: the number of channels is wrong.
        """
        if images.dtype != jnp.dtype(self.dtype):
            raise TypeError(f"images must be {self.dtype}, got {described(images)}")
        if images.shape[-1] != len(self.mean):
            raise ValueError(
                f"images must have {len(self.mean)} channels, got shape {images.shape}"
            )
        # All axes are written out, for users who set jax_numpy_rank_promotion="raise".
        shape = (1,) * (images.ndim - 1) + (-1,)
        moments = (jnp.asarray(moment, jnp.float32) for moment in (self.mean, self.std))
        mean, std = (moment.reshape(shape) for moment in moments)
        values = jnp.asarray(images, jnp.float32)
        values = values / 255 if self.dtype == "uint8" else values
        return (values - mean) / std


def _moments_of_bytes(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel of uint8 images, in units of 255."""
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in np.moveaxis(images, -1, 0):
        # Histograms give exact counts, and need no floating-point copy of the images.
        histogram = np.zeros(256, np.int64)
        for chunk in _chunks(channel):
            histogram += np.bincount(chunk.ravel(), minlength=256)
        frequency = histogram / histogram.sum()
        mean.append(frequency @ values)
        std.append(np.sqrt(frequency @ (values - mean[-1]) ** 2))
    return np.array(mean), np.array(std)


def _moments_of_floats(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, in double precision."""
    count = images.size // images.shape[-1]
    sums = [chunk.sum((0, 1, 2), np.float64) for chunk in _chunks(images)]
    mean = np.sum(sums, axis=0) / count
    # The deviations of a constant channel are exactly 0 only if its mean is exact.
    is_constant = np.all([(c == images[0, 0, 0]).all((0, 1, 2)) for c in _chunks(images)], axis=0)
    mean = np.where(is_constant, images[0, 0, 0], mean)
    squares = [np.square(chunk - mean).sum((0, 1, 2)) for chunk in _chunks(images)]
    return mean, np.sqrt(np.sum(squares, axis=0) / count)


def _chunks(images: np.ndarray) -> list[np.ndarray]:
    """Splits images into parts of about a thousand, so that copies stay small."""
    return np.array_split(images, len(images) // 1000 + 1)
