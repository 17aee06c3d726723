"""What every measure takes: kinds of leaves, masks, batches and keys; and what it refuses."""

import functools
from typing import Any

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast import only, slow
from flatness_contract import (
    BATCHES,
    COUNT,
    IN_ONE_PASS,
    KEY,
    MEASURES,
    PARAMS,
    WITH_KEY,
    WITHOUT_KEY,
    check,
    eval_fn,
    every,
    every_if_slow,
    plain,
)

import flatjax
from flatjax import flatness

# --- parameters -----------------------------------------------------------------------------------


@every_if_slow
def test_what_is_no_weight_never_moves(name):
    others = {"count": jnp.int32(COUNT), "flag": True, "key": jax.random.key(5), "none": None}
    given = PARAMS | others | {"b": 1.5}  # a Python float is a weight
    check(name, plain(name)(given, BATCHES, KEY), rtol=1e-4)


@pytest.mark.slow
@every_if_slow
def test_masked_leaves_may_be_of_any_kind(name):
    given = PARAMS | {"count": COUNT, "z": jnp.array([1j]), "key": jax.random.key(5)}
    mask = {"w": True, "b": True, "count": True, "z": False, "key": False}
    for one in (mask, lambda params: mask):
        check(name, MEASURES[name](eval_fn, one)(given, BATCHES, KEY), rtol=1e-4)
        if name in ("local_entropy", "density"):
            break  # the others have shown it, and faster


class CallableNetwork(equinox.Module):
    """A pytree that is a function; so is a mask of its structure."""

    b: Any
    w: Any

    def __call__(self, x):
        """Never called by a measure."""
        raise AssertionError


@pytest.mark.slow
@every_if_slow
def test_masks_that_are_callable_pytrees(name):
    as_dict = lambda network, batch: eval_fn({"b": network.b, "w": network.w}, batch)
    measure = MEASURES[name](as_dict, CallableNetwork(True, True))
    check(name, measure(CallableNetwork(PARAMS["b"], PARAMS["w"]), BATCHES, KEY))


@every
def test_complex_weights_are_refused_by_name(name):
    with pytest.raises(TypeError, match=r"\['z'\] must be real, got complex64.*imaginary"):
        plain(name)(PARAMS | {"z": jnp.array([1j])}, BATCHES, KEY)


@every
def test_weights_that_are_all_masked_are_refused_by_name(name):
    """All measures would be 0 or fail: the network would look flat."""
    message = "params must hold weights that move, got none.*mask"
    none = {"w": False, "b": False}
    for mask in (none, lambda params: none, {"w": False, "b": False, "count": True}):
        params = PARAMS | ({"count": COUNT} if isinstance(mask, dict) and "count" in mask else {})
        with pytest.raises(ValueError, match=message):
            MEASURES[name](eval_fn, mask)(params, BATCHES, KEY)


def test_masks_of_stacks_and_of_reports_must_mark_weights():
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), PARAMS)
    none = {"w": False, "b": False}
    with pytest.raises(ValueError, match="params must hold weights that move"):
        flatness.local_energy(eval_fn, mask=none, stacked=True)(stack, BATCHES, KEY)
    for measure in ("quantization", "trace"):
        with pytest.raises(ValueError, match="params must hold weights that move"):
            flatness.report(eval_fn, PARAMS, BATCHES, KEY, mask=none, measures=[measure])


# --- batches --------------------------------------------------------------------------------------


class Loader:
    """Iterable again and again."""

    def __iter__(self):
        return iter(BATCHES)


class SizedLoader(Loader):
    """With a length, as PyTorch's have it."""

    def __len__(self):
        return len(BATCHES)


class OldLoader:
    """Iterable by its items."""

    def __getitem__(self, index):
        return BATCHES[index]


KINDS = [tuple(BATCHES), Loader(), SizedLoader(), OldLoader(), lambda: BATCHES, Loader().__iter__]


LONG = ("eigenvalues", "learning_coefficient", "local_entropy", "pac_bayes")


@pytest.mark.parametrize("name", [slow(name) if name in LONG else name for name in MEASURES])
def test_all_kinds_of_batches(name):
    for batches in KINDS:
        check(name, plain(name)(PARAMS, batches, KEY), rtol=1e-4)
        if name == "local_entropy" and batches is not KINDS[0]:
            break  # a loop of steps in Python


NO_BATCHES = [
    (jnp.ones(3), r"float32\(3,\)"),
    ({"image": jnp.ones(3)}, "a mapping of"),
    ((jnp.ones((3, 2)), jnp.ones(3)), r"a tuple of float32\(3, 2\), float32\(3,\)"),
    ([np.ones((3, 2)), np.ones(3, int)], "a list of"),
    (3, "list of batches.*got 3"),
    (lambda: 3, "list of batches.*returned 3"),
    (iter(()), "iterator"),
    (lambda: iter(()), "at least one.*used up"),
    ([], "at least one"),
]


