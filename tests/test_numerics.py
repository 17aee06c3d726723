"""The same numbers under every switch that users of JAX set, and determinism of all of them."""

import contextlib
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fast import only

import flatjax
from flatjax import data, flatness

IMAGES = np.random.default_rng(0).integers(0, 256, size=(12, 6, 6, 1), dtype=np.uint8)
LABELS = np.arange(12, dtype=np.int32) % 3
SPLIT = data.Split(image=IMAGES, label=LABELS)
NORMALIZATION = data.Normalization.from_images(IMAGES)


class Net(nn.Module):
    """One hidden layer of a smooth function."""

    @nn.compact
    def __call__(self, x):
        """Logits, (B, 3)."""
        return nn.Dense(3)(nn.tanh(nn.Dense(5)(x.reshape(len(x), -1))))


NET = Net()


def cross_entropies(params, batch):
    logits = NET.apply({"params": params}, batch["image"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]), logits


def eval_fn(params, batch):
    losses, logits = cross_entropies(params, batch)
    wrong = batch["weight"] * (logits.argmax(-1) != batch["label"])
    return {
        "loss": jnp.sum(batch["weight"] * losses),
        "error": jnp.sum(wrong),
        "count": jnp.sum(batch["weight"]),
    }


def loss(params, batch):
    return cross_entropies(params, batch)[0].mean()


@jax.jit
def init(key):
    return NET.init(key, jnp.zeros((1, 6, 6, 1)))["params"]


def train(make, key, replicas=()):
    """Three steps, of all replicas together."""
    init_key, order_key = jax.random.split(key)
    state_key = jax.random.fold_in(key, 7)
    params = init(init_key)
    if replicas:
        params = flatjax.stack_replicas(init, jax.random.split(init_key, *replicas))
    tx = make(state_key)
    state = tx.init(params)
    gradient = jax.vmap(jax.grad(loss)) if replicas else jax.grad(loss)

    @jax.jit
    def step(params, state, indices):
        batch = data.take_batch(data.to_device(SPLIT), indices, NORMALIZATION)
        updates, state = tx.update(gradient(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    order = data.epoch_order(order_key, len(SPLIT), 4, *replicas)
    for indices in order if replicas else order[:, 0]:
        params, state = step(params, state, indices)
    return params


def measure(make, key):
    init_key, key = jax.random.split(key)
    params = init(init_key)
    return make()(params, data.eval_batches(SPLIT, NORMALIZATION, 8), key)


HESSIAN = functools.partial(flatness.hessian_operator, eval_fn)
SGD = {"learning_rate": 0.1, "momentum": 0.9}
AUGMENT = data.compose(data.random_flip, data.random_crop(1), data.autoaugment(), data.cutout(2))
# Without `replicated_sgd` and `esgd`: `parle` has their parts.
CASES = {
    "augmentation": lambda key: jax.jit(AUGMENT)(key, IMAGES),
    "parle": lambda key: train(
        lambda key: flatjax.parle(
            **SGD, gamma=0.1, replica_gamma=0.1, inner_steps=2, key=key, replica_axis=0
        ),
        key,
        (2,),
    ),
    "local_energy": lambda key: measure(
        lambda: flatness.local_energy(eval_fn, sigmas=[0.1, 0.5], num_samples=4), key
    ),
    "pac_bayes": lambda key: measure(
        lambda: flatness.pac_bayes_sigma(eval_fn, quantity="loss", num_samples=4, rtol=0.5), key
    ),
    "worst_case": lambda key: measure(
        lambda: flatness.worst_case_sharpness(eval_fn, rho=0.1, steps=2), key
    ),
    "trace": lambda key: measure(lambda: flatness.trace(HESSIAN(), num_samples=2), key),
    "eigenvalues": lambda key: measure(
        lambda: flatness.top_eigenvalues(HESSIAN(), num_matvecs=4), key
    ),
    "local_entropy": lambda key: measure(
        lambda: flatness.local_entropy(
            eval_fn,
            distances=[0.1],
            betas=[0.5],
            quantity="loss",
            num_chains=2,
            num_steps=10,
            num_warmup=2,
        ),
        key,
    ),
}
each_case_if_slow = pytest.mark.parametrize(
    "name",
    only(["local_energy"], CASES),
)


@functools.cache
def plain(name):
    return CASES[name](jax.random.key(0))


assert_same = functools.partial(chex.assert_trees_all_close, rtol=0.0, atol=0.0)


@pytest.mark.slow
@each_case_if_slow
@pytest.mark.claim("docs/faq.md", "draw what new ones do")
def test_strict_switches_and_old_keys_change_no_bit(name):
    with contextlib.ExitStack() as strict:
        strict.enter_context(jax.debug_nans(True))
        strict.enter_context(jax.numpy_rank_promotion("raise"))
        found = CASES[name](jax.random.PRNGKey(0))
    assert_same(found, plain(name))


# The other measures are made of what these are.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [*("augmentation", "parle", "local_energy", "worst_case", "eigenvalues"), "local_entropy"],
)
def test_without_jit(name):
    with jax.disable_jit():
        found = CASES[name](jax.random.key(0))
    assert_same(found, plain(name), rtol=1e-4, atol=1e-5)


@each_case_if_slow
def test_again_and_bit_for_bit(name):
    assert_same(CASES[name](jax.random.key(0)), plain(name))
    other = jax.tree.leaves(CASES[name](jax.random.key(1)))
    assert any(map(np.any, map(np.not_equal, other, jax.tree.leaves(plain(name)))))


@pytest.mark.slow
@each_case_if_slow
@pytest.mark.claim("docs/faq.md", "what is float32 stays float32")
def test_in_x64_what_is_float32_stays_so(name):
    with jax.enable_x64(True):
        found = CASES[name](jax.random.key(0))
    types = functools.partial(jax.tree.map, lambda x: (np.shape(x), np.asarray(x).dtype))
    assert types(found) == types(plain(name))
