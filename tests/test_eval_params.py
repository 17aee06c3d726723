"""What is evaluated: anchors, averages and centers, in any nesting of the optimizer's state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chex import assert_trees_all_equal
from fast import only
from flax import nnx

import flatjax

PARAMS = {
    "a": {"w": np.float32([[0, 1, 2], [3, 4, 5]]), "b": np.ones(3, np.float32)},
    "z": np.float32([2, -1]),
}
ESGD = {"inner_steps": 4, "noise_scale": 0.0}


def train(tx, params=PARAMS, steps=6):
    """The parameters and the state after some steps: in the middle of the second loop."""
    tx = optax.with_extra_args_support(tx)

    @jax.jit
    def step(params, state):
        grads = jax.tree.map(lambda w: 0.3 * w, params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def esgd(**options):
    return flatjax.esgd(0.1, 0.5, **ESGD, **options)


@functools.cache
def trained():
    """The parameters, the state, and the anchor in it."""
    params, state = train(esgd())
    return params, state, state.anchor


def test_the_anchor_is_not_where_training_is():
    params, state, anchor = trained()
    assert_trees_all_equal(flatjax.eval_params(state, params), anchor)
    assert not np.allclose(anchor["z"], params["z"])


def test_swapped_arguments_are_refused():
    for tx in (esgd(), optax.sgd(0.1), optax.adam(0.1), flatjax.average_params(start=0)):
        state = tx.init(PARAMS)
        with pytest.raises(
            TypeError, match=r"got an optimizer state, \w+State: call eval_params\("
        ):
            flatjax.eval_params(PARAMS, state)
        with pytest.raises(TypeError, match=r"call set_params\(state, params\)"):
            flatjax.set_params(PARAMS, state)


NESTED = {
    "chain": optax.chain(optax.identity(), esgd()),
    "multi_steps": optax.MultiSteps(esgd(), every_k_schedule=1),
    "inject_hyperparams": optax.inject_hyperparams(
        flatjax.esgd, static_args=("inner_steps", "gamma")
    )(0.1, 0.5, **ESGD),
    "flatten": optax.flatten(esgd()),
    "partition_of_two": optax.partition(
        {"x": esgd(), "y": esgd()}, {"a": {"w": "x", "b": "y"}, "z": "x"}
    ),
    "partition_of_subtrees": optax.partition({"x": esgd(), "y": esgd()}, {"a": "x", "z": "y"}),
}


@pytest.mark.parametrize("name", only(["chain", "flatten", "partition_of_subtrees"], NESTED))
def test_anchors_are_found_in_any_nesting(name):
    params, state = train(NESTED[name])
    found = flatjax.eval_params(state, params)
    jax.tree.map(
        lambda w, anchor: np.testing.assert_allclose(w, anchor, rtol=1e-6), found, trained()[2]
    )


@pytest.mark.parametrize(
    "mask", [{"a": True, "z": False}, {"a": {"w": True, "b": True}, "z": False}]
)
def test_what_the_anchor_lacks_is_taken_from_the_parameters(mask):
    params, state = train(optax.masked(esgd(), mask))
    found = flatjax.eval_params(state, params)
    assert_trees_all_equal(found["a"], trained()[2]["a"])
    assert_trees_all_equal(found["z"], params["z"])
    frozen = jax.tree.map(lambda trains: "train" if trains else "freeze", mask)
    tx = optax.partition({"train": esgd(), "freeze": optax.set_to_zero()}, frozen)
    params, state = train(tx)
    assert_trees_all_equal(
        flatjax.eval_params(state, params), {"a": trained()[2]["a"], "z": PARAMS["z"]}
    )


def test_complex_parameters_in_two_parts():
    params = {"w": jnp.array([1.0 + 2.0j, -3.0j]), "x": jnp.ones(2)}
    params, state = train(optax.contrib.split_real_and_imaginary(esgd()), params)
    found = flatjax.eval_params(state, params)
    expected = jax.lax.complex(*state.inner_state.anchor["w"])
    assert found["w"].dtype == jnp.complex64
    np.testing.assert_array_equal(found["w"], expected)
    assert not np.allclose(found["w"], params["w"])


@pytest.mark.slow
def test_state_of_an_nnx_optimizer():
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, esgd(), wrt=nnx.Param)
    for _ in range(6):
        grads = nnx.grad(lambda model: jnp.sum(model(jnp.ones((4, 2))) ** 2))(model)
        optimizer.update(model, grads)
    params = nnx.state(model, nnx.Param)
    found = flatjax.eval_params(optimizer.opt_state, params)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    anchors = jax.tree.leaves(optimizer.opt_state.anchor)
    for leaf, anchor, param in zip(
        jax.tree.leaves(found), anchors, jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_array_equal(leaf, anchor)
        assert not np.allclose(leaf, param)
    nnx.update(model, found)  # and goes back into the model


@pytest.mark.slow
def test_an_average_comes_before_the_anchor_and_which_chooses():
    params, state = train(optax.chain(esgd(), flatjax.average_params()))
    average = state[1].average
    assert_trees_all_equal(flatjax.eval_params(state, params), average)
    assert_trees_all_equal(flatjax.eval_params(state, params, which="average"), average)
    assert_trees_all_equal(flatjax.eval_params(state, params, which="anchor"), trained()[2])
    assert_trees_all_equal(flatjax.eval_params(state, params, which="params"), params)
    of_anchors = flatjax.entropy_sgd(
        optax.chain(optax.sgd(1.0), flatjax.average_params()),
        optax.identity(),
        0.5,
        inner_learning_rate=0.1,
        inner_steps=2,
        noise_scale=0.0,
    )
    params, state = train(of_anchors)
    assert_trees_all_equal(flatjax.eval_params(state, params), state.outer_state[1].average)


def test_sgd_is_evaluated_where_it_is():
    params, state = train(optax.sgd(0.1))
    assert_trees_all_equal(flatjax.eval_params(state, params), params)


def test_center():
    replicas = jax.tree.map(lambda w: np.stack([w, 2 * np.asarray(w) + 1]), PARAMS)
    tx = flatjax.parle(0.1, 0.5, 1.0, replica_axis=0, **ESGD)
    params, state = train(tx, replicas)
    center = flatjax.eval_params(state, params, replica_axis=0)
    expected = jax.tree.map(lambda anchor: np.asarray(anchor).mean(axis=0), state.anchor)
    jax.tree.map(np.testing.assert_allclose, center, expected)
    assert_trees_all_equal(flatjax.eval_params(state, params), state.anchor)
    named = lambda params: flatjax.eval_params((), params, axis_name="replica")
    found = jax.vmap(named, axis_name="replica", out_axes=None)(params)
    jax.tree.map(np.testing.assert_allclose, found, flatjax.replica_center(params, replica_axis=0))


NEW = jax.tree.map(lambda w: 5 - w, PARAMS)
HELD = NESTED | {
    "alone": esgd(),
    "average": optax.chain(esgd(), flatjax.average_params()),
    "average_of_anchors": flatjax.entropy_sgd(
        optax.chain(optax.sgd(1.0), flatjax.average_params()),
        optax.identity(),
        0.5,
        inner_learning_rate=0.1,
        noise_scale=0.0,
    ),
    "masked": optax.masked(esgd(), {"a": True, "z": False}),
    "sam": flatjax.sam(esgd(), 0.1),
}


@pytest.mark.parametrize("name", only(["masked", "average_of_anchors", "inject_hyperparams"], HELD))
def test_replaced_parameters_stay_where_they_are_put(name):
    """A gradient of 0 leaves them there; they were drawn back to the anchor before."""
    tx = optax.with_extra_args_support(HELD[name])
    _, state = train(tx, steps=0)
    state = flatjax.set_params(state, NEW)
    assert_trees_all_equal(flatjax.eval_params(state, NEW), NEW)
    params = NEW
    decay = lambda params: jax.tree.map(lambda w: -5e-4 * w, params)  # undoes the weight decay
    update = jax.jit(tx.update)
    for _ in range(8):
        updates, state = update(decay(params), state, params)
        params = optax.apply_updates(params, updates)
    close = lambda w, new: np.testing.assert_allclose(w, new, rtol=5e-3)
    jax.tree.map(close, flatjax.eval_params(state, params), NEW)


def test_replaced_parameters_of_other_kinds():
    params = {
        "w": jnp.array([1.0 + 2.0j, -3.0j]),
        "x": jnp.ones(2, jnp.bfloat16),
        "n": jnp.array(3),
    }
    new = {"w": 2 * params["w"], "x": jnp.zeros(2, jnp.bfloat16), "n": jnp.array(4)}
    for tx in (esgd(), optax.contrib.split_real_and_imaginary(esgd())):
        state = flatjax.set_params(tx.init(params), new)
        assert_trees_all_equal(flatjax.eval_params(state, new), new)
    delayed = flatjax.couple_replicas(1.0, replica_axis=0, delayed=True)
    replicas = {"w": jnp.array([[0.0], [2.0]])}
    _, state = delayed.update(replicas, delayed.init(replicas), replicas)
    assert np.any(state.pending["w"])
    assert not np.any(flatjax.set_params(state, replicas).pending["w"])
    with pytest.raises(ValueError, match=r"match the anchor .*\[z\] has shape"):
        flatjax.set_params(trained()[1], PARAMS | {"z": jnp.ones(3)})
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, esgd(), wrt=nnx.Param)
    new = jax.tree.map(lambda w: w + 1, nnx.state(model, nnx.Param))
    state = flatjax.set_params(optimizer.opt_state, new)
    assert jax.tree.structure(state) == jax.tree.structure(optimizer.opt_state)
    for leaf, w in zip(jax.tree.leaves(state.anchor), jax.tree.leaves(new), strict=True):
        np.testing.assert_array_equal(leaf, w)


def test_replaced_parameters_of_schedule_free():
    """Its average is computed from the parameters and from the weights z in the state."""
    base = optax.chain(optax.sgd(0.1), flatjax.average_params())
    _, state = train(optax.contrib.schedule_free(base, 0.1))
    state = flatjax.set_params(state, NEW)
    close = functools.partial(
        jax.tree.map, functools.partial(np.testing.assert_allclose, rtol=1e-5)
    )
    close(optax.contrib.schedule_free_eval_params(state, NEW), NEW)
    assert_trees_all_equal(state.base_optimizer_state[1].average, NEW)


def test_in_jit():
    params, state, anchor = trained()
    assert_trees_all_equal(jax.jit(flatjax.eval_params)(state, params), anchor)


def test_half_precision_keeps_its_dtype_but_in_averages():
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    params, state = train(optax.chain(esgd(), flatjax.average_params()), params)
    assert flatjax.eval_params(state, params)["w"].dtype == jnp.float32
    assert flatjax.eval_params(state, params, which="anchor")["w"].dtype == jnp.bfloat16


def test_refuses():
    anchored = trained()[1]
    with pytest.raises(ValueError, match=r"which must be one of .*'anchor'.*got 'both'"):
        flatjax.eval_params(anchored, PARAMS, which="both")
    with pytest.raises(ValueError, match="state must hold an anchor, found none"):
        flatjax.eval_params(optax.sgd(0.1).init(PARAMS), PARAMS, which="anchor")
    with pytest.raises(ValueError, match="state must hold an average, found none"):
        flatjax.eval_params(anchored, PARAMS, which="average")
    with pytest.raises(ValueError, match="one anchor of each weight, found more than one"):
        flatjax.eval_params((anchored, anchored), PARAMS)
    for params, named in (
        ({"z": PARAMS["z"]}, r"\[a\]\[b\]"),
        (PARAMS | {"more": jnp.ones(2)}, r"\[more\]"),
        (PARAMS | {"z": jnp.ones(3)}, r"\[z\] has shape \(2,\) in the state, \(3,\) in params"),
        (PARAMS["z"], "params"),
    ):
        with pytest.raises(ValueError, match=f"match the anchor in the state.*{named}"):
            flatjax.eval_params(anchored, params)
