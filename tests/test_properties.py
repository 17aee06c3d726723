"""Any arguments and any trees: a right answer, or an error that names what is wrong."""

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fast import only
from hypothesis import strategies as st
from properties import holds, trees_of

import flatjax

Y = 2  # replicas, along the first axis
SHAPES = [(Y,), (Y, 3), (Y, 2, 2), (Y, 0)]
DTYPES = ("float32", "bfloat16", "float16")


def leaves(dtypes):
    """Strategy of stacked leaves, with values that any of the types can hold."""

    def leaf(shape, dtype, seed):
        values = np.random.default_rng(seed).integers(-8, 9, size=shape) / 4
        return jnp.asarray(values, dtype)

    return st.builds(leaf, st.sampled_from(SHAPES), st.sampled_from(dtypes), st.integers(0, 3))


def trees(dtypes=DTYPES):
    """Strategy of stacked pytrees."""
    return trees_of(leaves(dtypes))


COUPLINGS = {
    "couple_replicas": lambda gamma: flatjax.couple_replicas(gamma, replica_axis=0),
    "pull_to_center": lambda gamma: flatjax.pull_to_center(gamma, 0.1, replica_axis=0),
}
LOOPS = {
    "esgd": lambda gamma: flatjax.esgd(0.1, gamma=gamma, key=0),
    "parle": lambda gamma: flatjax.parle(
        0.1, gamma=gamma, replica_gamma=gamma, key=0, replica_axis=0
    ),
}
FORMS = COUPLINGS | LOOPS
each_form = pytest.mark.parametrize("form", FORMS)
each_form_if_slow = pytest.mark.parametrize("form", only(COUPLINGS, FORMS))
each_coupling = pytest.mark.parametrize("form", only(["pull_to_center"], COUPLINGS))


def holds_for(form, check, **strategies):
    """Whether a property of a form holds; the loops of Entropy-SGD are compiled for each tree."""
    holds(check, 15 if form in COUPLINGS else 6, **strategies)


@pytest.mark.slow
@each_form_if_slow
def test_any_tree_is_updated(form):
    def check(params, gamma, zero):
        tx = FORMS[form](gamma)
        grads = jax.tree.map(jnp.zeros_like if zero else jnp.ones_like, params)
        state = tx.init(params)
        for _ in range(2):
            updates, new_state = tx.update(grads, state, params)
            chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
            chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
            chex.assert_tree_all_finite(updates)
            params, state = optax.apply_updates(params, updates), new_state

    gammas = st.sampled_from([0.0, 1e-30, 0.5, 3.0])
    holds_for(form, check, params=trees(), gamma=gammas, zero=st.booleans())


@each_form
def test_what_is_no_coupling_is_refused_by_name(form):
    def check(gamma):
        with pytest.raises((TypeError, ValueError), match="gamma"):
            FORMS[form](gamma)

    negative = st.floats(max_value=0, exclude_max=True, allow_nan=False)
    others = [np.nan, 1j, "0.1", None, True, np.ones(2), jnp.array([0.1]), [0.1]]
    holds(check, 40, gamma=negative | st.sampled_from(others))


@each_form_if_slow
def test_updates_of_other_trees_are_refused_by_name(form):
    def check(params, updates):
        shapes = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)
        hypothesis.assume(shapes(params) != shapes(updates))
        tx = FORMS[form](0.5)
        with pytest.raises(ValueError, match=r"^updates"):
            tx.update(updates, tx.init(params), params)

    holds_for(form, check, params=trees(), updates=trees())


@pytest.mark.slow
@each_coupling
def test_one_replica_is_not_moved(form):
    def check(params, gamma):
        single = jax.tree.map(lambda leaf: leaf[:1], params)
        tx = FORMS[form](gamma)
        updates, _ = tx.update(jax.tree.map(jnp.zeros_like, single), tx.init(single), single)
        assert all(not leaf.any() for leaf in jax.tree.leaves(updates))

    holds_for(form, check, params=trees(), gamma=st.floats(0, 1e4))


@each_coupling
def test_the_center_is_not_moved(form):
    def check(params, gamma):
        tx = FORMS[form](gamma)
        updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
        for update, leaf in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
            scale = np.abs(update).max(initial=0) + np.abs(leaf).max(initial=0)
            np.testing.assert_allclose(update.mean(0), 0, atol=1e-6 * scale)

    holds_for(form, check, params=trees(("float32",)), gamma=st.floats(0, 1e4))


@each_form_if_slow
def test_nan_is_not_hidden(form):
    def check(params, steps):
        hypothesis.assume(any(leaf.size for leaf in jax.tree.leaves(params)))
        tx = FORMS[form](0.5)
        grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
        state = tx.init(params)
        for _ in range(steps):
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(params))

    holds_for(form, check, params=trees(), steps=st.integers(1, 3))
