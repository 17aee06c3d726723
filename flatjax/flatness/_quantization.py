r"""How much worse a network becomes when its weights are stored in a few bits.

Symmetric rounding to the nearest of the multiples of a step s, with b bits, is

.. math::
  Q_c(w) = s \, \mathrm{clip}\big(\mathrm{round}(w / s), -n, n\big), \qquad
  n = 2^{b - 1} - 1, \quad s = c / n \tag{1}

Here c is the range: the largest weight, :math:`c = \max_i |w_i|`, or the clipped range

.. math::
  c^* = \mathrm{arg\,min}_{c \le \max_i |w_i|} \sum_i \big(Q_c(w_i) - w_i\big)^2 \tag{2}
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax import _checks
from flatjax._evaluation import EvalFn
from flatjax._masks import Mask
from flatjax.flatness import _inputs, _tables
from flatjax.flatness._changes import make_changes
from flatjax.flatness._inputs import Batches

SCALES = ("tensor", "channel")
# Clipped ranges that are tried, relative to the largest weight: steps of 2.3% down to a hundredth.
# The error is flat at its minimum, so that the best of them is within 0.1% of it.
FRACTIONS = np.geomspace(1.0, 0.01, 201)


@_tables.printed
class Quantization(NamedTuple):
    """Rise of the evaluated quantities when weights are rounded to B numbers of bits.

    Attributes:
      bits: the numbers of bits, shape (B,).
      rise: {name: value with rounded weights minus value, shape (B,)}, in units of `eval_fn`.
      reference: {name: value with the original weights, scalar}.
      distance: norm of the rounding errors divided by the norm of the rounded leaves, shape (B,).
    """

    bits: np.ndarray
    rise: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    distance: np.ndarray

    def table(self) -> _tables.Table:
        """Tabulates the rise of each quantity at each setting; printing shows it."""
        title = ["Rounded weights", _tables.at_solution(self.reference)]
        rises = _tables.rises(self.reference, self.rise)
        settings = [str(b) for b in self.bits]
        distance = [*map(_tables.number, self.distance)]
        return _tables.of_quantities(title, "bits", settings, rises, distance=distance)


def quantization(
    eval_fn: EvalFn,
    *,
    bits: Sequence[int] = (8, 4, 3, 2),
    scale: str = "tensor",
    clipped: bool = False,
    mask: Mask = None,
) -> Callable[..., Quantization]:
    r"""Makes a function that measures rises when weights are rounded to a few bits.

    Each weight is replaced by the nearest of :math:`2^b - 1` equidistant values,

    .. math::
      Q(w) = s \, \mathrm{clip}\big(\mathrm{round}(w / s), -n, n\big), \qquad
      n = 2^{b - 1} - 1, \quad s = c / n

    [Jacob et al., 2018; Nagel et al., 2021, symmetric and uniform]. The range c is the largest
    absolute weight of a leaf (`scale="tensor"`), or of all weights that feed one output
    (`scale="channel"`, a slice along the last axis, as in kernels of flax). One large weight makes
    the step of all others coarse. With `clipped`, c is instead the range with the smallest squared
    rounding error, and larger weights are rounded to c. It is searched from the largest weight down
    to a hundredth of it, in steps of 2.3%.

    The result is deterministic and has no standard error of its own. Activations are not rounded,
    and nothing is trained afterwards.

    Cost: one evaluation of the batches for each number of bits, and one more. Nothing is recompiled
    for other numbers of bits or solutions of the same shapes.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`.
      bits: numbers of bits b, including the sign; 2 or more.
      scale: `"tensor"` (default), one range for each leaf, or `"channel"`, one for each output.
        Leaves with fewer than two axes have one range.
      clipped: whether the range minimises the squared rounding error.
      mask: pytree of bools (or a function of params returning one); leaves marked False are not
        rounded. By default leaves with at least two axes are rounded (matrices and kernels), and
        biases and the scales of norms are not; True rounds all.

    Returns:
      `fn(params, batches, key, *state) -> Quantization`. The key is not used and may be None; it
      exists because all measures are called in the same way. The function loops over batches in
      Python around jitted steps; do not jit it.

    Raises:
      TypeError: (when called) state is passed instead of the key.
      ValueError: bits are empty or not whole numbers from 2 to 16, or the scale is unknown. When
        called: there are no batches, `batches` is an iterator, or no leaf may be rounded.

    Examples:
      Two bits keep -1, 0 and 1 times the range. A clipped range fits the many small weights better:

      >>> import jax.numpy as jnp
      >>> from flatjax.flatness import quantization
      >>> def eval_fn(params, batch):
      ...     return {"loss": len(batch) * jnp.sum(params**2), "count": len(batch)}
      >>> weights = jnp.array([[1.0, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]])
      >>> plain = quantization(eval_fn, bits=[2])(weights, [jnp.ones(1)])
      >>> clipped = quantization(eval_fn, bits=[2], clipped=True)(weights, [jnp.ones(1)])
      >>> round(float(plain.rise["loss"][0]), 2)  # all but one are gone
      -0.72
      >>> round(float(plain.distance[0]), 2), round(float(clipped.distance[0]), 2)
      (0.65, 0.5)

    See Also:
      `pruning` (zeros in place of rounding), `weight_noise` (noise in place of rounding).
    """
    grid = _check_bits(bits)
    _checks.check_choice("scale", scale, SCALES)
    _checks.check_flag("clipped", clipped)

    def round_leaf(w, levels):
        is_slice = scale == "channel" and w.ndim >= 2
        axes = tuple(range(w.ndim - 1 if is_slice else w.ndim))
        largest = jnp.max(jnp.abs(w), axis=axes, keepdims=True, initial=0.0)
        limit = _clipped_range(w, largest, levels, axes) if clipped else largest
        return _round(w, limit, levels)

    def round_weights(weights, levels):
        return jax.tree.map(lambda w: round_leaf(w, levels), weights)

    changes = make_changes(eval_fn, round_weights, mask)

    def measure(
        params: chex.ArrayTree, batches: Batches, key: Any = None, *state: Any
    ) -> Quantization:
        _inputs.check_unused_key(key)
        levels = [float(2 ** (b - 1) - 1) for b in grid.tolist()]
        return Quantization(grid, *changes(params, batches, state, levels))

    return measure


def _check_bits(bits) -> np.ndarray:
    array = np.atleast_1d(_checks.real_array("bits", bits))
    is_whole = np.isin(array, np.arange(2, 17))
    if array.ndim != 1 or not array.size or not is_whole.all():
        raise ValueError(f"bits must be a list of whole numbers from 2 to 16, got {bits}.")
    return array.astype(int)


def _round(w, limit, levels):
    """Computes Q_c(w) in eq. (1); a range of 0 gives zeros."""
    step = jnp.where(limit == 0, 1.0, limit / levels).astype(w.dtype)
    return step * jnp.clip(jnp.round(w / step), -levels, levels).astype(w.dtype)


def _clipped_range(w, largest, levels, axes):
    """Computes c* in eq. (2), trying `FRACTIONS` of the largest weight."""

    def keep_better(best, fraction):
        least, limit = best
        candidate = fraction * largest
        error = jnp.sum((_round(w, candidate, levels) - w) ** 2, axis=axes, keepdims=True)
        # "Not smaller" includes NaN: the range is then the largest weight, which is NaN as well.
        is_better = error < least
        return (jnp.where(is_better, error, least), jnp.where(is_better, candidate, limit)), None

    start = (jnp.full_like(largest, jnp.inf), largest)
    # One at a time: all ranges together would need 201 copies of the leaf.
    (_, limit), _ = jax.lax.scan(keep_better, start, jnp.asarray(FRACTIONS, w.dtype))
    return limit
