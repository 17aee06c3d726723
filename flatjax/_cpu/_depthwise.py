"""Depthwise convolution: every channel has its own kernel."""

import functools

import jax
import jax.numpy as jnp


# Networks repeat layers: a jitted function is traced only once for each shape.
@functools.partial(jax.jit, static_argnames="stride")
def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    r"""Convolves each channel with its own kernel.

    .. math::
      y_{bijc} = \sum_{uv} k_{uvc} \, x_{b,\, s i + u - p,\, s j + v - p,\, c}, \quad
      p = (k - 1) / 2

    with stride s and zeros beyond the border (PyTorch's `padding=p`).

    On CPU the sum over u and v is computed as it is written, by a loop over both for each image.
    Elsewhere this is a grouped convolution.

    XLA's grouped convolutions are slow on CPU: forward and backward through the layer took 5 to 17
    times as long. This was measured for batches of 32, 32 x 32 to 8 x 8 pixels, kernels 3 and 5,
    strides 1 and 2. With the k^2 terms written out instead of a loop, the layer takes 1.3 to 3.2
    times as long, and a network compiles twice as long. A sum over the whole batch is slower than
    one image at a time.
    The loop can be removed when `_grouped` is as fast on a CPU, forward and backward.

    Args:
      x: maps, shape (B, H, W, C).
      kernel: shape (k, k, 1, C), with k odd.
      stride: s, in pixels.

    Returns:
      Maps, shape (B, ceil(H / s), ceil(W / s), C).

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax._cpu import depthwise_conv
      >>> depthwise_conv(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), 2)[0, ..., 0]
      Array([[4., 6.],
             [6., 9.]], dtype=float32)
    """
    if not x.size:
        return x[:, ::stride, ::stride]
    return jax.lax.platform_dependent(
        cpu=lambda: _one_by_one(x, kernel, stride), default=lambda: _grouped(x, kernel, stride)
    )


def _one_by_one(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return jax.lax.map(lambda image: _sum_of_shifts(image, kernel, stride), x)


def _sum_of_shifts(image: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Computes the convolution of one image (H, W, C)."""
    size = len(kernel)
    border = (size - 1) // 2
    rows, columns = (stride * ((pixels - 1) // stride) + 1 for pixels in image.shape[:2])
    # In half precision each of the k^2 additions would round.
    wide = jnp.promote_types(image.dtype, jnp.float32)
    padded = jnp.pad(image.astype(wide), ((border, border), (border, border), (0, 0)))

    def add_shifted(total, offset):
        u, v = offset
        shifted = jax.lax.dynamic_slice(padded, (u, v, 0), (rows, columns, image.shape[2]))
        return total + shifted[::stride, ::stride] * kernel[u, v, 0], None

    total = jnp.zeros_like(padded[:rows:stride, :columns:stride])
    offsets = jnp.divmod(jnp.arange(size**2), size)
    return jax.lax.scan(add_shifted, total, offsets)[0].astype(image.dtype)


def _grouped(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    border = (len(kernel) - 1) // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((border, border), (border, border)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )
