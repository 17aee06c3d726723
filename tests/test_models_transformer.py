"""The transformer: equal to loops in NumPy for weights on disk, causal, in every placement."""

import functools
import math

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import CASES, COVERING, train
from fast import only
from placements import placed

import flatjax
from flatjax import models

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(11, size=(4, 7)).astype(np.int32)
SIZES = {"num_classes": 11, "context": 9, "width": 12, "depth": 2, "heads": 3, "mlp_ratio": 2}
VARIANTS = {
    "rotary_tied": {},
    "learned_untied": {"positions": "learned", "tied_embeddings": False},
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def model_of(variant, **options):
    return models.Transformer(**SIZES, **VARIANTS[variant], **options)


@functools.cache
def params_of(variant):
    """Random numbers everywhere: biases of 0 would hide a missing one."""
    init = functools.partial(model_of(variant).init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), TOKENS)["params"]
    draw = lambda leaf: RNG.uniform(-0.8, 0.8, leaf.shape).astype(leaf.dtype)
    return jax.tree.map(draw, shapes)


@functools.partial(jax.jit, static_argnames=("variant", "train", "dtype"))
def apply(variant, params, tokens, train=False, dtype="float32"):
    return model_of(variant, dtype=dtype).apply({"params": params}, tokens, train=train)


GPT2 = {"num_classes": 50257, "context": 1024, "width": 768, "depth": 12, "heads": 12}
GPT2 |= {"positions": "learned"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1_828_992),
        ({"tied_embeddings": False, "positions": "learned"}, 1_828_992 + 192 * (256 + 128)),
        (GPT2, 124_439_808),
    ],
    ids=["default", "untied", "gpt2"],
)
def test_number_of_parameters_is_that_of_gpt2(options, expected):
    init = functools.partial(models.Transformer(**options).init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


# ------------------------------------------------------------------------- a reference in NumPy


def numpy_norm(x, arrays, name):
    """Of one vector."""
    x = (x - x.mean()) / math.sqrt(x.var() + 1e-6)
    return x * arrays[f"{name}/scale"] + arrays[f"{name}/bias"]


def numpy_gelu(x):
    return x * np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])


def numpy_rotated(x, position):
    """Pairs of entries as complex numbers, turned."""
    half = len(x) // 2
    angles = [position * 10_000 ** (-j / half) for j in range(half)]
    turned = (x[:half] + 1j * x[half:]) * np.exp(1j * np.array(angles))
    return np.concatenate([turned.real, turned.imag])


def numpy_attention(xs, arrays, name, rotary):
    """Each position looks at itself and at those before it, one head after another."""
    out = [arrays[f"{name}/out/bias"].astype(np.float64) for _ in xs]
    for head in range(SIZES["heads"]):
        project = lambda x, kind, head=head: (
            x @ arrays[f"{name}/{kind}/kernel"][:, head] + arrays[f"{name}/{kind}/bias"][head]
        )
        queries, keys, values = ([project(x, k) for x in xs] for k in ("query", "key", "value"))
        if rotary:
            queries, keys = (
                [numpy_rotated(v, i) for i, v in enumerate(vs)] for vs in (queries, keys)
            )
        for i, query in enumerate(queries):
            weights = np.exp([query @ key / math.sqrt(len(query)) for key in keys[: i + 1]])
            mean = sum(w * v for w, v in zip(weights, values[: i + 1], strict=True))
            out[i] = out[i] + mean / weights.sum() @ arrays[f"{name}/out/kernel"][head]
    return out


def numpy_logits(arrays, tokens, variant):
    """Of one sequence, from the arrays of a saved model."""
    arrays = {name.removeprefix("params/"): array for name, array in arrays.items()}
    dense = lambda x, name: x @ arrays[f"{name}/kernel"] + arrays[f"{name}/bias"]
    rotary = VARIANTS[variant].get("positions") != "learned"
    xs = [arrays["embed/embedding"][token].astype(np.float64) for token in tokens]
    if not rotary:
        xs = [x + arrays["positions"][i] for i, x in enumerate(xs)]
    for layer in range(SIZES["depth"]):
        at = f"layer{layer}/"
        normed = [numpy_norm(x, arrays, at + "attention_norm") for x in xs]
        branch = numpy_attention(normed, arrays, at + "attention", rotary)
        xs = [x + b for x, b in zip(xs, branch, strict=True)]
        hidden = [dense(numpy_norm(x, arrays, at + "mlp_norm"), at + "mlp_in") for x in xs]
        xs = [x + dense(numpy_gelu(h), at + "mlp_out") for x, h in zip(xs, hidden, strict=True)]
    last = arrays["logits/kernel"] if "logits/kernel" in arrays else arrays["embed/embedding"].T
    return np.stack([numpy_norm(x, arrays, "norm") @ last for x in xs])


@pytest.mark.parametrize("variant", only(["learned_untied"], VARIANTS))
def test_logits_of_stored_weights_are_those_of_loops_in_numpy(variant, tmp_path):
    options = [f"{name}={value!r}" for name, value in (SIZES | VARIANTS[variant]).items()]
    models.save(
        *(tmp_path, params_of(variant)),
        model="transformer",
        options=[option for option in options if not option.startswith("num_classes")],
        num_classes=11,
        image_shape=TOKENS.shape[1:],
        input_dtype="int32",
    )
    predict, params, state = models.load(tmp_path)
    with np.load(tmp_path / "arrays.npz") as arrays:
        expected = [numpy_logits(dict(arrays), tokens, variant) for tokens in TOKENS]
    np.testing.assert_allclose(predict(params, state, TOKENS), expected, rtol=2e-5, atol=2e-5)


