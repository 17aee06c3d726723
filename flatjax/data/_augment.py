"""Random augmentation of batches: pure functions `(key, images) -> images`.

Each image of a batch gets its own randomness. Shapes are static and dtypes are kept, so that the
functions may be jitted, and vmapped over replicas: `jax.vmap(augment)(keys, images)` with images
(y, B, H, W, C). New pixels (the border of `random_crop`, the square of `cutout`) are 0, which is
black in uint8 images and the mean colour in normalized ones. The usual order is to augment, then
normalize.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flatjax._checks import check_count

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability 1/2.

    Args:
      key: a PRNG key.
      images: shape (B, H, W, C), of any dtype.

    Returns:
      The images; some of them are mirrored.

    Raises:
      ValueError: `images` have another number of axes.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> images = jnp.arange(3, dtype=jnp.uint8).reshape(1, 1, 3, 1).repeat(4, axis=0)
      >>> random_flip(jax.random.key(0), images).squeeze().tolist()
      [[0, 1, 2], [0, 1, 2], [2, 1, 0], [2, 1, 0]]

    See Also:
      `compose` (several changes), `random_crop` (moves).
    """
    check_images(images)
    mirrored = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def random_crop(padding: int = 4) -> Augmentation:
    """Shifts each image by up to `padding` pixels along each axis, filling with 0.

    The image is padded on all four sides. A window of the old size is cut out of it at one of (2
    padding + 1)^2 places with equal probability.

    Args:
      padding: largest shift, in pixels.

    Returns:
      The augmentation.

    Raises:
      TypeError: `padding` is not an int.
      ValueError: `padding` is negative; or, when called, the images do not have four axes.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> random_crop(padding=1)(jax.random.key(0), jnp.ones((8, 28, 28, 1))).shape
      (8, 28, 28, 1)

    See Also:
      `compose` (several changes), `random_flip` (mirrors).
    """
    padding = check_count("padding", padding, minimum=0)

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        check_images(images)
        count, *window = images.shape
        padded = jnp.pad(images, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
        corners = jax.random.randint(key, (count, 2), 0, 2 * padding + 1)
        # The fastest on CPU of seven forms: take_along_axis was twice as slow.
        cut = lambda image, corner: jax.lax.dynamic_slice(image, (*corner, 0), window)
        return jax.vmap(cut)(padded, corners)

    return augment


def cutout(size: int) -> Augmentation:
    """Sets a square of each image to 0 (DeVries and Taylor 2017, arXiv:1708.04552).

    The centre is uniform over the pixels. The part of the square outside the image is lost. For an
    even size, the centre is the pixel below and right of the middle.

    Args:
      size: side of the square, in pixels.

    Returns:
      The augmentation.

    Raises:
      TypeError: `size` is not an int.
      ValueError: `size` is not positive; or, when called, the images do not have four axes.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> cutout(size=1)(jax.random.key(0), jnp.ones((2, 8, 8, 1))).sum(axis=(1, 2, 3)).tolist()
      [63.0, 63.0]

    See Also:
      `compose` (several changes), `random_crop` (moves).
    """
    size = check_count("size", size, minimum=1)

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        check_images(images)
        count, height, width, _ = images.shape
        keys = jax.random.split(key)

        def inside(axis_key: jax.Array, length: int) -> jax.Array:
            first = jax.random.randint(axis_key, (count, 1), 0, length) - size // 2
            offset = jnp.arange(length)[None] - first
            return (offset >= 0) & (offset < size)

        blank = inside(keys[0], height)[:, :, None] & inside(keys[1], width)[:, None, :]
        return jnp.where(blank[..., None], jnp.zeros((), images.dtype), images)

    return augment


def compose(*augmentations: Augmentation) -> Augmentation:
    """Applies augmentations one after the other, each with its own key.

    Args:
      *augmentations: functions `(key, images) -> images`, the first applied first.

    Returns:
      The augmentation; with no arguments, the identity.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> augment = jax.jit(compose(random_flip, random_crop(padding=4), cutout(8)))
      >>> images = augment(jax.random.key(0), jnp.ones((8, 32, 32, 3), jnp.uint8))
      >>> images.shape, images.dtype
      ((8, 32, 32, 3), dtype('uint8'))

    See Also:
      `random_crop` (moves), `random_flip` (mirrors), `cutout` (hides a square), `autoaugment`
      (learned policies).
    """

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        for position, augmentation in enumerate(augmentations):
            images = augmentation(jax.random.fold_in(key, position), images)
        return images

    return augment


def check_images(images: jax.Array) -> None:
    """Raises if the argument is not a batch of images (B, H, W, C)."""
    if images.ndim != 4:
        raise ValueError(
            f"images must have shape (B, H, W, C), got {images.shape}; "
            "over a further leading axis, use jax.vmap with a key for each"
        )
