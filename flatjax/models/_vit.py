"""A vision transformer."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flatjax._checks import check_count, check_number
from flatjax.models import _checks


class VisionTransformer(nn.Module):
    r"""The vision transformer of Dosovitskiy et al. (2021, arXiv:2010.11929).

    .. math::
      z_0 &= [c,\, x_1 E + e,\, \ldots,\, x_N E + e] + p

      z'_l &= z_{l-1} + \mathrm{attention}(\mathrm{norm}(z_{l-1}))

      z_l &= z'_l + W_2\, \mathrm{gelu}(W_1\, \mathrm{norm}(z'_l) + b_1) + b_2

      \mathrm{logits} &= V\, \mathrm{norm}(z_L)_0 + v.

    Here x_1, ..., x_N are square patches. The class token c, whose final value gives the logits,
    and the position embeddings p are learned. Dropout follows the sum with p and every dense layer
    except queries, keys and values, as in the paper. The defaults have the widths of ViT-Tiny, with
    nine layers, for images of 32 x 32 pixels. There is no convolution: a reshape cuts the patches,
    and everything vmaps into larger matrix products.

    Initial values are as in the authors' code. Attention and W_1, W_2 are drawn from Glorot's
    uniform distribution, E from LeCun's normal one, and p from a normal distribution of standard
    deviation 0.02. c, V and all biases start at 0, so at first only V has a gradient.

    Attributes:
      patch_size: side of the patches, in pixels.
      width: length of the vectors z.
      depth: number of layers L.
      heads: number of attention heads; divides `width`.
      mlp_ratio: number of rows of W_1, in units of `width`.
      dropout: probability of setting an activation to 0 in training.
      num_classes: number of logits.
      dtype: dtype of the computation, except the softmax of attention (float32 or wider).
        Parameters are always float32.

    Call:
      `model.apply(variables, images, train=bool)` with floating-point images (B, H, W, C) gives
      logits (B, num_classes), in float32 or wider. H and W are multiples of `patch_size`, and the
      same as in `init`, because each patch has its own p. `train=True` needs `rngs={"dropout":
      key}` unless `dropout` is 0. `train=False` draws nothing.

    Raises:
      TypeError: an attribute or the images have the wrong type.
      ValueError: a number is below 1, heads do not divide the width, a probability is outside [0,
        1], the dtype is not floating point, or images have the wrong rank or size.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flatjax.models import VisionTransformer
      >>> model, images = VisionTransformer(width=12, depth=1), jnp.ones((2, 8, 8, 3))
      >>> variables = jax.jit(model.init, static_argnames="train")(
      ...     jax.random.key(0), images, train=False
      ... )
      >>> variables["params"]["positions"].shape
      (1, 5, 12)
      >>> model.apply(variables, images, train=True).shape
      (2, 10)

    See Also:
      `create` (by its name), `Transformer` (for text).
    """

    patch_size: int = 4
    width: int = 192
    depth: int = 9
    heads: int = 3
    mlp_ratio: int = 4
    dropout: float = 0.0
    num_classes: int = 10
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        for name in ("patch_size", "width", "depth", "heads", "mlp_ratio", "num_classes"):
            check_count(name, getattr(self, name))
        if self.width % self.heads:
            raise ValueError(f"heads must divide the width {self.width}, got {self.heads}.")
        check_number("dropout", self.dropout, minimum=0.0, maximum=1.0)
        self.dtype = _checks.floating_dtype("dtype", self.dtype)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits (B, num_classes) of images (B, H, W, C)."""
        _checks.check_images(images)
        if any(size % self.patch_size for size in images.shape[1:3]):
            raise ValueError(
                f"images must have a height and width divisible by {self.patch_size}, "
                f"got {images.shape}."
            )
        x = nn.Dense(self.width, dtype=self.dtype, name="patches")(
            _patches(images, self.patch_size)
        )
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
        token = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, self.width))
        x = jnp.concatenate([token, x], axis=1)
        positions = self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        x = nn.Dropout(self.dropout)(x + positions.astype(x.dtype), deterministic=not train)
        for layer in range(self.depth):
            x = _Layer(
                self.heads, self.mlp_ratio, self.dropout, dtype=self.dtype, name=f"layer{layer}"
            )(x, train=train)
        x = _norm(dtype=self.dtype, name="norm")(x[:, 0])
        dense = nn.Dense(
            self.num_classes, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="logits"
        )
        x = dense(x)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))  # for the loss


_norm = functools.partial(nn.LayerNorm, epsilon=1e-6)


def _patches(images: jax.Array, size: int) -> jax.Array:
    """Cuts images into patches, (B, number of patches, size * size * C)."""
    batch, height, width, channels = images.shape
    rows, columns = height // size, width // size
    x = images.reshape(batch, rows, size, columns, size, channels).swapaxes(2, 3)
    return x.reshape(batch, rows * columns, -1)


class _Layer(nn.Module):
    """Attention and two dense layers; see `VisionTransformer`."""

    heads: int
    mlp_ratio: int
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        glorot = nn.initializers.xavier_uniform()
        norm = functools.partial(_norm, dtype=self.dtype)
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=glorot)
        drop = lambda h: nn.Dropout(self.dropout)(h, deterministic=not train)
        attention = nn.MultiHeadDotProductAttention(
            self.heads,
            dtype=self.dtype,
            kernel_init=glorot,
            force_fp32_for_softmax=True,
            name="attention",
        )
        x = x + drop(attention(norm(name="attention_norm")(x)))
        h = dense(self.mlp_ratio * x.shape[-1], name="mlp_in")(norm(name="mlp_norm")(x))
        h = drop(nn.gelu(h, approximate=False))
        return x + drop(dense(x.shape[-1], name="mlp_out")(h))
