r"""How much of a first task a network forgets when it is trained on a second one.

The network :math:`w_0` takes steps of an optimizer on the batches :math:`b_1, b_2, \ldots` of the
second task,

.. math::
  w_t = w_{t - 1} + u_t, \qquad u_t = \mathrm{update}(g_1, \ldots, g_t), \qquad
  g_t = \nabla L(w_{t - 1}; b_t) \tag{1}

with the mean loss L of a batch. The rise of a quantity Q of the first task is

.. math:: \Delta_k = Q(w_k) - Q(w_0) \tag{2}
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
import optax

from flatjax import _checks, _masks
from flatjax._evaluation import EvalFn, check_eval_fn, evaluate
from flatjax._masks import Mask
from flatjax.flatness import _inputs, _tables
from flatjax.flatness._inputs import Batches
from flatjax.flatness._quantities import differentiable


@_tables.printed
class FineTuning(NamedTuple):
    """Rise of the first task's quantities after K numbers of steps on a second task.

    Attributes:
      steps: the numbers of steps, shape (K,).
      rise: {name: value on the first task after the steps minus value before, shape (K,)}, in units
        of `eval_fn`.
      reference: {name: value on the first task before, scalar}.
      second: {name: value on the second task after the steps, shape (K,)}.
      second_reference: {name: value on the second task before, scalar}.
      distance: norm of the change divided by the norm of the trained weights, shape (K,).
    """

    steps: np.ndarray
    rise: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    second: dict[str, np.ndarray]
    second_reference: dict[str, np.ndarray]
    distance: np.ndarray

    def table(self) -> _tables.Table:
        """Tabulates rises and the second task at each number of steps; printing shows it."""
        before = ", ".join(f"{n} {_tables.number(v)}" for n, v in self.second_reference.items())
        title = [
            "Fine-tuned on a second task",
            _tables.at_solution(self.reference),
            f"On the second task before: {before}",
        ]
        columns = _tables.rises(self.reference, self.rise)
        for name, values in self.second.items():
            columns[f"second task's {name}"] = [*map(_tables.number, values)]
        steps = [str(k) for k in self.steps]
        distance = [*map(_tables.number, self.distance)]
        return _tables.of_quantities(title, "steps", steps, columns, distance=distance)


def fine_tuning(
    eval_fn: EvalFn,
    second_batches: Batches,
    tx: optax.GradientTransformation,
    *,
    steps: Sequence[int] = (10, 100),
    quantity: str = "loss",
    mask: Mask = None,
) -> Callable[..., FineTuning]:
    r"""Makes a function that measures how much of a first task a network forgets.

    The network takes k steps of the optimizer on batches of the second task,

    .. math:: w_t = w_{t - 1} + \mathrm{update}\big(\nabla L(w_{t - 1}; b_t)\big)

    and the rise of a quantity Q of the first task is :math:`Q(w_k) - Q(w_0)`. This is also called
    forgetting [McCloskey and Cohen, 1989]. The batches are used in their order, and again from the
    first one. All solutions therefore take the same steps. The result is deterministic and has no
    standard error of its own.

    The network is the one that `eval_fn` evaluates: state such as batch statistics is fixed while
    the weights are trained. A learning rate changes small weights relatively more than large ones.
    Compare solutions at an equal error on the second task, or at an equal distance, if their norms
    differ much.

    Cost: as many gradients of batches as the largest number of steps, and an evaluation of both
    tasks for each number of steps, and one more. Nothing is recompiled for other numbers of steps
    or solutions of the same shapes.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`. It serves both tasks.
      second_batches: batches of the second task, for the steps.
      tx: the optimizer, which starts anew for each solution.
      steps: numbers of steps k, in ascending order.
      quantity: name of the loss that is trained, as `eval_fn` returns it. It must be
        differentiable.
      mask: pytree of bools (or a function of params returning one); leaves marked False are not
        trained. By default all are.

    Returns:
      `fn(params, batches, key, *state) -> FineTuning`, with the batches of the first task. The key
      is not used and may be None; it exists because all measures are called in the same way. The
      function loops over batches in Python around jitted steps; do not jit it.

    Raises:
      TypeError: `tx` is no optimizer. When called: state is passed instead of the key.
      ValueError: steps are empty, not positive whole numbers, or not ascending, or `second_batches`
        is an iterator. When called: there are no batches, `batches` is an iterator, `eval_fn` does
        not return `quantity`, or no weight moves.

    Examples:
      The first task has its minimum at 0 and the second at 1. A step goes half of the way:

      >>> import jax.numpy as jnp, optax
      >>> from flatjax.flatness import fine_tuning
      >>> def eval_fn(params, batch):
      ...     return {"loss": jnp.sum((params - batch) ** 2), "count": len(batch)}
      >>> measure = fine_tuning(eval_fn, [jnp.ones(4)], optax.sgd(0.25), steps=[1, 2])
      >>> found = measure(jnp.array(0.0), [jnp.zeros(4)])
      >>> found.rise["loss"].tolist(), found.second["loss"].tolist()
      ([0.25, 0.5625], [0.25, 0.0625])

    See Also:
      `quantization`, `pruning`, `weight_noise` (other changes of the weights),
      `learning_coefficient` (it predicted the rise in the study of robustness).
    """
    grid = _check_steps(steps)
    check_eval_fn(eval_fn)
    second = _inputs.repeatable(second_batches, "second_batches")
    if not hasattr(tx, "init") or not hasattr(tx, "update"):
        raise TypeError(f"tx must be an optax gradient transformation, got {tx!r}.")
    evaluated = jax.jit(eval_fn)
    start, step, distance = _training(eval_fn, tx, quantity, mask)

    def values(params, data, state):
        means = evaluate(evaluated, params, data, *state)
        return {name: np.asarray(mean, dtype=float) for name, mean in means.items()}

    def measure(
        params: chex.ArrayTree, batches: Batches, key: Any = None, *state: Any
    ) -> FineTuning:
        _inputs.check_unused_key(key)
        params, data = _inputs.measured(params, mask), _inputs.repeatable(batches)
        both = lambda point: (values(point, data, state), values(point, second, state))
        before, found = both(params), []
        point, opt_state, stream = params, start(params), _endless(second)
        for done in range(1, grid[-1] + 1):
            point, opt_state = step(point, opt_state, next(stream), state)
            if done in grid:
                found.append((*both(point), float(distance(point, params))))
        firsts, seconds, distances = zip(*found, strict=True)
        return FineTuning(
            steps=grid,
            # eq. (2)
            rise={name: stacked - before[0][name] for name, stacked in _stacked(firsts).items()},
            reference=before[0],
            second=_stacked(seconds),
            second_reference=before[1],
            distance=np.array(distances),
        )

    return measure


def _training(eval_fn, tx, quantity, mask):
    """Makes functions that start the optimizer, take a step, and find the distance."""

    def mean_loss(weights, params, batch, state):
        sums = eval_fn(_masks.merge(weights, params), batch, *state)
        return differentiable(sums, quantity) / sums["count"]

    @jax.jit
    def start(params):
        return tx.init(_inputs.weights(params, mask))

    @jax.jit
    def step(params, opt_state, batch, state):  # eq. (1)
        weights = _inputs.weights(params, mask)
        grads = jax.grad(mean_loss)(weights, params, batch, state)
        updates, opt_state = tx.update(grads, opt_state, weights)
        return _masks.merge(optax.apply_updates(weights, updates), params), opt_state

    @jax.jit
    def distance(point, params):
        new, old = _inputs.weights(point, mask), _inputs.weights(params, mask)
        return optax.tree.norm(optax.tree.sub(new, old)) / optax.tree.norm(old)

    return start, step, distance


def _endless(data: _inputs.Data) -> Iterator[Any]:
    # itertools.cycle would keep all batches of a loader in memory.
    while True:
        yield from data


def _stacked(found: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


def _check_steps(steps) -> np.ndarray:
    array = np.atleast_1d(_checks.real_array("steps", steps))
    is_valid = array.ndim == 1 and array.size and (array >= 1).all()
    if not (is_valid and (array == np.round(array)).all() and (np.diff(array) > 0).all()):
        raise ValueError(f"steps must be a list of ascending positive integers, got {steps}.")
    return array.astype(int)