@every
def test_what_are_no_batches_is_refused_by_name(name):
    for batches, named in NO_BATCHES:
        with pytest.raises((TypeError, ValueError), match=f"(?s)batches must.*{named}"):
            plain(name)(PARAMS, batches, KEY)


@every
def test_an_iterator_is_not_continued(name):
    """The shapes of a first batch would be taken from one pass, and the sums from the rest."""
    once = iter(BATCHES * 100)
    if name in IN_ONE_PASS:
        check(name, plain(name)(PARAMS, lambda: once, KEY), rtol=1e-3)
    with pytest.raises(ValueError, match=r"batches must .*(same iterator twice|used up)"):
        plain(name)(PARAMS, lambda: once, KEY)


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", only(["local_energy", "trace", "slices"], WITH_KEY))
def test_all_kinds_of_keys(name):
    for key in (0, np.int64(0), jax.random.PRNGKey(0)):
        check(name, plain(name)(PARAMS, BATCHES, key))
    if name in ("local_energy", "trace"):
        measure = functools.partial(flatness.local_energy(eval_fn, num_samples=2), PARAMS, BATCHES)
        assert np.any(measure(2**40).mean["loss"] != measure(0).mean["loss"])


@every
def test_what_is_no_key_is_refused_by_name(name):
    for key in (*([None] if name in WITH_KEY else []), 0.5, PARAMS, jax.random.split(KEY)):
        with pytest.raises((TypeError, ValueError), match=r"\bkey must be"):
            plain(name)(PARAMS, BATCHES, key)


@every_if_slow
def test_state_comes_after_the_key(name):
    """All have one call shape, those that draw nothing too."""
    stateful = lambda params, batch, *state: eval_fn(params, batch) if len(state) == 2 else None
    check(name, MEASURES[name](stateful, None)(PARAMS, BATCHES, KEY, jnp.ones(2), {"a": 1.0}))


@pytest.mark.parametrize("name", WITHOUT_KEY)
def test_keys_that_are_not_used_may_be_left_out(name):
    for key in ((), (None,), (3,)):
        check(name, plain(name)(PARAMS, BATCHES, *key))
    with pytest.raises(TypeError, match=r"params, batches, key, \*state.*State.*after the key"):
        plain(name)(PARAMS, BATCHES, {"mean": jnp.zeros(2)})


# --- the order of arguments, and eval_fn ----------------------------------------------------------


@every
def test_parameters_without_weights_are_refused_by_name(name):
    for params in (KEY, {"n": 3}, None, BATCHES[:0]):
        with pytest.raises(TypeError, match="params must be a pytree with weights"):
            plain(name)(params, BATCHES, KEY)


@every
def test_what_is_no_eval_fn_is_refused_by_name(name):
    with pytest.raises(TypeError, match="eval_fn must be a function"):
        MEASURES[name](PARAMS, None)
    wrong = [
        (lambda params, batch: jnp.sum(params["w"] ** 2), "eval_fn must return a dict of sums"),
        (lambda params, batch: {"loss": jnp.sum(params["w"] ** 2)}, "eval_fn must .* 'count'"),
    ]
    for wrong_fn, named in wrong:
        with pytest.raises((TypeError, ValueError), match=named):
            MEASURES[name](wrong_fn, None)(PARAMS, BATCHES, KEY)


@pytest.mark.parametrize(
    "measure", [flatness.top_eigenvalues, flatness.trace, flatness.spectral_density]
)
def test_an_eval_fn_is_no_operator(measure):
    for no_operator in (eval_fn, lambda params, batches: {"loss": 1.0, "count": 1}):
        with pytest.raises(TypeError, match=r"operator_fn must .*hessian_operator\(eval_fn\)"):
            measure(no_operator)(PARAMS, BATCHES, KEY)


def test_the_order_of_arguments_of_a_random_direction():
    with pytest.raises(TypeError, match="params must be"):
        flatness.random_direction(KEY, PARAMS)
    with pytest.raises(TypeError, match="key must be"):
        flatness.random_direction(PARAMS, PARAMS)


def test_evaluate_takes_what_measures_take():
    for batches in (BATCHES, iter(BATCHES), *KINDS):
        found = flatjax.evaluate(jax.jit(eval_fn), PARAMS, batches)
        assert found["loss"] == pytest.approx(0.5 * 2 * (5.3125 + 3 * 2.25))
    used_up = iter(())
    for batches, named in [*NO_BATCHES, (used_up, "used up")]:
        if not (hasattr(batches, "__next__") and named == "iterator"):
            with pytest.raises((TypeError, ValueError), match=f"(?s)batches must.*{named}"):
                flatjax.evaluate(eval_fn, PARAMS, batches)
    with pytest.raises(TypeError, match="eval_fn must be a function"):
        flatjax.evaluate(PARAMS, eval_fn, BATCHES)
    with pytest.raises(TypeError, match=r"dict of sums.*n \* mean"):
        flatjax.evaluate(lambda params, batch: jnp.sum(batch), PARAMS, BATCHES)
