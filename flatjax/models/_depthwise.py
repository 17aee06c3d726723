"""A layer of depthwise convolution: every channel has its own kernel."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike

from flatjax._cpu import depthwise_conv
from flatjax.models._initialization import he_normal

# He's variance is 2 / k^2: the output of a channel depends on k^2 pixels of one map.
_HE = he_normal("fan_in")


class DepthwiseConv(nn.Module):
    """Applies `depthwise_conv` with a kernel of He's variance, 2 / k^2.

    Attributes:
      size: k, in pixels; odd.
      stride: stride, in pixels.
      dtype: dtype of the computation. The kernel is always float32.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flatjax.models._depthwise import DepthwiseConv
      >>> y, variables = DepthwiseConv(5, stride=2).init_with_output(
      ...     jax.random.key(0), jnp.ones((2, 7, 7, 3))
      ... )
      >>> y.shape, variables["params"]["kernel"].shape
      ((2, 4, 4, 3), (5, 5, 1, 3))
    """

    size: int = 3
    stride: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns maps (B, H', W', C) of maps (B, H, W, C)."""
        kernel = self.param("kernel", _HE, (self.size, self.size, 1, x.shape[-1]))
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        return depthwise_conv(x, kernel, self.stride)
