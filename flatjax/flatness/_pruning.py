"""How much worse a network becomes when its smallest weights are removed."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax import _checks, _vectors
from flatjax._evaluation import EvalFn
from flatjax._masks import Mask
from flatjax.flatness import _inputs, _tables
from flatjax.flatness._changes import magnitudes, make_changes
from flatjax.flatness._inputs import Batches

SCOPES = ("global", "tensor")


@_tables.printed
class Pruning(NamedTuple):
    """Rise of the evaluated quantities when the smallest weights are set to zero.

    Attributes:
      sparsity: the fractions of the weights that are removed, shape (G,).
      rise: {name: value of the pruned network minus value, shape (G,)}, in units of `eval_fn`.
      reference: {name: value with all weights, scalar}.
      distance: norm of the removed weights divided by the norm of all prunable ones, shape (G,).
    """

    sparsity: np.ndarray
    rise: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    distance: np.ndarray

    def table(self) -> _tables.Table:
        """Tabulates the rise of each quantity at each setting; printing shows it."""
        title = ["Pruned weights", _tables.at_solution(self.reference)]
        rises = _tables.rises(self.reference, self.rise)
        settings = [f"{s:g}" for s in self.sparsity]
        distance = [*map(_tables.number, self.distance)]
        return _tables.of_quantities(title, "sparsity", settings, rises, distance=distance)


def pruning(
    eval_fn: EvalFn,
    *,
    sparsity: Sequence[float] = (0.5, 0.7, 0.9),
    scope: str = "global",
    mask: Mask = None,
) -> Callable[..., Pruning]:
    r"""Makes a function that measures rises when the smallest weights are set to zero.

    Of N weights, the :math:`\mathrm{round}(sN)` with the smallest absolute values are removed
    [Han et al., 2015]. N counts all weights (`scope="global"`), or the weights of each leaf
    (`scope="tensor"`). Among equal weights, the first ones are removed. Nothing is trained
    afterwards. The result is deterministic and has no standard error of its own.

    Cost: one evaluation of the batches for each sparsity, and one more. Nothing is recompiled
    for other sparsities or solutions of the same shapes.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`.
      sparsity: fractions s of the weights that are removed, each in (0, 1).
      scope: `"global"` (default) or `"tensor"`: the weights that are ranked together.
      mask: pytree of bools (or a function of params returning one); leaves marked False are neither
        pruned nor counted. By default leaves with at least two axes are pruned (matrices and
        kernels), and biases and the scales of norms are not; True prunes all.

    Returns:
      `fn(params, batches, key, *state) -> Pruning`. The key is not used and may be None; it exists
      because all measures are called in the same way. The function loops over batches in Python
      around jitted steps; do not jit it.

    Raises:
      TypeError: (when called) state is passed instead of the key.
      ValueError: sparsities are empty or not in (0, 1), or the scope is unknown. When called: there
        are no batches, `batches` is an iterator, or no leaf may be pruned.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax.flatness import pruning
      >>> def eval_fn(params, batch):
      ...     return {"loss": len(batch) * jnp.sum(params**2), "count": len(batch)}
      >>> measure = pruning(eval_fn, sparsity=[0.25, 0.5])
      >>> measure(jnp.array([[3.0, -1.0], [2.0, 4.0]]), [jnp.ones(1)]).rise["loss"].tolist()
      [-1.0, -5.0]

    See Also:
      `quantization` (rounding in place of zeros), `weight_noise` (noise in place of zeros).
    """
    grid = _inputs.check_grid("sparsity", sparsity)
    if not (grid < 1).all():
        raise ValueError(f"sparsity must be a list of numbers in (0, 1), got {grid}.")
    _checks.check_choice("scope", scope, SCOPES)

    def prune_together(weights, ranks_kept):
        """Keeps the weights from a rank on; ranks of the magnitudes count from 0."""
        order = jnp.argsort(magnitudes(weights))
        ranks = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)))
        keep = lambda w, rank: jnp.where(rank >= ranks_kept, w, jnp.zeros([], w.dtype))
        return jax.tree.map(keep, weights, _vectors.unravel(ranks, weights))

    def prune(weights, counts):
        if scope == "global":
            return prune_together(weights, counts)
        return jax.tree.map(prune_together, weights, counts)

    changes = make_changes(eval_fn, prune, mask)

    def counts_of(weights):
        count = lambda tree, s: round(s * _vectors.size(tree))
        if scope == "global":
            return [count(weights, s) for s in grid.tolist()]
        return [jax.tree.map(lambda w, s=s: count(w, s), weights) for s in grid.tolist()]

    def measure(params: chex.ArrayTree, batches: Batches, key: Any = None, *state: Any) -> Pruning:
        _inputs.check_unused_key(key)
        return Pruning(grid, *changes(params, batches, state, counts_of))

    return measure
