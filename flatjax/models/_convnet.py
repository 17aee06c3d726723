"""A small convolutional network of the LeNet class."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flatjax._checks import check_count
from flatjax._cpu import conv_general_dilated_cls
from flatjax.models import _checks
from flatjax.models._pooling import max_pool


class SmallConvNet(nn.Module):
    r"""Convolutions with 2 x 2 max-pooling, then dense layers (LeCun et al. 1998).

    Each stage is a convolution with zero padding ("SAME"), optional batch norm, ReLU, and the
    maximum over 2 x 2 windows:

    .. math::
      x_s = \mathrm{pool}(\max(0, \mathrm{norm}(K_s * x_{s-1} + b_s))).

    The maps are flattened into dense layers with ReLU, followed by one for the logits. Weights are
    drawn from LeCun's normal distribution (variance 1 / fan-in, truncated at two standard
    deviations). He's distribution has twice this variance. With it and max-pooling, logits start so
    large that training at a learning rate of 0.1 fails. Biases start at 0. With batch norm the
    convolutions have no bias.

    Attributes:
      features: channels of each convolution; two stages by default.
      kernel_size: side of the convolution kernels, in pixels.
      hidden: widths of the dense layers between the maps and the logits.
      num_classes: number of logits.
      batch_norm: batch norm after each convolution, with running averages of momentum 0.9 in the
        collection `"batch_stats"`.
      dtype: dtype of the computation. Parameters and batch statistics are always float32.

    Call:
      `model.apply(variables, images, train=bool)` with floating-point images (B, H, W, C) gives
      logits (B, num_classes), in float32 or wider. H and W must be at least 2 to the power of the
      number of stages. They may be odd: a last row or column that does not fill a window is
      cropped, as by "VALID" pooling. With batch norm, `train=True` normalises by the statistics of
      the batch and needs
      `mutable=["batch_stats"]`. `train=False` uses the running averages.

    Raises:
      TypeError: an attribute or the images have the wrong type.
      ValueError: a width is below 1, there is no stage, the dtype is not floating point, or images
        have the wrong rank or are too small.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flatjax.models import SmallConvNet
      >>> model, images = SmallConvNet(batch_norm=True), jnp.ones((4, 28, 28, 1))
      >>> init = jax.jit(model.init, static_argnames="train")
      >>> variables = init(jax.random.key(0), images, train=False)
      >>> logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
      >>> logits.shape, list(updates)
      ((4, 10), ['batch_stats'])

    See Also:
      `create` (by its name), `MLP` (without convolutions).
    """

    features: Sequence[int] = (16, 32)
    kernel_size: int = 3
    hidden: Sequence[int] = (128,)
    num_classes: int = 10
    batch_norm: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        self.features = _checks.widths("features", self.features, minimum=1)
        check_count("kernel_size", self.kernel_size)
        self.hidden = _checks.widths("hidden", self.hidden)
        check_count("num_classes", self.num_classes)
        if not isinstance(self.batch_norm, bool):
            raise TypeError(f"batch_norm must be a bool, got {self.batch_norm!r}.")
        self.dtype = _checks.floating_dtype("dtype", self.dtype)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits (B, num_classes) of images (B, H, W, C)."""
        _checks.check_images(images, minimum_size=2 ** len(self.features))
        kernel = (self.kernel_size, self.kernel_size)
        conv = functools.partial(
            nn.Conv,
            kernel_size=kernel,
            use_bias=not self.batch_norm,
            dtype=self.dtype,
            conv_general_dilated_cls=conv_general_dilated_cls,
        )
        dense = functools.partial(nn.Dense, dtype=self.dtype)
        x = images
        for channels in self.features:
            x = conv(channels)(x)
            if self.batch_norm:
                norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype)
                x = norm(x)
            # ReLU before pooling, although this has four times the pixels: the other order makes a
            # training step on CPU 10-20% slower (measured).
            x = max_pool(nn.relu(x))
        x = x.reshape(x.shape[0], -1)  # not len: it is symbolic if the model is exported
        for width in self.hidden:
            x = nn.relu(dense(width)(x))
        x = dense(self.num_classes)(x)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))  # for the loss
