"""Layers that the deep convolutional networks share.

Paddings are explicit, as in PyTorch. "SAME" would shift every strided convolution by a pixel.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jax.typing import DTypeLike

from flatjax._cpu import conv_general_dilated_cls
from flatjax.models._initialization import he_normal

HE_FAN_IN = he_normal("fan_in")
HE_FAN_OUT = he_normal("fan_out")
# Uniform within 1 / sqrt(number of inputs).
_UNIFORM_FAN_IN = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

STEMS = ("small", "imagenet")


def conv(
    channels: int,
    size: int,
    stride: int = 1,
    *,
    name: str,
    dtype: DTypeLike,
    kernel_init: Initializer = HE_FAN_OUT,
) -> nn.Conv:
    """Makes a convolution without bias, padded so that a stride of 1 keeps the size."""
    return nn.Conv(
        channels,
        kernel_size=(size, size),
        strides=stride,
        padding=(size - 1) // 2,
        use_bias=False,
        kernel_init=kernel_init,
        dtype=dtype,
        conv_general_dilated_cls=conv_general_dilated_cls,
        name=name,
    )


def batch_norm(*, train: bool, name: str, dtype: DTypeLike) -> nn.BatchNorm:
    """Makes batch norm, by batch statistics if `train`, else by running averages."""
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name
    )


class Stem(nn.Module):
    """The first layers: convolution, batch norm and ReLU.

    The kind "small" is a 3 x 3 convolution with stride 1. The kind "imagenet" is a 7 x 7
    convolution with stride 2, then the maximum over 3 x 3 windows with stride 2. It divides height
    and width by four.
    """

    channels: int
    kind: str
    dtype: DTypeLike
    kernel_init: Initializer = HE_FAN_OUT

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns maps (B, H', W', channels) of images (B, H, W, C)."""
        size, stride = {"small": (3, 1), "imagenet": (7, 2)}[self.kind]
        first = conv(
            self.channels,
            size,
            stride,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            name="conv",
        )
        x = nn.relu(batch_norm(train=train, dtype=self.dtype, name="norm")(first(images)))
        if self.kind == "imagenet":
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        return x


def logits_of_maps(x: jax.Array, num_classes: int, *, dtype: DTypeLike) -> jax.Array:
    """Applies the dense layer "logits" to the mean over pixels.

    The result is in float32 or wider, for the loss.
    """
    dense = nn.Dense(num_classes, dtype=dtype, kernel_init=_UNIFORM_FAN_IN, name="logits")
    x = dense(x.mean(axis=(1, 2)))
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def pad_channels(x: jax.Array, channels: int) -> jax.Array:
    """Appends channels of zeros until there are `channels`."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, channels - x.shape[-1])])
