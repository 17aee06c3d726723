"""Finds an `eval_fn` that returns means instead of sums, once for each function.

Sums over examples add up. The batch that repeats the first two examples in turn is therefore
compared with these two examples, each evaluated alone. If both examples are classified without an
error, sums and means of the errors are 0; then the network with all weights negated, which makes
errors, is compared in the same way.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax._weak import place_of, weakly

# Half precision rounds: largest difference between sums over two examples and single examples.
TOLERANCE = 0.02

Fn = TypeVar("Fn", bound=Callable[..., Any])
Values = dict[str, np.ndarray]

_Jitted = type(jax.jit(lambda: None))
_tested: dict[tuple[int, ...], Any] = {}  # where a function is -> a weak reference to it


class Comparison(NamedTuple):
    """The values of a batch that repeats two examples, and of these alone.

    Attributes:
      size: the number of examples.
      together: {name: value of the batch}.
      added: {name: the values of the single examples, added}.
      scale: {name: their absolute values, added}.
    """

    size: int
    together: Values
    added: Values
    scale: Values

    def is_near(self, name: str, factor: float = 1.0) -> bool:
        """Whether `factor` times the batch's mean is the mean of its examples."""
        over = lambda values: values[name] / _like(values["count"], values[name])
        with np.errstate(all="ignore"):
            difference = np.abs(factor * over(self.together) - over(self.added))
            return bool(np.all(difference <= TOLERANCE * over(self.scale)))


class Pair:
    """The first two examples of a batch, alone and in a batch of its size.

    The second batch repeats the two examples in turn. Only one more program is compiled, for
    a single example.

    Args:
      eval_fn: see `flatjax.evaluate`.
      batch: a batch of examples.
      state: further inputs of `eval_fn`.
    """

    def __init__(self, eval_fn: Callable[..., Any], batch: Any, state: tuple[Any, ...]):
        self._eval_fn, self._batch, self._state = eval_fn, batch, state
        self.size = _num_examples(batch)
        # A jitted function's own cache gets no program for a single example.
        is_jitted = isinstance(eval_fn, _Jitted)
        self._of_one = jax.jit(lambda *given: eval_fn(*given)) if is_jitted else eval_fn

    def compare(self, params: chex.ArrayTree) -> Comparison | None:
        """Evaluates the batch and its examples.

        It returns None if nothing can be compared: there is only one example, the batch has no
        common leading axis or is spread over processes, or `eval_fn` accepts only one batch size.
        """
        if self.size < 2 or not _is_local((params, self._batch, self._state)):
            return None
        rows = np.arange(self.size) % 2
        total = lambda a, b: np.sum(rows == 0) * a + np.sum(rows == 1) * b
        try:
            with np.errstate(all="ignore"):
                together = self._values(self._eval_fn, params, rows)
                first, second = (
                    self._values(self._of_one, params, np.array([row])) for row in (0, 1)
                )
            added = {name: total(first[name], second[name]) for name in together}
            scale = {name: total(abs(first[name]), abs(second[name])) for name in together}
            return Comparison(self.size, together, added, scale) if "count" in added else None
        except Exception:  # of any kind: the eval_fn accepts only one batch size
            return None

    def check_sums(
        self, params: chex.ArrayTree, found: Comparison, source: str = "eval_fn"
    ) -> None:
        """Raises if a comparison finds means; compares again where all values are 0."""
        means = _means(found, found.scale)
        silent = [name for name, scale in found.scale.items() if not np.any(scale)]
        if silent and (other := self.compare(jax.tree.map(_negated, params))):
            means += _means(other, silent)
        if means:
            named = ", ".join(map(repr, sorted(means)))
            raise ValueError(
                f"{source} must return sums over the examples of a batch, but "
                f"{named} {'is their mean' if len(means) == 1 else 'are their means'}: return "
                "jnp.sum(losses), or count * mean."
            )

    def _values(self, run, params, rows) -> Values:
        sums: Mapping[str, Any] = run(params, _take(self._batch, rows), *self._state)
        widen = lambda array: array.astype(complex if np.iscomplexobj(array) else float)
        return {name: widen(np.asarray(value)) for name, value in sums.items()}


def check_once(
    eval_fn: Callable[..., Any],
    params: chex.ArrayTree,
    batch: Any,
    state: tuple[Any, ...],
    source: str = "eval_fn",
    *,
    compiled: bool = False,
) -> None:
    """Warns if `eval_fn` returns means over the batch; tests each function once.

    It is jitted if `compiled` is True. Nothing is tested in traced code, or if the batch has fewer
    than two examples. Only a weak reference to the function is kept.
    """
    place, reference = _reference(eval_fn)
    if reference is None or place in _tested or is_traced((params, batch, state)):
        return
    jit = compiled and not isinstance(eval_fn, _Jitted)
    pair = Pair(jax.jit(eval_fn) if jit else eval_fn, batch, state)
    if pair.size < 2:
        return
    _tested[place] = reference
    if found := pair.compare(params):
        try:
            pair.check_sums(params, found, source)
        except ValueError as error:
            # Sums over one whole batch may hold a term that does not depend on the examples.
            warnings.warn(f"{error} With several batches the results are wrong.", stacklevel=4)


def sums(eval_fn: Fn) -> Fn:
    """Marks a function that returns sums by construction, and needs no test."""
    place, reference = _reference(eval_fn)
    if reference is not None:
        _tested[place] = reference
    return eval_fn


def is_traced(tree: Any) -> bool:
    """Whether a tree holds values of code that is traced."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def _means(found: Comparison, names: Iterable[str]) -> list[str]:
    """Returns which of these values are means over the batch."""
    is_mean = lambda name: found.is_near(name, found.size) and not found.is_near(name)
    return [name for name in names if name != "count" and is_mean(name)]


def _negated(leaf):
    is_real = jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.floating)
    return -leaf if is_real else leaf


def _take(batch, rows):
    """Takes rows of all leaves; a batch of the same size stays on its devices."""

    def take(leaf):
        taken = leaf[np.asarray(rows)]
        is_same = isinstance(leaf, jax.Array) and taken.shape == leaf.shape
        return jax.device_put(taken, leaf.sharding) if is_same else taken

    return jax.tree.map(take, batch)


def _num_examples(batch) -> int:
    """Returns the size of a batch's common leading axis; 0 if there is none."""
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    return 0 if len(sizes) != 1 or sizes == {()} else int(sizes.pop()[0])


def _like(count, values):
    """Appends axes to a count, whose axes are the first axes of the values."""
    return count.reshape(count.shape + (1,) * (values.ndim - count.ndim))


def _is_local(tree) -> bool:
    arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    return all(array.is_fully_addressable for array in arrays)


def _reference(fn) -> tuple[tuple[int, ...], Any]:
    """Returns where a function is, and a weak reference or None."""
    while isinstance(fn, _Jitted):  # made again for each measure
        fn = getattr(fn, "__wrapped__")  # noqa: B009  # the type has no hints
    place = place_of(fn)
    try:
        return place, weakly(fn, lambda _: _tested.pop(place, None))
    except TypeError:
        return place, None
