"""Residual networks, for small images and for ImageNet."""

import functools
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flatjax._checks import check_choice, check_count
from flatjax.models import _checks, _layers


class _Block(nn.Module):
    """Adds two or three convolutions to a shortcut, followed by ReLU."""

    channels: int
    stride: int
    bottleneck: bool
    shortcut: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = functools.partial(_layers.conv, dtype=self.dtype)
        norm = functools.partial(_layers.batch_norm, train=train, dtype=self.dtype)
        if self.bottleneck:
            out = 4 * self.channels
            # The stride is in the 3 x 3 convolution, as in torchvision. He et al. had it in the
            # 1 x 1.
            layers = [(self.channels, 1, 1), (self.channels, 3, self.stride), (out, 1, 1)]
        else:
            out = self.channels
            layers = [(out, 3, self.stride), (out, 3, 1)]

        y = x
        for index, layer in enumerate(layers, start=1):
            y = norm(name=f"norm{index}")(conv(*layer, name=f"conv{index}")(y))
            y = nn.relu(y) if index < len(layers) else y

        if self.stride != 1 or x.shape[-1] != out:
            if self.shortcut == "projection":
                x = conv(out, 1, self.stride, name="shortcut_conv")(x)
                x = norm(name="shortcut_norm")(x)
            else:
                x = x[:, :: self.stride, :: self.stride]
                x = _layers.pad_channels(x, out).astype(y.dtype)
        return nn.relu(x + y)


class ResNet(nn.Module):
    r"""The residual networks of He et al. (2016, arXiv:1512.03385).

    .. math::
      x_{l+1} = \max(0, S_l x_l + F_l(x_l)).

    F has two forms. A "basic" block has two 3 x 3 convolutions. A "bottleneck" has 1 x 1, 3 x 3 and
    1 x 1 convolutions, the last with four times as many channels. Batch norm follows each
    convolution, with ReLU between them. S is the identity if shapes agree. Each stage after the
    first halves height and width and doubles the channels. A dense layer takes the mean over
    pixels. Convolutions are drawn from He's normal distribution (variance 2 / fan-out, not
    truncated). The kernel of the dense layer is uniform within 1 / sqrt(fan-in), and its bias
    starts at 0. With the same weights, torchvision gives the same logits.

    These networks have names, as partial applications of this class:

    =============  =============  =====  ==========  ==========  ==============  =================
    name           stage_sizes    width  block       stem        shortcut        parameters
    =============  =============  =====  ==========  ==========  ==============  =================
    `resnet18`     2, 2, 2, 2     64     basic       "small"     "projection"    11,173,962 (10)
    `resnet50`     3, 4, 6, 3     64     bottleneck  "imagenet"  "projection"    25,557,032 (1000)
    `resnet110`    18, 18, 18     16     basic       "small"     "zero_padding"  1,727,962 (10)
    =============  =============  =====  ==========  ==========  ==============  =================

    Numbers of parameters are for images with three channels and the number of classes in brackets.
    `resnet110` has 1,730,714 parameters with `shortcut="projection"`.

    Attributes:
      stage_sizes: number of blocks of each stage.
      width: channels of the first stage (before the factor 4 of "bottleneck").
      block: "basic" or "bottleneck".
      stem: "small", a 3 x 3 convolution, or "imagenet", a 7 x 7 convolution with stride 2 and
        3 x 3 max-pooling with stride 2.
      shortcut: S if the shape changes. "projection" is a 1 x 1 convolution with batch norm (option
        B of He et al.). "zero_padding" takes every other pixel and appends channels of zeros
        (option A, used by He et al. for CIFAR).
      num_classes: number of logits.
      dtype: dtype of the computation. Parameters and batch statistics are always float32.

    Call:
      `model.apply(variables, images, train=bool)` with floating-point images (B, H, W, C) of any
      size gives logits (B, num_classes), in float32 or wider. `train=True` normalises by the
      statistics of the batch and needs `mutable=["batch_stats"]`; `train=False` uses their running
      averages (momentum 0.9).

    Raises:
      TypeError: an attribute or the images have the wrong type.
      ValueError: a number is below 1, there is no stage, a block, stem or shortcut is unknown, the
        dtype is not floating point, or images have the wrong rank.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flatjax.models import ResNet
      >>> model, images = ResNet(stage_sizes=(1, 1), width=4), jnp.ones((4, 8, 8, 3))
      >>> def init_and_train(key):
      ...     variables = model.init(key, images, train=False)
      ...     return model.apply(variables, images, train=True, mutable=["batch_stats"])
      >>> logits, updates = jax.eval_shape(init_and_train, jax.random.key(0))
      >>> logits.shape, list(updates)
      ((4, 10), ['batch_stats'])

    See Also:
      `create` (by its name), `DenseNet` (another deep network), `max_pool` (pools faster on CPUs).
    """

    stage_sizes: Sequence[int] = (2, 2, 2, 2)
    width: int = 64
    block: Literal["basic", "bottleneck"] = "basic"
    stem: Literal["small", "imagenet"] = "small"
    shortcut: Literal["projection", "zero_padding"] = "projection"
    num_classes: int = 10
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        self.stage_sizes = _checks.widths("stage_sizes", self.stage_sizes, minimum=1)
        check_count("width", self.width)
        check_choice("block", self.block, ("basic", "bottleneck"))
        check_choice("stem", self.stem, _layers.STEMS)
        check_choice("shortcut", self.shortcut, ("projection", "zero_padding"))
        check_count("num_classes", self.num_classes)
        self.dtype = _checks.floating_dtype("dtype", self.dtype)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits (B, num_classes) of images (B, H, W, C)."""
        _checks.check_images(images)
        x = _layers.Stem(self.width, self.stem, self.dtype, name="stem")(images, train=train)
        for stage, size in enumerate(self.stage_sizes):
            for index in range(size):
                block = _Block(
                    channels=self.width * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    bottleneck=self.block == "bottleneck",
                    shortcut=self.shortcut,
                    dtype=self.dtype,
                    name=f"stage{stage}_block{index}",
                )
                x = block(x, train=train)
        return _layers.logits_of_maps(x, self.num_classes, dtype=self.dtype)


resnet18 = functools.partial(ResNet, stage_sizes=(2, 2, 2, 2))
resnet18.__doc__ = """Makes the ResNet-18 for small images, see `ResNet`."""

resnet50 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block="bottleneck", stem="imagenet")
resnet50.__doc__ = """Makes the ResNet-50 (version 1.5), see `ResNet`."""

resnet110 = functools.partial(ResNet, stage_sizes=(18, 18, 18), width=16, shortcut="zero_padding")
resnet110.__doc__ = """Makes the ResNet-110 of He et al. for CIFAR, see `ResNet`."""
