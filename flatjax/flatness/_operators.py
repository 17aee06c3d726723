"""The Hessian and the Gauss-Newton matrix, as products with vectors.

Products are summed over the batches, in a Python loop around a jitted step: only the product with
one batch is compiled, once. (A scan over batches would make XLA's own convolutions on CPU ten times
slower.) The measures of curvature take these matrices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from flatjax import _additivity, _masks, _sums
from flatjax._evaluation import EvalFn, check_eval_fn
from flatjax._masks import Mask
from flatjax.flatness import _inputs
from flatjax.flatness._quantities import differentiable


class Operator(NamedTuple):
    """A symmetric matrix at one solution, defined by its products.

    Attributes:
      matvec: function of a vector that returns the product, by a Python loop over batches.
      like: a vector with the right structure: the weights that move, in at least float32, and None
        for other leaves.
      embed: function of a vector that returns a pytree like the parameters, zero where masked.
    """

    matvec: Callable[[chex.ArrayTree], chex.ArrayTree]
    like: chex.ArrayTree
    embed: Callable[[chex.ArrayTree], chex.ArrayTree]


class OperatorFn:
    """A function (params, batches, *state) -> Operator, for curvature measures."""

    def __init__(self, bind: Callable[..., Operator]):
        self._bind = bind

    def __call__(self, params: chex.ArrayTree, batches: _inputs.Batches, *state: Any) -> Operator:
        """Returns the matrix at a solution."""
        return self._bind(params, batches, *state)


def operator_at(
    operator_fn: Callable[..., Operator],
    params: chex.ArrayTree,
    batches: _inputs.Batches,
    *state: Any,
) -> Operator:
    """Returns the matrix at a solution; raises if `operator_fn` makes none."""
    if isinstance(operator_fn, OperatorFn):
        return operator_fn(params, batches, *state)
    expected = (
        "operator_fn must return the products of a matrix: give hessian_operator(eval_fn) or "
        "gauss_newton_operator(predict_fn, loss_fn), not eval_fn itself"
    )
    try:
        found = operator_fn(params, batches, *state)
    except Exception as error:  # the function is not made for these arguments
        raise TypeError(f"{expected}; it raised {error!r}.") from error
    if not isinstance(found, Operator):
        raise TypeError(f"{expected}; got {type(found).__name__}.")
    return found


def hessian_operator(eval_fn: EvalFn, *, quantity: str = "loss", mask: Mask = None) -> OperatorFn:
    r"""Makes the Hessian of the mean loss.

    It is :math:`\frac{1}{N} \sum_i \nabla^2 \ell_i(w)` for the losses of N examples.

    Cost of a product: one pass of forward over reverse differentiation [Pearlmutter, 1994]. On CPU
    this takes one gradient of the batches for a multilayer perceptron, and two to three for a
    convolutional network.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`.
      quantity: name of the loss in that dict. It must be twice differentiable.
      mask: pytree of bools (or a function of params returning one); rows and columns of leaves
        marked False are left out of the matrix.

    Returns:
      `fn(params, batches, *state) -> Operator`, for the measures of curvature, such as
      `flatjax.flatness.trace`.

    Raises:
      ValueError: (when called) there are no batches, `batches` is an iterator, `eval_fn` does not
        return `quantity` and `"count"`, or no weight moves.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax.flatness import hessian_operator
      >>> def eval_fn(params, batch):
      ...     return {"loss": jnp.sum(batch) * params["w"] ** 3 / 6, "count": len(batch)}
      >>> operator = hessian_operator(eval_fn)({"w": jnp.array(2.0)}, [jnp.array([1.0, 3.0])])
      >>> operator.matvec({"w": jnp.array(1.0)})
      {'w': Array(4., dtype=float32)}

    See Also:
      `gauss_newton_operator` (without negative eigenvalues for convex losses), `top_eigenvalues`
      (its eigenvalues), `trace` (their sum).
    """
    check_eval_fn(eval_fn)

    def product(vector, to_params, weights, batch, state):
        def loss(weights):
            sums = eval_fn(to_params(weights), batch, *state)
            return differentiable(sums, quantity), sums["count"]

        gradient = jax.grad(loss, has_aux=True)
        _, product, count = jax.jvp(gradient, (weights,), (vector,), has_aux=True)
        return product, count

    return _operator(product, mask, eval_fn)


def gauss_newton_operator(
    predict_fn: Callable[..., Any],
    loss_fn: Callable[[Any, Any], dict[str, jax.Array]],
    *,
    quantity: str = "loss",
    mask: Mask = None,
) -> OperatorFn:
    r"""Makes the generalised Gauss-Newton matrix of the mean loss.

    .. math:: \frac{1}{N} \sum_i J_i^\top \, \nabla_z^2 \ell_i \, J_i

    Here :math:`J_i` is the Jacobian of the network's outputs z for example i [Schraudolph, 2002].
    The matrix is the Hessian without the curvature of the network itself. For convex losses it is
    positive semidefinite. For networks that are linear in their weights it equals the Hessian, and
    for softmax with cross-entropy the Fisher matrix.

    Cost of a product: one forward pass, its tangent and its transpose. On CPU this takes one
    gradient of the batches for a multilayer perceptron, and two for a convolutional network.

    Args:
      predict_fn: `predict_fn(params, batch, *state) -> outputs`, an array or pytree.
      loss_fn: `loss_fn(outputs, batch) -> {"count": n, name: sum, ...}`, so that
        `loss_fn(predict_fn(params, batch, *state), batch)` is an `eval_fn` of
        `flatjax.evaluate`.
      quantity: name of the loss in that dict. It must be twice differentiable in the outputs.
      mask: pytree of bools (or a function of params returning one); rows and columns of leaves
        marked False are left out of the matrix.

    Returns:
      `fn(params, batches, *state) -> Operator`, for the measures of curvature, such as
      `flatjax.flatness.trace`.

    Raises:
      ValueError: (when called) there are no batches, `batches` is an iterator, `loss_fn` does not
        return `quantity` and `"count"`, or no weight moves.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax.flatness import gauss_newton_operator
      >>> predict_fn = lambda params, batch: batch * params**2
      >>> loss_fn = lambda z, batch: {"loss": jnp.sum(z**2) / 2, "count": len(batch)}
      >>> operator = gauss_newton_operator(predict_fn, loss_fn)(jnp.array(3.0), [jnp.ones(4)])
      >>> float(operator.matvec(jnp.array(1.0)))  # (dz/dw)^2 = (2 w)^2
      36.0

    See Also:
      `hessian_operator` (the complete Hessian), `top_eigenvalues` (its eigenvalues).
    """

    def product(vector, to_params, weights, batch, state):
        predict = lambda weights: predict_fn(to_params(weights), batch, *state)
        outputs, push_forward = jax.linearize(predict, weights)
        pull_back = jax.linear_transpose(push_forward, weights)

        def loss(outputs):
            sums = loss_fn(outputs, batch)
            return differentiable(sums, quantity, "loss_fn"), sums["count"]

        gradient = jax.grad(loss, has_aux=True)
        tangent = push_forward(vector)
        _, curved, count = jax.jvp(gradient, (outputs,), (tangent,), has_aux=True)
        return *pull_back(curved), count

    def eval_fn(params, batch, *state):
        return loss_fn(predict_fn(params, batch, *state), batch)

    return _operator(product, mask, eval_fn, "loss_fn")


def _operator(product, mask, eval_fn, source="eval_fn"):
    """Makes the Operator that sums product(vector, to_params, weights, batch, state)."""

    def total(vector, params, batch, state):
        weights = _inputs.weights(params, mask)
        vector = jax.tree.map(lambda v, w: jnp.asarray(v, w.dtype), vector, weights)
        return product(vector, lambda weights: _masks.merge(weights, params), weights, batch, state)

    total = jax.jit(total)  # traced once, and not for the shapes of each pass's sums

    @jax.jit
    def accumulate(totals, vector, params, batch, state):
        return _sums.add(totals, total(vector, params, batch, state))

    @jax.jit
    def mean(totals):
        product, count = totals
        return jax.tree.map(lambda total: _sums.mean(total, count), product, is_leaf=_sums.is_sum)

    def bind(params: chex.ArrayTree, batches: _inputs.Batches, *state: Any) -> Operator:
        params = _inputs.measured(params, mask)
        data = _inputs.repeatable(batches)
        like = _inputs.weights(params, mask)
        first = next(iter(data))
        _additivity.check_once(eval_fn, params, first, state, source, compiled=True)
        zeros = _sums.zeros(jax.eval_shape(total, like, params, first, state))

        def matvec(vector):
            totals = zeros
            for batch in data:
                totals = accumulate(totals, vector, params, batch, state)
            return mean(totals)

        embed = lambda vector: _masks.merge(vector, _inputs.zeros_like(params))
        return Operator(matvec, like, embed)

    return OperatorFn(bind)
