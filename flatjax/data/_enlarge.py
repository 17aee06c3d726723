"""Small images as larger ones with more channels, for networks made for those."""

from __future__ import annotations

import numpy as np

from flatjax._checks import check_count
from flatjax.data._dataset import Split


def enlarge(split: Split, size: int = 32, channels: int = 3) -> Split:
    """Presents images as `size` x `size` with `channels` channels, those of CIFAR by default.

    Each pixel becomes a square of pixels, as large as fits (`size // max(H, W)`), without
    interpolation, and a border of 0 makes up the rest, its odd pixel below and right. Grey images
    get equal channels. 28x28 images (Fashion-MNIST) get a border of two pixels; 8x8 images (digits)
    fill 32x32 with squares of 4x4. No information is added: the images only fit networks, and
    augmentations, that expect CIFAR's shape.

    Args:
      split: the examples.
      size: height and width of the result, in pixels; at least those of the images.
      channels: channels of the result; those of the images, or any number for grey ones.

    Returns:
      The examples with images (N, size, size, channels). Fashion-MNIST takes 215 MB so.

    Raises:
      TypeError: if `size` or `channels` is not an int.
      ValueError: if the images are larger, or have several channels and not `channels` of them.

    Examples:
      >>> from flatjax.data import enlarge, load
      >>> enlarge(load("digits").train)
      Split(image=uint8(1297, 32, 32, 3), label=int32(1297,))
    """
    check_count("size", size, minimum=1)
    check_count("channels", channels, minimum=1)
    count, height, width, old_channels = split.image.shape
    if max(height, width) > size:
        raise ValueError(f"size must be at least that of the images, {height}x{width}, got {size}")
    if old_channels not in (1, channels):
        raise ValueError(f"channels must be {old_channels}, as in the images, got {channels}")
    factor = size // max(height, width)
    top, left = ((size - factor * length) // 2 for length in (height, width))
    image = np.zeros((count, size, size, channels), split.image.dtype)
    filled = image[:, top : top + factor * height, left : left + factor * width]
    filled[...] = split.image.repeat(factor, axis=1).repeat(factor, axis=2)
    return Split(image=image, label=split.label)
