"""Low-rank factors: what they add, the mean that is meant, and fine-tuning replicas of them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fast import slow

import flatjax
from flatjax import lora, models

RNG = np.random.default_rng(0)
PARAMS = {
    "dense": {"kernel": RNG.normal(size=(6, 5)).astype(np.float32), "bias": np.ones(5, np.float32)},
    "conv": {"kernel": RNG.normal(size=(3, 3, 2, 4)).astype(np.float32)},
    "steps": np.arange(3),
}


def trained(y, rank=2):
    """Stacked factors with random numbers."""
    one = lora.init(0, PARAMS, rank)
    draw = lambda w: jnp.asarray(RNG.normal(size=(y, *w.shape)), w.dtype)
    return jax.tree.map(draw, one)


def by_hand(kernel, a, b, scale):
    """A kernel and its change, number by number."""
    rows = np.array(kernel, float).reshape(-1, kernel.shape[-1])
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            rows[i, j] += scale * sum(a[i, k] * b[k, j] for k in range(a.shape[1]))
    return rows.reshape(kernel.shape)


@pytest.mark.parametrize("layer", ["dense", "conv"])
def test_adapted_kernels_are_those_of_loops(layer):
    factors = jax.tree.map(lambda w: w[0], trained(1))
    found = lora.merged(PARAMS, factors, scale=0.5)
    own = jax.tree.map(np.asarray, factors[layer]["kernel"])
    expected = by_hand(PARAMS[layer]["kernel"], own.a, own.b, 0.5)
    np.testing.assert_allclose(found[layer]["kernel"], expected, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_equal(found["dense"]["bias"], PARAMS["dense"]["bias"])
    chex.assert_trees_all_equal(found["steps"], PARAMS["steps"])


def test_the_mean_of_factors_is_not_the_mean_of_products():
    """Unless all replicas share A, or have met."""
    factors, take = trained(3), lambda tree, a: jax.tree.map(lambda w: w[a], tree)
    mean = lambda tree: jax.tree.map(lambda w: w.mean(0), tree)
    each = [lora.merged(PARAMS, take(factors, a), scale=0.7) for a in range(3)]
    expected = jax.tree.map(lambda *ws: sum(ws) / 3, *each)["conv"]
    center = lora.center(PARAMS, factors, scale=0.7)
    chex.assert_trees_all_close(center["conv"], expected, rtol=1e-5, atol=1e-5)
    of_means = lora.merged(PARAMS, mean(factors), scale=0.7)
    assert np.abs(of_means["conv"]["kernel"] - expected["kernel"]).max() > 0.3

    is_factors = lambda node: isinstance(node, lora.Factors)
    share = lambda own: own._replace(a=jnp.broadcast_to(own.a[:1], own.a.shape))
    shared = jax.tree.map(share, factors, is_leaf=is_factors)
    chex.assert_trees_all_close(
        lora.center(PARAMS, shared), lora.merged(PARAMS, mean(shared)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("rank", [slow(1), 2, slow(4)])
def test_compressed_factors_are_the_closest_of_their_rank(rank):
    factors = trained(2)
    own, stack = lora.compressed(factors, rank)["dense"]["kernel"], factors["dense"]["kernel"]
    target = np.mean([np.asarray(a) @ np.asarray(b) for a, b in zip(*stack, strict=True)], axis=0)
    assert own.a.shape == (6, rank)
    singular = np.linalg.svd(target, compute_uv=False)
    distance = np.linalg.norm(own.a @ own.b - target)
    assert distance == pytest.approx(np.sqrt((singular[rank:] ** 2).sum()), rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_coupled_replicas_learn_a_change_of_low_rank_and_meet():
    """The pretrained weights stay; the center of the products is what was to be learned."""
    model = models.MLP(hidden=(8,), num_classes=3)
    images = jnp.asarray(RNG.normal(size=(64, 1, 1, 5)), jnp.float32)
    params = model.init(jax.random.key(0), images, train=False)["params"]
    target = lora.merged(params, _change(params))
    wanted = model.apply({"params": target}, images, train=False)

    def loss(factors):
        logits = model.apply({"params": lora.merged(params, factors)}, images, train=True)
        return jnp.mean((logits - wanted) ** 2)

    keys = jax.random.split(jax.random.key(2), 2)
    factors = flatjax.stack_replicas(lambda key: lora.init(key, params, 2), keys)
    steps = 300
    pull = flatjax.pull_to_center(flatjax.schedules.scoping(0.1, steps, 1e3), 0.02, replica_axis=0)
    tx = optax.chain(optax.adam(0.02), pull)

    @jax.jit
    def run(factors):
        def step(carry, _):
            factors, state = carry
            grads = flatjax.map_replicas(jax.grad(loss))(factors)
            updates, state = tx.update(grads, state, factors)
            return (optax.apply_updates(factors, updates), state), None

        return jax.lax.scan(step, (factors, tx.init(factors)), length=steps)[0][0]

    found = run(factors)
    center = lora.center(params, found)
    logits = model.apply({"params": center}, images, train=False)
    start = float(loss(lora.init(0, params, 2)))
    assert float(jnp.mean((logits - wanted) ** 2)) < 0.05 * start
    mean = jax.tree.map(lambda w: w.mean(0), found)
    chex.assert_trees_all_close(lora.merged(params, mean), center, atol=0.05)


def _change(params):
    """Factors of rank one for every kernel."""
    draw = lambda w: jnp.asarray(RNG.normal(size=w.shape), w.dtype)
    return jax.tree.map(draw, lora.init(1, params, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must be >= 1"),
        ({"rank": 6}, r"rank must be at most [45] for params.*, got 6: mask the leaf"),
        ({"rank": 1, "mask": lambda p: jax.tree.map(lambda w: False, p)}, "chooses none"),
        ({"rank": 1, "mask": lambda p: jax.tree.map(lambda w: w.ndim == 1, p)}, "at most 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        lora.init(0, PARAMS, **options)


def test_only_what_the_mask_marks_is_adapted():
    factors = lora.init(
        0, PARAMS, 2, mask=lambda p: {**jax.tree.map(lambda w: False, p), "conv": True}
    )
    assert factors["dense"] == {"bias": None, "kernel": None}
    assert factors["conv"]["kernel"].a.shape == (18, 2)
    with pytest.raises(ValueError, match=r"rank must be at most 4 for 2 replicas .*, got 5"):
        lora.compressed(jax.tree.map(lambda w: jnp.stack([w, w]), factors), 5)


def test_a_kernel_has_no_rank_above_its_size():
    """Two replicas of rank 2 have products of rank 4, but two outputs allow rank 2."""
    factors = {"w": lora.Factors(jnp.ones((2, 5, 2)), jnp.ones((2, 2, 2)))}
    assert lora.compressed(factors, 2)["w"].a.shape == (5, 2)
    with pytest.raises(ValueError, match=r"at most 2 for 2 replicas of a kernel \(5, 2\), got 3"):
        lora.compressed(factors, 3)


def test_numbers_and_arrays_of_numpy():
    params = {"kernel": np.ones((6, 5)), "scale": 1.0}  # float64
    with jax.enable_x64(False):
        factors = lora.init(0, params, 2)
        assert factors["scale"] is None
        found = lora.merged(params, factors)
    assert found["kernel"].dtype == factors["kernel"].a.dtype == jnp.float32


@pytest.mark.parametrize(
    "mean", [lambda f: lora.center(jnp.zeros((3, 4)), f), lambda f: lora.compressed(f, 1)]
)
def test_factors_of_one_network_are_no_stack(mean):
    """Square ones agree on a number of replicas."""
    one = lora.Factors(jnp.ones((3, 3)), jnp.ones((3, 4)))
    with pytest.raises(ValueError, match=r"factors must be stacked, .* \(3, 3\) and \(3, 4\)"):
        mean(one)
