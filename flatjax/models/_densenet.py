"""Densely connected networks."""

import functools
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flatjax._checks import check_choice, check_count
from flatjax.models import _checks, _layers
from flatjax.models._pooling import mean_pool

_conv = functools.partial(_layers.conv, kernel_init=_layers.HE_FAN_IN)


class _Layer(nn.Module):
    """Appends `growth` maps to its input, computed through 4 `growth` maps."""

    growth: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = functools.partial(_conv, dtype=self.dtype)
        norm = functools.partial(_layers.batch_norm, train=train, dtype=self.dtype)
        y = conv(4 * self.growth, 1, name="conv1")(nn.relu(norm(name="norm1")(x)))
        y = conv(self.growth, 3, name="conv2")(nn.relu(norm(name="norm2")(y)))
        return jnp.concatenate([x, y], axis=-1)


class _Transition(nn.Module):
    """Halves the number of maps, their height and their width."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.relu(_layers.batch_norm(train=train, dtype=self.dtype, name="norm")(x))
        x = _conv(x.shape[-1] // 2, 1, dtype=self.dtype, name="conv")(x)
        return mean_pool(x)


class DenseNet(nn.Module):
    r"""The DenseNet-BC of Huang et al. (2017, arXiv:1608.06993), as in torchvision.

    In a stage, every layer takes the maps of all previous layers, and appends k = `growth` maps:

    .. math::
      x_{l+1} = [x_l, H_l(x_l)].

    H is batch norm, ReLU and a 1 x 1 convolution to 4 k maps, then batch norm, ReLU and a 3 x 3
    convolution to k. Between stages, batch norm, ReLU and a 1 x 1 convolution halve the number of
    maps, and a mean over 2 x 2 pixels halves height and width. The stem has 2 k maps. After the
    last stage come batch norm, ReLU, the mean over pixels and a dense layer. Convolutions are drawn
    from He's normal distribution (variance 2 / fan-in, not truncated). The kernel of the dense
    layer is uniform within 1 / sqrt(fan-in), and its bias starts at 0. With the same weights,
    torchvision gives the same logits.

    `densenet121` has the defaults. For images with three channels it has 6,956,426 parameters with
    ten classes, and 7,978,856 with the stem "imagenet" and 1000 classes.

    Attributes:
      stage_sizes: number of layers of each stage.
      growth: number of maps that a layer adds.
      stem: "small", a 3 x 3 convolution, or "imagenet", a 7 x 7 convolution with stride 2 and
        3 x 3 max-pooling with stride 2.
      num_classes: number of logits.
      dtype: dtype of the computation. Parameters and batch statistics are always float32.

    Call:
      `model.apply(variables, images, train=bool)` with floating-point images (B, H, W, C) gives
      logits (B, num_classes), in float32 or wider. The stem "imagenet" divides height and width by
      four. After the stem they must be at least 2 to the power of the number of stages less one.
      Between stages, an odd last row or column is cropped. `train=True` normalises by the
      statistics of the batch and needs `mutable=["batch_stats"]`; `train=False` uses their running
      averages (momentum 0.9).

    Raises:
      TypeError: an attribute or the images have the wrong type.
      ValueError: a number is below 1, there is no stage, the stem is unknown, the dtype is not
        floating point, or images have the wrong rank or are too small.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flatjax.models import DenseNet
      >>> model, images = DenseNet(stage_sizes=(2, 1), growth=2), jnp.ones((4, 8, 8, 3))
      >>> init = lambda key: model.init(key, images, train=False)
      >>> variables = jax.eval_shape(init, jax.random.key(0))
      >>> variables["params"]["logits"]["kernel"].shape  # (4 + 2 + 2) / 2 + 2 maps
      (6, 10)

    See Also:
      `create` (by its name), `ResNet` (another deep network).
    """

    stage_sizes: Sequence[int] = (6, 12, 24, 16)
    growth: int = 32
    stem: Literal["small", "imagenet"] = "small"
    num_classes: int = 10
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        self.stage_sizes = _checks.widths("stage_sizes", self.stage_sizes, minimum=1)
        check_count("growth", self.growth)
        check_choice("stem", self.stem, _layers.STEMS)
        check_count("num_classes", self.num_classes)
        self.dtype = _checks.floating_dtype("dtype", self.dtype)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits (B, num_classes) of images (B, H, W, C)."""
        after_stem = 2 ** (len(self.stage_sizes) - 1)
        # The stem "imagenet" halves twice, rounding up.
        minimum_size = 4 * after_stem - 3 if self.stem == "imagenet" else after_stem
        _checks.check_images(images, minimum_size=minimum_size)
        stem = _layers.Stem(
            2 * self.growth, self.stem, self.dtype, kernel_init=_layers.HE_FAN_IN, name="stem"
        )
        x = stem(images, train=train)
        for stage, size in enumerate(self.stage_sizes):
            if stage > 0:
                x = _Transition(self.dtype, name=f"transition{stage}")(x, train=train)
            for index in range(size):
                layer = _Layer(self.growth, self.dtype, name=f"stage{stage}_layer{index}")
                x = layer(x, train=train)
        x = nn.relu(_layers.batch_norm(train=train, dtype=self.dtype, name="norm")(x))
        return _layers.logits_of_maps(x, self.num_classes, dtype=self.dtype)


densenet121 = functools.partial(DenseNet)
densenet121.__doc__ = """Makes the DenseNet-121, for small images unless `stem="imagenet"`."""
