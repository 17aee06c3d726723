"""Pooling of non-overlapping windows."""

import functools

import jax
import jax.numpy as jnp

from flatjax._checks import check_count


def max_pool(x: jax.Array, window: int = 2) -> jax.Array:
    """Returns the maximum over non-overlapping `window` x `window` squares.

    Values are those of `flax.linen.max_pool(x, (window, window), strides=(window, window))`: rows
    and columns that do not fill a window are cropped ("VALID"). The function is a reshape and
    maxima, because the gradient of a windowed reduction (select-and-scatter) is slow. With it, a
    training step of `SmallConvNet` on CPU took 1.2 to 3.3 times as long, depending on the widths.
    If several pixels of a window share the maximum, the gradient is split between them (halved at
    each comparison of equals). The windowed reduction gives it to the first one.

    Args:
      x: feature maps, shape (..., H, W, C) with H and W at least `window`.
      window: the side of a window, in pixels.

    Returns:
      Shape (..., H // window, W // window, C).

    Raises:
      TypeError: `window` is not an int.
      ValueError: `window` is below 1, or `x` is smaller than a window.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax.models._pooling import max_pool
      >>> max_pool(jnp.arange(20.0).reshape(4, 5, 1))[..., 0]
      Array([[ 6.,  8.],
             [16., 18.]], dtype=float32)

    See Also:
      `mean_pool` (means), `conv_general_dilated` (faster convolutions).
    """
    # The gradient of `max` over an axis divides by the number of elements that equal the maximum.
    # This can be 0 if the compiler computes `x` again with other rounding. The gradient of
    # `maximum` is never NaN.
    pixels = _windows(x, window)
    rows = [
        functools.reduce(jnp.maximum, [pixels[..., i, :, j, :] for j in range(window)])
        for i in range(window)
    ]
    return functools.reduce(jnp.maximum, rows)


def mean_pool(x: jax.Array, window: int = 2) -> jax.Array:
    """Returns the mean over non-overlapping `window` x `window` squares.

    Args:
      x: feature maps, shape (..., H, W, C) with H and W at least `window`. Rows and columns that
        do not fill a window are cropped.
      window: the side of a window, in pixels.

    Returns:
      Shape (..., H // window, W // window, C).

    Raises:
      TypeError: `window` is not an int.
      ValueError: `window` is below 1, or `x` is smaller than a window.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax.models._pooling import mean_pool
      >>> mean_pool(jnp.arange(20.0).reshape(4, 5, 1))[..., 0]
      Array([[ 3.,  5.],
             [13., 15.]], dtype=float32)

    See Also:
      `max_pool` (maxima).
    """
    return _windows(x, window).mean(axis=(-4, -2))


def _windows(x: jax.Array, window: int) -> jax.Array:
    """Reshapes to (..., H // window, window, W // window, window, C)."""
    check_count("window", window)
    if x.ndim < 3 or min(x.shape[-3:-1]) < window:
        raise ValueError(
            f"x must have shape (..., H, W, C) with H and W >= {window}, got {x.shape}."
        )
    *batch, height, width, channels = x.shape
    rows, columns = height // window, width // window
    x = x[..., : rows * window, : columns * window, :]
    return x.reshape(*batch, rows, window, columns, window, channels)