@each_variant
def test_logits_depend_on_no_later_token(variant):
    logits = np.asarray(apply(variant, params_of(variant), TOKENS))
    changed = TOKENS.copy()
    changed[:, 4] = (changed[:, 4] + 1) % 11
    found = np.asarray(apply(variant, params_of(variant), changed))
    np.testing.assert_array_equal(found[:, :4], logits[:, :4])
    assert (np.abs(found[:, 4:] - logits[:, 4:]).max((0, 2)) > 1e-3).all()


def test_half_precision_and_training_mode():
    params = params_of("rotary_tied")
    expected = apply("rotary_tied", params, TOKENS)
    half = apply("rotary_tied", params, TOKENS.astype(np.uint8), dtype="bfloat16")
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, expected, atol=0.03 * np.abs(expected).max())
    np.testing.assert_array_equal(apply("rotary_tied", params, TOKENS, train=True), expected)


@pytest.mark.slow
def test_dropout_draws_in_training_only():
    model, params = model_of("rotary_tied", dropout=0.5), params_of("rotary_tied")
    draw = jax.jit(
        lambda key: model.apply({"params": params}, TOKENS, train=True, rngs={"dropout": key})
    )
    one, other = draw(jax.random.key(0)), draw(jax.random.key(1))
    assert np.abs(one - other).max() > 0.1
    plain = model.apply({"params": params}, TOKENS, train=False)
    np.testing.assert_allclose(plain, apply("rotary_tied", params, TOKENS), atol=1e-6)


# ------------------------------------------------------------- replicas: placements, platforms


SHALLOW = models.Transformer(**SIZES | {"depth": 1})


def loss(params, tokens):
    """Mean cross-entropy of the next token; of one layer, which is compiled sooner."""
    logits = SHALLOW.apply({"params": params}, tokens[:, :-1], train=True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


REPLICAS = 4
BATCHES = RNG.integers(11, size=(REPLICAS, 4, 7)).astype(np.int32)


@functools.cache
def stacked_params():
    factors = np.linspace(0.5, 1, REPLICAS, dtype=np.float32)
    scale = lambda w: w * factors.reshape(-1, *[1] * w.ndim)
    params = {name: leaf for name, leaf in params_of("rotary_tied").items() if name != "layer1"}
    return jax.tree.map(scale, params)


def step_of(tx, **options):
    """A step of coupled replicas."""

    def step(params, state, tokens):
        losses, grads = flatjax.map_replicas(jax.value_and_grad(loss), **options)(params, tokens)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, losses

    return step


TX = flatjax.diloco(
    optax.adamw(0.01), optax.sgd(0.7, momentum=0.9, nesterov=True), period=2, replica_axis=0
)


@functools.cache
def one_by_one():
    """Losses and gradients of each replica alone."""
    gradient = jax.jit(jax.value_and_grad(loss))
    take = lambda a: jax.tree.map(lambda w: w[a], stacked_params())
    found = [gradient(take(a), BATCHES[a]) for a in range(REPLICAS)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


@pytest.mark.slow
# One of each kind; `test_placement` has all of them.
@pytest.mark.parametrize("placement", ["unroll", "vmap", "4x2", "auto_mesh"])
def test_every_placement_gives_the_same(placement):
    if jax.__version_info__[:3] == (0, 12, 0) and placement in ("4x2", "auto_mesh"):
        pytest.skip("jax 0.12.0 cannot differentiate erf inside shard_map")
    mapped = flatjax.map_replicas(jax.value_and_grad(loss), **placed(placement))
    found = jax.jit(mapped)(stacked_params(), BATCHES)
    chex.assert_trees_all_close(found, one_by_one(), rtol=1e-4, atol=1e-5)


def total_loss(params):
    """Of all replicas, or of one network."""
    return jnp.sum(jax.vmap(loss)(params, BATCHES))


@pytest.mark.slow
@pytest.mark.parametrize("name", only(["average_params"], COVERING))
def test_every_transformation_trains_it(name):
    params, _ = train(CASES[name].make(), stacked_params(), loss=total_loss)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, stacked_params())
    assert total_loss(params) < total_loss(stacked_params())


@pytest.mark.slow
def test_a_step_is_exported_for_accelerators():
    step, params = jax.jit(step_of(TX)), stacked_params()
    state = TX.init(params)
    exported = jax.export.export(step, platforms=("cpu", "cuda", "tpu"))(params, state, BATCHES)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    chex.assert_trees_all_close(
        jax.jit(exported.call)(params, state, BATCHES)[::2],
        step(params, state, BATCHES)[::2],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"heads": 5}, ValueError, "heads must divide the width 192, got 5"),
        ({"width": 9, "heads": 3}, ValueError, "must be even for rotary positions, got 9 / 3"),
        ({"positions": "none"}, ValueError, "positions must be .*'rotary'"),
        ({"tied_embeddings": 1}, TypeError, "tied_embeddings must be True or False"),
        ({"dropout": 2}, ValueError, r"dropout must be in \[0, 1\]"),
        ({"dtype": "int32"}, ValueError, "dtype must be a floating-point dtype"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        models.create("transformer", 256, **options)


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (np.zeros((2, 10), int), ValueError, r"\(B, T\) with T from 1 to 9, got \(2, 10\)"),
        (np.zeros(3, int), ValueError, r"tokens must have shape \(B, T\)"),
        (np.zeros((2, 3)), TypeError, "tokens must be integers, got float"),
    ],
)
def test_bad_tokens(tokens, error, message):
    with pytest.raises(error, match=message):
        model_of("rotary_tied").init(jax.random.key(0), tokens, train=False)
