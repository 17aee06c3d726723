"""Fine-tuning on a second task, against a loop in NumPy."""

import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flatjax import flatness

RNG = np.random.default_rng(0)
FIRST = [(RNG.normal(size=(n, 3)), RNG.normal(size=n)) for n in (5, 2)]
SECOND = [(RNG.normal(size=(n, 3)), RNG.normal(size=n)) for n in (4, 4, 1)]
PARAMS = {"w": np.array([1.0, -2.0, 0.5]), "b": np.array(0.25)}
RATE, MOMENTUM = 0.05, 0.9


def eval_fn(params, batch):
    x, y = batch
    residual = x @ params["w"] + params["b"] - y
    return {"loss": jnp.sum(residual**2), "sum": jnp.sum(residual), "count": len(y)}


def in_numpy(steps, *, trains_b=True):
    """Heavy-ball SGD on the batches of the second task in turn: loss of both tasks, weights."""
    w, b = PARAMS["w"].copy(), float(PARAMS["b"])
    velocity_w, velocity_b = np.zeros(3), 0.0
    for t in range(steps):
        x, y = SECOND[t % len(SECOND)]
        residual = x @ w + b - y
        velocity_w = MOMENTUM * velocity_w + 2 * x.T @ residual / len(y)
        velocity_b = MOMENTUM * velocity_b + 2 * residual.sum() / len(y)
        w = w - RATE * velocity_w
        b = b - RATE * velocity_b * trains_b
    mean = lambda data: (
        sum(np.sum((x @ w + b - y) ** 2) for x, y in data) / sum(len(y) for _, y in data)
    )
    return mean(FIRST), mean(SECOND), w, b


def as_jax(tree):
    return jnp.asarray(tree, jnp.float32)


@pytest.mark.parametrize("trains_b", [True, False])
def test_steps_are_those_of_a_loop(trains_b):
    """Batches come in their order and again; a masked leaf stays."""
    batches = [[tuple(map(as_jax, one)) for one in data] for data in (FIRST, SECOND)]
    measure = flatness.fine_tuning(
        eval_fn,
        batches[1],
        optax.sgd(RATE, momentum=MOMENTUM),
        steps=[1, 3, 8],
        mask={"w": True, "b": trains_b},
    )
    found = measure({name: as_jax(leaf) for name, leaf in PARAMS.items()}, batches[0])
    before = in_numpy(0)
    assert found.reference["loss"] == pytest.approx(before[0], rel=1e-5)
    assert found.second_reference["loss"] == pytest.approx(before[1], rel=1e-5)
    for index, steps in enumerate(found.steps):
        first, second, w, b = in_numpy(steps, trains_b=trains_b)
        assert found.rise["loss"][index] == pytest.approx(first - before[0], rel=1e-4)
        assert found.second["loss"][index] == pytest.approx(second, rel=1e-4)
        change = np.append(w - PARAMS["w"], [b - PARAMS["b"]] if trains_b else [])
        trained = np.append(PARAMS["w"], [PARAMS["b"]] if trains_b else [])
        expected = np.linalg.norm(change) / np.linalg.norm(trained)
        assert found.distance[index] == pytest.approx(expected, rel=1e-4)


def test_every_solution_starts_anew_and_nothing_is_recompiled():
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=3)  # to evaluate, to differentiate, and for a single example
    def sums(params, batch, shift):
        return {"loss": jnp.sum((params - batch - shift) ** 2), "count": len(batch)}

    measure = flatness.fine_tuning(sums, [jnp.ones(2)], optax.adam(0.1), steps=[2])
    found = [measure(jnp.array(w), [jnp.zeros(2)], None, jnp.float32(0.0)) for w in (0.0, 3.0, 0.0)]
    np.testing.assert_array_equal(found[0].rise["loss"], found[2].rise["loss"])
    assert found[0].rise["loss"] > 0 > found[1].rise["loss"]


def test_the_table_has_both_tasks():
    measure = flatness.fine_tuning(eval_fn, SECOND, optax.sgd(RATE), steps=[2])
    shown = str(measure({name: as_jax(leaf) for name, leaf in PARAMS.items()}, FIRST))
    assert "rise of the loss" in shown
    assert "second task's loss" in shown
    assert "distance" in shown


def test_the_trained_quantity_must_be_there():
    measure = flatness.fine_tuning(eval_fn, SECOND, optax.sgd(RATE), quantity="error")
    with pytest.raises(ValueError, match="quantity must be one of"):
        measure(PARAMS, FIRST)
