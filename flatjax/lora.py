r"""Low-rank adaptation (LoRA): fine-tune and average low-rank factors.

A kernel W of m inputs and n outputs stays as it is, and its change has the rank r
(Hu et al. 2022, arXiv:2106.09685):

.. math:: W' = W + s\, A B, \qquad A \in R^{m \times r}, \; B \in R^{r \times n} \tag{1}

A is drawn and B starts at 0, so that W' = W at first. Kernels with more than two axes are matrices
with all axes but the last as inputs. Optimizers see the tree of A and B, which `init` makes.

*The trap.* Means of replicas are means of factors, but the mean of W' needs the mean of products:

.. math::
  \frac{1}{y} \sum_a A_a B_a = \bar A \bar B
  + \frac{1}{y} \sum_a (A_a - \bar A)(B_a - \bar B) \tag{2}

The last term is small where the replicas have met. Elsewhere, `center` takes the mean of products,
and `compressed` finds factors for it. If all replicas share A and train B alone (mask A in the
coupling and in the optimizer), the term is 0.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from flatjax import _checks, _masks
from flatjax._keys import as_key
from flatjax._masks import Mask
from flatjax._precision import at_least_float32
from flatjax._replicas import stacked_size

__all__ = ["Factors", "center", "compressed", "init", "merged"]


class Factors(NamedTuple):
    """The factors of the change of a kernel, eq. (1), as a node of a pytree.

    Attributes:
      a: (m, r).
      b: (r, n).

    See Also:
      `init` (draws them), `merged` (the weights that they make).
    """

    a: jax.Array
    b: jax.Array


def init(key: chex.PRNGKey | int, params: chex.ArrayTree, rank: int, *, mask: Mask = None) -> Any:
    r"""Draws the factors of kernels: A with the variance 1 / m, B = 0.

    Args:
      key: random key, or a seed.
      params: the weights W.
      rank: r.
      mask: pytree of bools (or a function of params returning one): which leaves are adapted; all
        floating-point leaves with two axes or more, if None.

    Returns:
      A pytree like `params` with `Factors` in place of kernels that are adapted, and None in place
      of other leaves. They have the dtype of the kernel.

    Raises:
      ValueError: `rank` is below 1 or larger than a kernel allows, no leaf is adapted, or one of
        them has less than two axes.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax import lora
      >>> params = {"kernel": jnp.ones((6, 4)), "bias": jnp.zeros(4)}
      >>> factors = lora.init(0, params, rank=2)
      >>> factors["kernel"].a.shape, factors["kernel"].b.shape, factors["bias"]
      ((6, 2), (2, 4), None)
      >>> bool((lora.merged(params, factors)["kernel"] == params["kernel"]).all())
      True

    See Also:
      `merged` (the weights to evaluate), `flatjax.stack_replicas` (several sets of factors).
    """
    _checks.check_count("rank", rank)
    if mask is None:
        is_kernel = lambda w: jnp.ndim(w) >= 2 and jnp.issubdtype(w.dtype, jnp.floating)
        mask = jax.tree.map(is_kernel, params)
    chosen = _masks.moving(params, mask)
    leaves, structure = jax.tree.flatten(chosen)
    if not leaves:
        raise ValueError("mask must choose at least one kernel, but it chooses none.")
    for path, leaf in jax.tree.leaves_with_path(chosen):
        largest = min(_matrix(leaf)) if jnp.ndim(leaf) >= 2 else 0
        if rank > largest:
            raise ValueError(
                f"rank must be at most {largest} for params{jax.tree_util.keystr(path)} of shape "
                f"{jnp.shape(leaf)}, got {rank}: mask the leaf."
            )
    keys = jax.random.split(as_key("key", key), len(leaves))

    def draw(key, w):
        m, n = _matrix(w)
        dtype = jnp.result_type(w)  # without x64, NumPy's float64 becomes float32
        a = jax.random.normal(key, (m, rank), dtype) / jnp.sqrt(m).astype(dtype)
        return Factors(a, jnp.zeros((rank, n), dtype))

    return jax.tree.unflatten(structure, list(map(draw, keys, leaves)))


def merged(params: chex.ArrayTree, factors: Any, *, scale: float = 1.0) -> chex.ArrayTree:
    """The adapted weights, eq. (1): what the network is evaluated with.

    Args:
      params: the weights W.
      factors: of `init`, trained.
      scale: s.

    Returns:
      A pytree like `params`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax import lora
      >>> factors = {"w": lora.Factors(jnp.ones((3, 1)), jnp.ones((1, 2)))}
      >>> lora.merged({"w": jnp.zeros((3, 2))}, factors, scale=0.5)["w"][0]
      Array([0.5, 0.5], dtype=float32)

    See Also:
      `init` (draws the factors), `center` (the weights of several replicas).
    """
    return _added(params, factors, lambda own: own.a @ own.b, scale)


def center(
    params: chex.ArrayTree, factors: Any, *, replica_axis: int = 0, scale: float = 1.0
) -> chex.ArrayTree:
    r"""Returns the mean of the replicas' adapted weights, left side of eq. (2).

    Args:
      params: the weights W, which replicas share.
      factors: stacked factors of y replicas.
      replica_axis: the axis along which they are stacked.
      scale: s.

    Returns:
      A pytree like `params`. Its change has a rank of up to y r.

    Raises:
      ValueError: the factors are not stacked, or disagree on the number of replicas.

    Examples:
      Two replicas whose changes are equal, with opposite signs of both factors:

      >>> import jax.numpy as jnp
      >>> from flatjax import lora
      >>> signs = jnp.array([1.0, -1.0])[:, None, None]
      >>> factors = {"w": lora.Factors(signs * jnp.ones((2, 3, 1)), signs * jnp.ones((2, 1, 2)))}
      >>> params = {"w": jnp.zeros((3, 2))}
      >>> lora.center(params, factors)["w"][0], jnp.mean(factors["w"].a)
      (Array([1., 1.], dtype=float32), Array(0., dtype=float32))

    See Also:
      `compressed` (factors of low rank for it), `flatjax.replica_center` (for weights in place of
      factors).
    """
    size = stacked_size(factors, replica_axis, "factors")
    mean = lambda own: jnp.matmul(*_joined(own, replica_axis)) / size
    return _added(params, factors, mean, scale)


def compressed(factors: Any, rank: int, *, replica_axis: int = 0) -> Any:
    r"""Returns the factors of rank r closest to the mean of the replicas' products.

    By the singular values of eq. (2)'s left side, in the Frobenius norm (Eckart and Young 1936).
    Both factors get the roots of the singular values. Costs a decomposition of a matrix of y r rows
    and columns for each kernel.

    Args:
      factors: stacked factors of y replicas, of rank R.
      rank: r, at most y R, and at most the inputs and the outputs of each kernel.
      replica_axis: the axis along which they are stacked.

    Returns:
      Factors of one network.

    Raises:
      ValueError: `rank` is below 1 or above its largest value, or the factors are not stacked.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax import lora
      >>> signs = jnp.array([1.0, -1.0])[:, None, None]
      >>> factors = {"w": lora.Factors(signs * jnp.ones((2, 3, 1)), signs * jnp.ones((2, 1, 2)))}
      >>> own = lora.compressed(factors, rank=1)["w"]
      >>> (own.a @ own.b).round(3)[0]
      Array([1., 1.], dtype=float32)

    See Also:
      `center` (the mean without a loss of rank), `merged` (the weights of the result).
    """
    size = stacked_size(factors, replica_axis, "factors")
    _checks.check_count("rank", rank)

    def compress(own):
        a, b = map(at_least_float32, _joined(own, replica_axis))
        largest = min(*a.shape, b.shape[1])
        if rank > largest:
            shape = (a.shape[0], b.shape[1])
            raise ValueError(
                f"rank must be at most {largest} for {size} replicas of a kernel {shape}, got "
                f"{rank}."
            )
        # a b = q_a (r_a r_b^T) q_b^T with a small matrix in the middle.
        (q_a, r_a), (q_b, r_b) = jnp.linalg.qr(a), jnp.linalg.qr(b.T)
        u, s, vt = jnp.linalg.svd(r_a @ r_b.T / size, full_matrices=False)
        root = jnp.sqrt(s[:rank])
        left, right = q_a @ u[:, :rank] * root[None], root[:, None] * (vt[:rank] @ q_b.T)
        return Factors(left.astype(own.a.dtype), right.astype(own.b.dtype))

    return jax.tree.map(compress, factors, is_leaf=_is_factors)


def _is_factors(node: Any) -> bool:
    return isinstance(node, Factors)


def _matrix(w: jax.Array) -> tuple[int, int]:
    """Inputs and outputs of a kernel."""
    return w.size // w.shape[-1], w.shape[-1]


def _joined(own: Factors, axis: int) -> tuple[jax.Array, jax.Array]:
    """A_1, ..., A_y side by side, (m, y r), and the B_a below each other, (y r, n)."""
    if own.a.ndim != 3 or own.b.ndim != 3:
        raise ValueError(
            "factors must be stacked, of three axes each, got the shapes "
            f"{own.a.shape} and {own.b.shape}: see flatjax.stack_replicas."
        )
    a, b = jnp.moveaxis(own.a, axis, 0), jnp.moveaxis(own.b, axis, 0)
    return a.swapaxes(0, 1).reshape(a.shape[1], -1), b.reshape(-1, b.shape[-1])


def _added(params, factors, product, scale):
    """W + s times the product of each kernel's factors."""

    def add(own, w):
        if own is None:
            return w
        w = jnp.asarray(w)
        return (w + scale * product(own).reshape(w.shape)).astype(w.dtype)

    is_leaf = lambda node: node is None or _is_factors(node)
    return jax.tree.map(add, factors, params, is_leaf=is_leaf)
