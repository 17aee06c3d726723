"""EfficientNet-B0 to B7."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flatjax._checks import check_choice, check_count, check_number
from flatjax.models import _checks, _layers
from flatjax.models._depthwise import DepthwiseConv


class _Stage(NamedTuple):
    """Blocks of equal width; only the first one has the stride."""

    expansion: int
    size: int
    stride: int
    channels: int
    blocks: int


_STEM_CHANNELS = 32
_STAGES = (  # stages of B0: table 1 of Tan & Le
    _Stage(1, 3, 1, 16, 1),
    _Stage(6, 3, 2, 24, 2),
    _Stage(6, 5, 2, 40, 2),
    _Stage(6, 3, 2, 80, 3),
    _Stage(6, 5, 1, 112, 3),
    _Stage(6, 5, 2, 192, 4),
    _Stage(6, 3, 1, 320, 1),
)
_HEAD_EXPANSION = 4
# Uniform within 1 / sqrt(number of outputs).
_UNIFORM_FAN_OUT = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


class EfficientNet(nn.Module):
    r"""The EfficientNets of Tan & Le (2019, arXiv:1905.11946).

    They are mobile inverted bottlenecks, scaled in width and depth. A block has four steps. It
    widens its input (1 x 1), filters each channel separately (k x k, stride s), multiplies the
    channels by gates that depend on the whole image (squeeze and excitation), and narrows again:

    .. math::
      h &= \sigma(\mathrm{norm}(D * \sigma(\mathrm{norm}(W_e x)))),
        \quad \sigma(z) = z / (1 + e^{-z})

      g &= \mathrm{sigmoid}(W_2\, \sigma(W_1 \langle h \rangle + b_1) + b_2)

      y &= x + m \, \mathrm{norm}(W_p (g \odot h)), \quad
        m = \mathrm{Bernoulli}(1 - q_l) / (1 - q_l).

    Here the average is over pixels, W_1 maps to a quarter of the channels of x, and x is added only
    if shapes agree. The first stage does not widen. Stochastic depth leaves out whole branches: m
    is drawn for each image, with q_l = `stochastic_depth` l / L in block l = 0, ..., L - 1. Without
    training m is 1. A 3 x 3 convolution comes before the blocks. A widening by 4, the mean over
    pixels, dropout and a dense layer come after them.

    The numbers of channels of B0 are multiplied by `width_multiplier` and rounded to multiples of
    8. The numbers of blocks in a stage are multiplied by `depth_multiplier` and rounded up.
    `create` has the published combinations as `"efficientnet_b0"` to `"efficientnet_b7"`, with the
    dropout and batch norm of torchvision. These networks reproduce torchvision's logits.

    Kernels are drawn from He's normal distribution by fan-out. The fan-out of a depthwise kernel is
    k^2, as in the authors' code. Kernels of the last layer are uniform within 1 / sqrt(number of
    classes). Biases start at 0. Convolutions of 1 x 1 are dense layers, which vmap well.

    Attributes:
      width_multiplier: factor of the channels, above 0.
      depth_multiplier: factor of the number of blocks, above 0.
      stem: stride of the first convolution: 2 for "imagenet", 1 for "small". The blocks reduce
        height and width by a further factor of 16.
      stochastic_depth: probability of leaving out a branch, in the limit of the last block.
      dropout: probability of setting an input of the last layer to 0.
      momentum: momentum of the running averages of batch norm.
      epsilon: number that batch norm adds to variances.
      num_classes: number of logits.
      dtype: dtype of the computation. Parameters and batch statistics are always float32.

    Call:
      `model.apply(variables, images, train=bool)` with floating-point images (B, H, W, C) of any
      size gives logits (B, num_classes), in float32 or wider. `train=True` normalises by the
      statistics of the batch and needs `mutable=["batch_stats"]`. It also needs `rngs={"dropout":
      key}` if one of the probabilities is not 0. `train=False` uses the running averages and draws
      nothing.

    Raises:
      TypeError: an attribute or the images have the wrong type.
      ValueError: a multiplier is not positive, or a probability, momentum or epsilon is outside [0,
        1]. The stem is unknown, the number of classes is below 1, the dtype is not floating point,
        or images have the wrong rank.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flatjax import models
      >>> model = models.create("efficientnet_b1", 100, stem="small")
      >>> images = jnp.ones((2, 32, 32, 3))
      >>> shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
      >>> sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
      6641284

    See Also:
      `create` (by its name), `ResNet` (another deep network).
    """

    width_multiplier: float = 1.0
    depth_multiplier: float = 1.0
    stem: Literal["small", "imagenet"] = "imagenet"
    stochastic_depth: float = 0.2
    dropout: float = 0.2
    momentum: float = 0.9
    epsilon: float = 1e-5
    num_classes: int = 10
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        check_number("width_multiplier", self.width_multiplier, minimum=0.0, exclusive_minimum=True)
        check_number("depth_multiplier", self.depth_multiplier, minimum=0.0, exclusive_minimum=True)
        check_choice("stem", self.stem, _layers.STEMS)
        check_number("stochastic_depth", self.stochastic_depth, minimum=0.0, maximum=1.0)
        check_number("dropout", self.dropout, minimum=0.0, maximum=1.0)
        check_number("momentum", self.momentum, minimum=0.0, maximum=1.0)
        check_number("epsilon", self.epsilon, minimum=0.0, maximum=1.0)
        check_count("num_classes", self.num_classes)
        self.dtype = _checks.floating_dtype("dtype", self.dtype)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits (B, num_classes) of images (B, H, W, C)."""
        _checks.check_images(images)
        norm = functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=self.epsilon,
            dtype=self.dtype,
        )
        channels = self._channels(_STEM_CHANNELS)
        stride = {"small": 1, "imagenet": 2}[self.stem]
        x = _layers.conv(channels, 3, stride, dtype=self.dtype, name="stem")(images)
        x = nn.silu(norm(name="stem_norm")(x))
        blocks = list(self._blocks())
        for index, (name, block) in enumerate(blocks):
            skipped = self.stochastic_depth * index / len(blocks)
            x = _MBConv(block, skipped, norm, dtype=self.dtype, name=name)(x, train=train)
        channels = _HEAD_EXPANSION * x.shape[-1]
        x = _pointwise(channels, use_bias=False, dtype=self.dtype, name="head")(x)
        x = nn.silu(norm(name="head_norm")(x)).mean(axis=(1, 2))
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        logits = nn.Dense(
            self.num_classes, dtype=self.dtype, kernel_init=_UNIFORM_FAN_OUT, name="logits"
        )(x)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))  # for the loss

    def _blocks(self) -> Iterator[tuple[str, _Stage]]:
        """Yields the name of every block, and a stage of this block alone."""
        for number, stage in enumerate(_STAGES):
            scaled = stage._replace(channels=self._channels(stage.channels), blocks=1)
            for index in range(math.ceil(stage.blocks * self.depth_multiplier)):
                block = scaled if index == 0 else scaled._replace(stride=1)
                yield f"stage{number}_block{index}", block

    def _channels(self, channels: int) -> int:
        """Scales channels to a multiple of 8 that is at most a tenth too small."""
        wanted = channels * self.width_multiplier
        nearest = max(8, int(wanted + 4) // 8 * 8)
        return nearest if nearest >= 0.9 * wanted else nearest + 8


_pointwise = functools.partial(nn.Dense, kernel_init=_layers.HE_FAN_OUT)


class _MBConv(nn.Module):
    """A mobile inverted bottleneck; see `EfficientNet`."""

    block: _Stage
    skipped: float  # probability of leaving the branch out
    norm: Callable[..., nn.BatchNorm]
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        expansion, size, stride, channels, _ = self.block
        inputs = x.shape[-1]
        pointwise = functools.partial(_pointwise, dtype=self.dtype)
        h = x
        if expansion != 1:
            h = pointwise(inputs * expansion, use_bias=False, name="expand")(h)
            h = nn.silu(self.norm(name="expand_norm")(h))
        h = DepthwiseConv(size, stride, dtype=self.dtype, name="depthwise")(h)
        h = nn.silu(self.norm(name="depthwise_norm")(h))
        gate = nn.silu(pointwise(inputs // 4, name="squeeze")(h.mean(axis=(1, 2))))
        gate = nn.sigmoid(pointwise(h.shape[-1], name="excite")(gate))
        h = pointwise(channels, use_bias=False, name="project")(h * gate[:, None, None])
        h = self.norm(name="project_norm")(h)
        if stride == 1 and inputs == channels:
            image_by_image = nn.Dropout(self.skipped, broadcast_dims=(1, 2, 3))
            h = x + image_by_image(h, deterministic=not train)
        return h


_deep_norm = {"momentum": 0.99, "epsilon": 1e-3}
_scaled = lambda width, depth, dropout, **norm: functools.partial(
    EfficientNet, width_multiplier=width, depth_multiplier=depth, dropout=dropout, **norm
)

EFFICIENTNETS: dict[str, Callable[..., EfficientNet]] = {
    "efficientnet_b0": _scaled(1.0, 1.0, 0.2),
    "efficientnet_b1": _scaled(1.0, 1.1, 0.2),
    "efficientnet_b2": _scaled(1.1, 1.2, 0.3),
    "efficientnet_b3": _scaled(1.2, 1.4, 0.3),
    "efficientnet_b4": _scaled(1.4, 1.8, 0.4),
    "efficientnet_b5": _scaled(1.6, 2.2, 0.4, **_deep_norm),
    "efficientnet_b6": _scaled(1.8, 2.6, 0.5, **_deep_norm),
    "efficientnet_b7": _scaled(2.0, 3.1, 0.5, **_deep_norm),
}
"""The published networks; options are the attributes of `EfficientNet`."""
