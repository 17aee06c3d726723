"""PyramidNet: residual networks that become wider in every block."""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flatjax._checks import check_choice, check_count, check_flag, check_number
from flatjax.models import _checks, _layers
from flatjax.models._pooling import mean_pool
from flatjax.models._shake_drop import ShakeDrop

_STAGES = 3


class _Block(nn.Module):
    """Adds a bottleneck of three convolutions to a padded identity."""

    channels: int
    stride: int
    shake: ShakeDrop | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = functools.partial(_layers.conv, dtype=self.dtype)
        norm = functools.partial(_layers.batch_norm, train=train, dtype=self.dtype)
        out = 4 * self.channels
        # No ReLU before the first convolution or after the last: Han et al. found this better.
        y = conv(self.channels, 1, name="conv1")(norm(name="norm1")(x))
        y = conv(self.channels, 3, self.stride, name="conv2")(nn.relu(norm(name="norm2")(y)))
        y = conv(out, 1, name="conv3")(nn.relu(norm(name="norm3")(y)))
        y = norm(name="norm4")(y)
        if self.shake is not None:
            y = self.shake(y, train=train)
        shortcut = x if self.stride == 1 else mean_pool(x, self.stride)
        return _layers.pad_channels(shortcut, out) + y


# Positions of arguments, of which 0 is the module: `train` is a Python bool.
_RematBlock = nn.remat(_Block, static_argnums=(2,))


