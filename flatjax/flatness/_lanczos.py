"""Lanczos tridiagonalisation for a product that is a loop over batches.

Here the loop over Lanczos steps runs in Python, and only the update of the basis is compiled.
`matfree.decomp.tridiag_sym` cannot be used, because it traces the product:

- One program then holds the products of all batches, and is compiled anew for each solution: in 27
  seconds for ten batches of a small convolutional network. Here compilation takes 7 seconds once,
  and 1 for each further solution. Streamed data cannot be traced at all.
- In float32 its basis loses its norm in large vectors: eigenvalues of a matrix of a million rows
  were wrong by 1e-4, here by 1e-5.
- If the Krylov space is exhausted, as for multiples of the identity, it continues with rounding
  errors and finds eigenvalues that the matrix does not have.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from flatjax import _checks
from flatjax.flatness import _inputs


class Tridiagonalization(NamedTuple):
    """The decomposition A Q^T = Q^T T + residual e_m^T, with matfree's field names.

    Attributes:
      Q_tall: m orthonormal vectors, stacked on the first axis of each leaf.
      J_small: T, tridiagonal, shape (m, m).
      residual: remainder of A q_m, orthogonal to all of Q.
      init_length_inv: 1 / norm of the initial vector.
    """

    Q_tall: chex.ArrayTree
    J_small: jax.Array
    residual: chex.ArrayTree
    init_length_inv: jax.Array


def lanczos(num_matvecs: int) -> Callable[..., Tridiagonalization]:
    r"""Decomposes a symmetric matrix as :math:`A Q^\top = Q^\top T + r e_m^\top`.

    The basis is fully reorthogonalised. The function has the interface of
    `matfree.decomp.tridiag_sym(num_matvecs)` and can replace it in matfree's functions:
    `matfree.eig.eigh_partial(lanczos(20))`, or, for functions of the Hessian,
    `matfree.funm.funm_lanczos_sym(dense_funm, lanczos(20))`.

    Cost: `num_matvecs` products, and memory for as many vectors.

    Args:
      num_matvecs: m, the number of Lanczos steps, at most the number of the matrix's rows.

    Returns:
      `fn(matvec, vector, *parameters) -> Tridiagonalization`, with
      `matvec(vector, *parameters)` and any pytree of real floating-point arrays as `vector`.
      Vectors are in at least float32.

    Raises:
      ValueError: num_matvecs < 1.
      TypeError: (when called) `vector` does not have real floating-point numbers.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax.flatness import lanczos
      >>> found = lanczos(2)(lambda v: jnp.array([1.0, 3.0]) * v, jnp.array([1.0, 1.0]))
      >>> found.J_small.round(3)
      Array([[2., 1.],
             [1., 2.]], dtype=float32)

    See Also:
      `top_eigenvalues` (of a network), `hessian_operator` (a product for it).
    """
    _checks.check_count("num_matvecs", num_matvecs)

    def decompose(matvec, vector, *parameters):
        flat, unravel = ravel_pytree(_inputs.measured(vector, None, "vector"))
        flat_matvec = lambda v: ravel_pytree(matvec(unravel(v), *parameters))[0]
        basis, alphas, betas, residual = tridiagonalize(flat_matvec, flat, num_matvecs)
        dense = jnp.diag(alphas) + jnp.diag(betas[:-1], 1) + jnp.diag(betas[:-1], -1)
        return Tridiagonalization(
            Q_tall=jax.vmap(unravel)(basis),
            J_small=dense,
            residual=unravel(residual),
            init_length_inv=1 / jnp.linalg.norm(flat),
        )

    return decompose


def tridiagonalize(
    matvec: Callable[[jax.Array], jax.Array], start: jax.Array, num_matvecs: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Runs the Lanczos iteration from a flat vector (n,).

    Returns:
      The basis (m, n); the diagonal of T (m,); its off-diagonal (m,), whose last element is the
      norm of the residual; and the residual (n,). m is `num_matvecs`, or n if that is smaller.
    """
    num_matvecs = min(num_matvecs, start.size)
    vector = start / jnp.linalg.norm(start)
    basis = jnp.zeros((num_matvecs, start.size), start.dtype).at[0].set(vector)
    scale = jnp.zeros([], start.dtype)
    alphas, betas = [], []
    for k in range(num_matvecs):
        basis, vector, alpha, beta, scale, residual = _step(basis, matvec(vector), k, scale)
        alphas.append(alpha)
        betas.append(beta)
    return basis, jnp.stack(alphas), jnp.stack(betas), residual


_STREAM = 1950  # folded into the key of vectors outside of an invariant subspace


@functools.partial(jax.jit, donate_argnums=0)
def _step(basis, product, k, scale):
    """Extends the basis by A q_k: (basis, q_k+1, alpha, beta, max norm, residual)."""
    dot = functools.partial(jnp.matmul, precision="highest")

    def orthogonalize(v):
        # Two passes are enough [Kahan; Parlett, 1980]: the first one cancels most of v.
        for _ in range(2):
            v = v - dot(dot(basis, v), basis)
        return v

    alpha = dot(basis[k], product)
    residual = orthogonalize(product)
    beta = jnp.linalg.norm(residual)
    scale = jnp.maximum(scale, jnp.linalg.norm(product))
    # If nothing remains, the basis spans an invariant subspace. A vector outside it continues the
    # iteration; it finds other eigenvectors and has no weight in a quadrature.
    is_invariant = beta <= jnp.finfo(basis.dtype).eps * scale
    # This draw needs its own stream: with the key of the start, it might be the start again.
    key = jax.random.fold_in(jax.random.key(_STREAM), k)
    fresh = lambda: orthogonalize(jax.random.normal(key, product.shape, basis.dtype))
    vector = jax.lax.cond(is_invariant, fresh, lambda: residual)
    vector /= jnp.linalg.norm(vector)
    basis = basis.at[k + 1].set(vector, mode="drop")
    return basis, vector, alpha, jnp.where(is_invariant, 0.0, beta), scale, residual
