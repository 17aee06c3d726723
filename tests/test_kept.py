"""Programs that measures share: compiled once for an `eval_fn`, and freed with it."""

import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatjax import flatness
from flatjax.flatness._kept import kept

PARAMS, BATCHES, KEY = jnp.array([1.0, -2.0]), [jnp.ones(3), jnp.ones(3)], jax.random.key(0)


class Parabola:
    """A parabola with data of its own, which counts how often it is traced."""

    def __init__(self):
        self.data = jnp.array([2.0, 3.0])
        self.traces = 0

    def sums(self, params, batch):
        """An `eval_fn`."""
        self.traces += 1
        return {"loss": len(batch) * jnp.sum(self.data * params**2), "count": len(batch)}


def function_of(owner):
    return lambda params, batch: owner.sums(params, batch)


FORMS = {
    "function": function_of,
    "method": lambda owner: owner.sums,
    "jitted": lambda owner: jax.jit(function_of(owner)),
    "partial": lambda owner: functools.partial(Parabola.sums, owner),
}


def sam(eval_fn):
    return flatness.sam_sharpness(eval_fn, rho=0.1)


def worst_case(eval_fn):
    return flatness.worst_case_sharpness(eval_fn, rho=0.1, steps=2)


def report(eval_fn):
    measures = ["local_energy", "sam_sharpness", "trace"]
    return lambda *given: flatness.report(eval_fn, *given, level="quick", measures=measures)


CASES = [(sam, form) for form in FORMS] + [(worst_case, "function"), (report, "function")]


@pytest.mark.parametrize(("make", "form"), CASES)
def test_data_of_an_eval_fn_are_freed_with_it(make, form):
    owner = Parabola()
    reference, data = weakref.ref(owner), weakref.ref(owner.data)
    measure = make(FORMS[form](owner))
    del owner
    gc.collect()
    measure(PARAMS, BATCHES, KEY)  # a measure holds its eval_fn
    measure(2 * PARAMS, BATCHES, KEY)
    del measure
    gc.collect()
    assert reference() is None
    assert data() is None


@pytest.mark.parametrize(
    ("make", "form"), [(sam, "method"), (worst_case, "function"), (report, "function")]
)
def test_nothing_is_compiled_again_for_the_same_eval_fn(make, form):
    owner = Parabola()
    eval_fn = FORMS[form](owner)
    make(eval_fn)(PARAMS, BATCHES, KEY)
    traces, owner.traces = owner.traces, 0
    again = owner.sums if form == "method" else eval_fn  # a new object, of the same method
    make(again)(PARAMS, BATCHES, KEY)
    assert owner.traces < traces  # the gradient, or all but the checks, is shared
    other = Parabola()
    make(FORMS[form](other))(PARAMS, BATCHES, KEY)
    assert other.traces == traces


def test_what_is_kept_for_a_function():
    made = []

    @kept(maxsize=2)
    def make(fn, number):
        made.append(number)
        return lambda: fn() + number

    one, two = (lambda: 1), (lambda: 2)
    assert [make(one, 3)(), make(two, 3)(), make(one, 3)()] == [4, 5, 4]
    assert made == [3, 3]
    for number in (4, 5, 3):  # the third leaves no room for the first
        make(one, number)
    assert made == [3, 3, 4, 5, 3]
    array = np.ones(2)  # no hash
    np.testing.assert_array_equal(make(one, array)(), make(one, array)())
    assert len(made) == 7
    assert make(max, 1) is not make(min, 1)
    with pytest.raises(TypeError, match="not callable"):
        make(1, 2)()  # a number has no weak references