class PyramidNet(nn.Module):
    r"""The additive PyramidNet of Han et al. (2017, arXiv:1610.02915), with ShakeDrop.

    Three stages of n = (depth - 2) / 9 bottleneck blocks. Block l of L = 3 n blocks has
    :math:`D_l = \mathrm{round}(D_0 + \alpha l / L)` channels inside and 4 D_l outside,
    and computes

    .. math::
      x_l = S_l x_{l-1} + \mathrm{shakedrop}_l(F_l(x_{l-1})).

    F is batch norm, 1 x 1 convolution, batch norm, ReLU, 3 x 3 convolution, batch norm, ReLU,
    1 x 1 convolution, batch norm. S appends channels of zeros. Where the second and third stage
    halve height and width, it also takes the mean over 2 x 2 pixels. A 3 x 3 convolution with batch
    norm comes first. Batch norm, ReLU, the mean over pixels and a dense layer come last. ShakeDrop
    (Yamada et al. 2019, arXiv:1802.02375) leaves F unchanged with probability
    :math:`p_l = 1 - (1 - p_L) l / L`, and otherwise scales it at random, see `ShakeDrop`.

    Convolutions are drawn from He's normal distribution (variance 2 / fan-out, not truncated). The
    kernel of the dense layer is uniform within 1 / sqrt(fan-in), and its bias starts at 0.

    `pyramidnet272` has the defaults. For images with three channels it has 26,210,842 parameters
    with ten classes, and 26,288,692 with a hundred. The paper rounds down and reports 26.0 million;
    its authors' code rounds to the nearest, as here.

    Attributes:
      depth: number of layers, 9 n + 2.
      alpha: number of channels D added over the whole network.
      width: D_0, the channels of the first convolution.
      final_keep_probability: p_L of ShakeDrop, in [0, 1]; 1 is a PyramidNet without it.
      shake_alpha: lower and upper end of the factors of ShakeDrop.
      shake_beta: lower and upper end of the factors of gradients.
      shake_level: "image" draws for each image of the batch, "batch" once for all.
      remat: whether the backward pass computes each block anew instead of keeping its values. A
        step takes about a third longer, and memory holds the values of one block at a time.
      num_classes: number of logits.
      dtype: dtype of the computation. Parameters and batch statistics are always float32.

    Call:
      `model.apply(variables, images, train=bool)` with floating-point images (B, H, W, C), H and W
      multiples of 4, gives logits (B, num_classes), in float32 or wider. `train=True` normalises by
      the statistics of the batch and needs `mutable=["batch_stats"]`, and `rngs={"dropout": key}`
      for ShakeDrop. `train=False` uses the running averages (momentum 0.9) and the expectation of
      ShakeDrop.

    Raises:
      TypeError: an attribute or the images have the wrong type.
      ValueError: the depth is not 9 n + 2, a number is below 1, a probability is outside [0, 1], or
        a range is empty. The level is unknown, the dtype is not floating point, or images have the
        wrong rank or size.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flatjax.models import PyramidNet
      >>> model, images = PyramidNet(depth=11, alpha=6, width=4), jnp.ones((4, 8, 8, 3))
      >>> init = lambda key: model.init(key, images, train=False)
      >>> variables = jax.eval_shape(init, jax.random.key(0))
      >>> model.channels()
      (6, 8, 10)
      >>> variables["params"]["logits"]["kernel"].shape
      (40, 10)

    See Also:
      `ShakeDrop` (its regularisation), `create` (by its name).
    """

    depth: int = 272
    alpha: int = 200
    width: int = 16
    final_keep_probability: float = 0.5
    shake_alpha: tuple[float, float] = (-1.0, 1.0)
    shake_beta: tuple[float, float] = (0.0, 1.0)
    shake_level: Literal["image", "batch"] = "image"
    remat: bool = False
    num_classes: int = 10
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        check_count("depth", self.depth)
        if self.depth < 11 or (self.depth - 2) % 9 != 0:
            raise ValueError(f"depth must be 9 n + 2 with n >= 1, got {self.depth}.")
        check_count("alpha", self.alpha)
        check_count("width", self.width)
        check_number(
            "final_keep_probability", self.final_keep_probability, minimum=0.0, maximum=1.0
        )
        self.shake_alpha = _checks.interval("shake_alpha", self.shake_alpha)
        self.shake_beta = _checks.interval("shake_beta", self.shake_beta)
        check_choice("shake_level", self.shake_level, ("image", "batch"))
        check_flag("remat", self.remat)
        check_count("num_classes", self.num_classes)
        self.dtype = _checks.floating_dtype("dtype", self.dtype)
        super().__post_init__()

    def channels(self) -> tuple[int, ...]:
        """Returns D_l of every block, 1 <= l <= L."""
        number = (self.depth - 2) // 3
        return tuple(
            round(self.width + self.alpha * block / number) for block in range(1, number + 1)
        )

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits (B, num_classes) of images (B, H, W, C)."""
        _checks.check_images(images)
        if any(size % 4 for size in images.shape[1:3]):
            raise ValueError(
                f"images must have a height and width divisible by 4, got {images.shape}."
            )
        norm = functools.partial(_layers.batch_norm, train=train, dtype=self.dtype)
        x = norm(name="stem_norm")(
            _layers.conv(self.width, 3, dtype=self.dtype, name="stem_conv")(images)
        )
        channels = self.channels()
        per_stage = len(channels) // _STAGES
        # The initialisation has no backward pass.
        block = _RematBlock if self.remat and not self.is_initializing() else _Block
        for index, width in enumerate(channels):
            stage, within = divmod(index, per_stage)
            x = block(
                width,
                stride=2 if stage > 0 and within == 0 else 1,
                shake=self._shake(index),
                dtype=self.dtype,
                name=f"stage{stage}_block{within}",
            )(x, train)
        x = nn.relu(norm(name="norm")(x))
        return _layers.logits_of_maps(x, self.num_classes, dtype=self.dtype)

    def _shake(self, index: int) -> ShakeDrop | None:
        """Returns ShakeDrop of block l = index + 1."""
        if self.final_keep_probability == 1:
            return None
        dropped = (1 - self.final_keep_probability) * (index + 1) / len(self.channels())
        return ShakeDrop(1 - dropped, self.shake_alpha, self.shake_beta, self.shake_level)


pyramidnet272 = functools.partial(PyramidNet)
pyramidnet272.__doc__ = """Makes the PyramidNet of 272 layers and alpha = 200, see `PyramidNet`."""
