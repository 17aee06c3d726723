"""A multilayer perceptron."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flatjax._checks import check_count
from flatjax.models import _checks


class MLP(nn.Module):
    r"""A fully connected network with ReLU activations.

    .. math::
      h_0 = \mathrm{flatten}(x), \quad
      h_l = \max(0, W_l^\top h_{l-1} + b_l), \quad
      \mathrm{logits} = W_{L+1}^\top h_L + b_{L+1}.

    Weights are drawn from He's normal distribution (variance 2 / fan-in, truncated at two standard
    deviations). Biases start at 0. The forward pass has nothing random and no state. `train`
    changes nothing; it exists because all models have one interface.

    Attributes:
      hidden: widths of the hidden layers; empty for logistic regression.
      num_classes: number of logits.
      dtype: dtype of the computation. Parameters are always float32.

    Call:
      `model.apply(variables, images, train=bool)` with floating-point images (B, H, W, C) gives
      logits (B, num_classes), in float32 or wider.

    Raises:
      TypeError: an attribute or the images have the wrong type.
      ValueError: a width is below 1, the dtype is not floating point, or images have the wrong
        rank.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flatjax.models import MLP
      >>> model, images = MLP(hidden=(32, 16)), jnp.ones((4, 8, 8, 1))
      >>> variables = model.init(jax.random.key(0), images, train=False)
      >>> model.apply(variables, images, train=True).shape
      (4, 10)

    See Also:
      `create` (by its name), `SmallConvNet` (with convolutions).
    """

    hidden: Sequence[int] = (256, 256)
    num_classes: int = 10
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        self.hidden = _checks.widths("hidden", self.hidden)
        check_count("num_classes", self.num_classes)
        self.dtype = _checks.floating_dtype("dtype", self.dtype)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits (B, num_classes) of images (B, H, W, C)."""
        del train
        _checks.check_images(images)
        he_normal = nn.initializers.he_normal()
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=he_normal)
        x = images.reshape(images.shape[0], -1)  # not len: it is symbolic if the model is exported
        for width in self.hidden:
            x = nn.relu(dense(width)(x))
        x = dense(self.num_classes)(x)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))  # for the loss
