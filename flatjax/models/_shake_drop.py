"""ShakeDrop: random scaling of residual branches and of their gradients."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from flatjax._checks import check_choice, check_number
from flatjax.models import _checks


def shake_drop(x: jax.Array, gate: jax.Array, alpha: jax.Array, beta: jax.Array) -> jax.Array:
    r"""Scales `x` by one factor, and its gradient by another.

    .. math::
      \mathrm{forward:}\; (b + \alpha - b \alpha)\, x, \qquad
      \mathrm{backward:}\; (b + \beta - b \beta)\, g.

    Both are unchanged where the gate b is 1 (Yamada et al. 2019, arXiv:1802.02375).

    Args:
      x: output of a residual branch, shape (B, ...).
      gate: b, booleans or zeros and ones. `gate`, `alpha` and `beta` are broadcast against `x`.
      alpha: factor of the values where the gate is 0.
      beta: factor of the gradient where the gate is 0.

    Returns:
      An array like `x`, in its dtype.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flatjax.models._shake_drop import shake_drop
      >>> scaled = lambda x: shake_drop(x, gate=0.0, alpha=-0.5, beta=0.25)
      >>> value, gradient = jax.value_and_grad(scaled)(2.0)
      >>> float(value), float(gradient)
      (-1.0, 0.25)
    """
    x = jnp.asarray(x)
    forward, backward = jnp.where(gate, 1.0, alpha), jnp.where(gate, 1.0, beta)
    # This has the value of forward * x and the derivative of backward * x. Unlike a custom_vjp, it
    # also allows forward-mode differentiation, and thus Hessian-vector products.
    y = backward * x + jax.lax.stop_gradient((forward - backward) * x)
    return y.astype(x.dtype)


class ShakeDrop(nn.Module):
    r"""Scales a residual branch at random (Yamada et al. 2019, arXiv:1802.02375).

    In training, b ~ Bernoulli(p) and uniform alpha and beta are drawn from the random stream
    `"dropout"` and passed to `shake_drop`. Otherwise `x` is multiplied by the expectation of the
    factor, :math:`p + (1 - p) \langle\alpha\rangle`.

    Attributes:
      keep_probability: p, in [0, 1].
      alpha: lower and upper end of the factors of values.
      beta: lower and upper end of the factors of gradients.
      level: "image" draws b, alpha and beta for each entry of the batch, "batch" once for all.

    Raises:
      TypeError: an attribute has the wrong type.
      ValueError: a probability is outside [0, 1], a range is empty, or the level is unknown.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flatjax.models import ShakeDrop
      >>> layer, x = ShakeDrop(keep_probability=0.75), jnp.ones((3, 1, 1, 2))
      >>> layer.apply({}, x, train=False)[0, 0, 0]
      Array([0.75, 0.75], dtype=float32)
      >>> layer.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)}).shape
      (3, 1, 1, 2)

    See Also:
      `PyramidNet` (has it).
    """

    keep_probability: float
    alpha: tuple[float, float] = (-1.0, 1.0)
    beta: tuple[float, float] = (0.0, 1.0)
    level: Literal["image", "batch"] = "image"

    def __post_init__(self):
        check_number("keep_probability", self.keep_probability, minimum=0.0, maximum=1.0)
        self.alpha = _checks.interval("alpha", self.alpha)
        self.beta = _checks.interval("beta", self.beta)
        check_choice("level", self.level, ("image", "batch"))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Scales the branch `x`, shape (B, ...)."""
        p = self.keep_probability
        if not train:
            return x * (p + (1 - p) * sum(self.alpha) / 2)
        number = len(x) if self.level == "image" else 1
        shape = (number,) + (1,) * (x.ndim - 1)
        gate_key, alpha_key, beta_key = jax.random.split(self.make_rng("dropout"), 3)
        gate = jax.random.bernoulli(gate_key, p, shape)
        draw = lambda key, ends: jax.random.uniform(key, shape, minval=ends[0], maxval=ends[1])
        return shake_drop(x, gate, draw(alpha_key, self.alpha), draw(beta_key, self.beta))
