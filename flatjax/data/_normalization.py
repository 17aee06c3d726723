"""Normalization of images, channel by channel."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from flatjax._checks import check_number, described


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Normalization:
    r"""Shifts and scales each channel to mean 0 and standard deviation 1.

    .. math::
      x = \frac{v / 255 - \mathrm{mean}_c}{\mathrm{std}_c}

    It is hashable and a static pytree node: it may be closed over by, or passed to, a jitted
    function, where its numbers become constants.

    Attributes:
      mean: mean of each channel, in units of the full range 255.
      std: standard deviation of each channel, in the same units.

    Raises:
      ValueError: if lengths differ, or a standard deviation is not positive.

    Examples:
      >>> import jax.numpy as jnp
      >>> normalization = Normalization(mean=(0.5,), std=(0.25,))
      >>> normalization.normalize(jnp.array([[[[0], [255]]]], jnp.uint8)).ravel().tolist()
      [-2.0, 2.0]
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

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

    @classmethod
    def from_images(cls, images: np.ndarray) -> Normalization:
        """Measures each channel over all pixels of all images; take the training images.

        Args:
          images: uint8 of shape (N, H, W, C).

        Returns:
          The normalization that gives these images mean 0 and standard deviation 1.

        Raises:
          TypeError: if `images` is not a uint8 NumPy array.
          ValueError: if it has another shape, or a channel is constant (its std would be 0).

        Examples:
          >>> from flatjax.data import load
          >>> digits = Normalization.from_images(load("digits").train.image)
          >>> print(f"{digits.mean[0]:.3f} {digits.std[0]:.3f}")
          0.305 0.376
        """
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            raise TypeError(f"images must be a NumPy array of uint8, got {described(images)}")
        if images.ndim != 4 or images.size == 0:
            raise ValueError(f"images must have shape (N, H, W, C), got {images.shape}")
        values = np.arange(256) / 255
        mean, std = [], []
        for channel in np.moveaxis(images, -1, 0):
            # Moments of the histogram: exact counts, and no floating-point copy of the images.
            histogram = np.zeros(256, np.int64)
            for chunk in np.array_split(channel, len(channel) // 1000 + 1):
                histogram += np.bincount(chunk.ravel(), minlength=256)
            frequency = histogram / histogram.sum()
            mean.append(frequency @ values)
            std.append(np.sqrt(frequency @ (values - mean[-1]) ** 2))
        return cls(mean=tuple(mean), std=tuple(std))

    def normalize(self, images: jax.Array | np.ndarray) -> jax.Array:
        """Normalizes images; pure, for use inside or outside of jit.

        Args:
          images: uint8 of shape (..., H, W, C).

        Returns:
          float32 of the same shape.

        Raises:
          TypeError: if `images` are not uint8, as they are when they were normalized before.
          ValueError: if the number of channels is another.
        """
        if images.dtype != jnp.uint8:
            raise TypeError(f"images must be uint8, got {described(images)}")
        if images.shape[-1] != len(self.mean):
            raise ValueError(
                f"images must have {len(self.mean)} channels, got shape {images.shape}"
            )
        # All axes written out, for users who have jax_numpy_rank_promotion="raise".
        shape = (1,) * (images.ndim - 1) + (-1,)
        moments = (jnp.asarray(moment, jnp.float32) for moment in (self.mean, self.std))
        mean, std = (moment.reshape(shape) for moment in moments)
        return (jnp.asarray(images, jnp.float32) / 255 - mean) / std
