"""Enlarges small images, for networks that expect larger ones."""

from __future__ import annotations

import numpy as np

from flatjax._checks import check_count
from flatjax.data._dataset import Split


def enlarge(split: Split, size: int = 32, channels: int = 3) -> Split:
    """Enlarges images to `size` x `size` with `channels` channels.

    The default is the shape of CIFAR. Each pixel becomes a square of pixels without interpolation,
    as large as fits (`size // max(H, W)`). A border of 0 fills the rest; an odd pixel is below and
    right. Grey images get equal channels. 28x28 images (Fashion-MNIST) get a border of two pixels.
    8x8 images (digits) fill 32x32 with squares of 4x4. No information is added. The images only fit
    networks and augmentations that expect CIFAR's shape.

    Args:
      split: the examples.
      size: height and width of the result, in pixels; not smaller than the images.
      channels: channels of the result; any number for grey images, else as in the images.

    Returns:
      The examples with images (N, size, size, channels). Fashion-MNIST then takes 215 MB.

    Raises:
      TypeError: `size` or `channels` is not an int.
      ValueError: the images are larger, or have several channels but not `channels` of them.

    Examples:
      >>> from flatjax.data import enlarge, load
      >>> enlarge(load("digits").train)
      Split(image=uint8(1297, 32, 32, 3), label=int32(1297,))

    See Also:
      `load` (reads the images), `from_arrays` (makes the data set).
    """
    check_count("size", size, minimum=1)
    check_count("channels", channels, minimum=1)
    count, height, width, old_channels = split.image.shape
    if max(height, width) > size:
        raise ValueError(
            f"size must be at least the size of the images, {height}x{width}, got {size}"
        )
    if old_channels not in (1, channels):
        raise ValueError(f"channels must be {old_channels}, as in the images, got {channels}")
    factor = size // max(height, width)
    top, left = ((size - factor * length) // 2 for length in (height, width))
    image = np.zeros((count, size, size, channels), split.image.dtype)
    filled = image[:, top : top + factor * height, left : left + factor * width]
    filled[...] = split.image.repeat(factor, axis=1).repeat(factor, axis=2)
    return Split(image=image, label=split.label)
