"""A decoder-only transformer, a model of language."""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flatjax._checks import check_choice, check_count, check_flag, check_number
from flatjax.models import _checks

POSITIONS = ("rotary", "learned")


class Transformer(nn.Module):
    r"""Predicts each token of a text from the tokens before it.

    .. math::
      z_0 &= [E_{t_1}, \ldots, E_{t_T}] \; (+ p)

      z'_l &= z_{l-1} + \mathrm{attention}(\mathrm{norm}(z_{l-1}))

      z_l &= z'_l + W_2\, \mathrm{gelu}(W_1\, \mathrm{norm}(z'_l) + b_1) + b_2

      \mathrm{logits}_i &= V\, \mathrm{norm}(z_L)_i

    The logits at position i predict the token i + 1, and depend on the tokens 1, ..., i only:
    attention is causal. The norms come before each branch, as in GPT-2 (Radford et al. 2019). With
    `tied_embeddings`, V = E. Positions enter in one of two ways:

    - `"rotary"` (Su et al. 2021, arXiv:2104.09864). In each head of size d, the pair (j, j + d/2)
      of a query or key at position i is rotated by the angle :math:`i\, 10000^{-2j/d}`.
    - `"learned"`: a vector p_i for each position is added to the embedding.

    As in GPT-2, matrices, embeddings and p are drawn from a normal distribution of standard
    deviation 0.02, divided by :math:`\sqrt{2L}` in the last matrix of each branch; biases start at
    0. Dropout follows the embedding and each branch. The defaults have 1.8 million parameters.

    Attributes:
      num_classes: number of tokens; 256 for bytes.
      context: the largest number T of tokens in a sequence.
      width: length of the vectors z.
      depth: number of layers L.
      heads: number of attention heads; divides `width`.
      mlp_ratio: number of rows of W_1, in units of `width`.
      positions: `"rotary"` or `"learned"`.
      tied_embeddings: use the embeddings E as the last matrix V.
      dropout: probability of setting an activation to 0 in training.
      dtype: dtype of the computation, except the softmax of attention (float32 or wider).
        Parameters are float32 whatever it is.

    Call:
      `model.apply(variables, tokens, train=bool)` with integers (B, T), each below `num_classes`,
      gives logits (B, T, num_classes), in float32 or wider. `train=True` needs
      `rngs={"dropout": key}` unless `dropout` is 0; `train=False` draws nothing.

    Raises:
      TypeError: an attribute has the wrong type, or the tokens are not integers.
      ValueError: a number is below 1, the heads do not divide the width, rotary positions have an
        odd head size, or a probability is outside [0, 1]. Also if a dtype is not floating point, or
        tokens are not (B, T) with T <= `context`.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flatjax.models import Transformer
      >>> model, tokens = Transformer(width=16, depth=1, heads=2), jnp.zeros((2, 12), jnp.int32)
      >>> variables = jax.jit(model.init, static_argnames="train")(
      ...     jax.random.key(0), tokens, train=False
      ... )
      >>> model.apply(variables, tokens, train=True).shape
      (2, 12, 256)

    See Also:
      `create` (by its name), `flatjax.data.from_text` (its data), `flatjax.flatness.language_model`
      (measures it).
    """

    num_classes: int = 256
    context: int = 128
    width: int = 192
    depth: int = 4
    heads: int = 6
    mlp_ratio: int = 4
    positions: Literal["rotary", "learned"] = "rotary"
    tied_embeddings: bool = True
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        for name in ("num_classes", "context", "width", "depth", "heads", "mlp_ratio"):
            check_count(name, getattr(self, name))
        if self.width % self.heads:
            raise ValueError(f"heads must divide the width {self.width}, got {self.heads}.")
        check_choice("positions", self.positions, POSITIONS)
        if self.positions == "rotary" and self.width // self.heads % 2:
            raise ValueError(
                f"width / heads must be even for rotary positions, got {self.width} / {self.heads}."
            )
        check_flag("tied_embeddings", self.tied_embeddings)
        check_number("dropout", self.dropout, minimum=0.0, maximum=1.0)
        self.dtype = _checks.floating_dtype("dtype", self.dtype)
        super().__post_init__()

    @nn.compact
    def __call__(self, tokens: jax.Array, *, train: bool) -> jax.Array:
        """Logits (B, T, num_classes) of tokens (B, T)."""
        _checks.check_tokens(tokens, self.context)
        normal = nn.initializers.normal(0.02)
        embed = nn.Embed(
            self.num_classes, self.width, dtype=self.dtype, embedding_init=normal, name="embed"
        )
        x = embed(tokens)
        if self.positions == "learned":
            positions = self.param("positions", normal, (self.context, self.width))
            x = x + positions[None, : tokens.shape[1]].astype(x.dtype)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        for layer in range(self.depth):
            x = _Layer(
                *(self.depth, self.heads, self.mlp_ratio, self.positions, self.dropout, self.dtype),
                name=f"layer{layer}",
            )(x, train=train)
        x = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x)
        if self.tied_embeddings:
            x = embed.attend(x)
        else:
            x = nn.Dense(
                self.num_classes,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=normal,
                name="logits",
            )(x)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))  # for the loss


class _Layer(nn.Module):
    """Causal attention and two dense layers, with the attributes of `Transformer`."""

    depth: int
    heads: int
    mlp_ratio: int
    positions: str
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        norm = functools.partial(nn.LayerNorm, epsilon=1e-6, dtype=self.dtype)
        normal = nn.initializers.normal(0.02)
        last = nn.initializers.normal(0.02 / (2 * self.depth) ** 0.5)
        drop = lambda h: nn.Dropout(self.dropout)(h, deterministic=not train)
        attend = _rotary_attention if self.positions == "rotary" else nn.dot_product_attention
        attention = nn.MultiHeadDotProductAttention(
            self.heads,
            dtype=self.dtype,
            kernel_init=normal,
            out_kernel_init=last,
            attention_fn=attend,
            force_fp32_for_softmax=True,
            name="attention",
        )
        causal = jnp.tril(jnp.ones((1, 1, x.shape[1], x.shape[1]), bool))
        x = x + drop(attention(norm(name="attention_norm")(x), mask=causal))
        dense = functools.partial(nn.Dense, dtype=self.dtype)
        h = norm(name="mlp_norm")(x)
        h = dense(self.mlp_ratio * x.shape[-1], kernel_init=normal, name="mlp_in")(h)
        h = nn.gelu(h, approximate=False)
        return x + drop(dense(x.shape[-1], kernel_init=last, name="mlp_out")(h))


def _rotary_attention(query, key, value, mask, force_fp32_for_softmax):
    """Attention of (B, T, heads, d) with scores that depend on distances.

    Linen passes on only those options that this signature names.
    """
    options = {"mask": mask, "force_fp32_for_softmax": force_fp32_for_softmax}
    return nn.dot_product_attention(_rotated(query), _rotated(key), value, **options)


def _rotated(x: jax.Array) -> jax.Array:
    """Rotates the pair (j, j + d/2) at position i by i 10000^(-2j/d)."""
    half = x.shape[-1] // 2
    # In float32, where an angle of 127 radians has an error of 1e-5; in bfloat16 it would be 0.5.
    frequency = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None] * frequency[None]
    cos, sin = (f(angle)[None, :, None].astype(x.dtype) for f in (jnp.cos, jnp.sin))
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
