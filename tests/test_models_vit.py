"""The vision transformer: published parameter counts, the logits of PyTorch, dropout."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_logits
from torch_reference import weights

from flatjax import models
from flatjax.models._vit import _patches

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(6, 8, 12, 3)).astype(np.float32)
LABELS = np.arange(6) % 5
TINY = models.VisionTransformer(width=12, depth=2, num_classes=5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "size", "expected"),
    [
        ({}, 32, 4_028_170),  # torchvision's, of these sizes
        ({"patch_size": 16, "depth": 12, "num_classes": 1000}, 224, 5_717_416),  # ViT-Ti/16
        (
            {"patch_size": 16, "width": 768, "depth": 12, "heads": 12, "num_classes": 1000},
            224,
            86_567_656,  # ViT-B/16
        ),
    ],
    ids=["default", "tiny", "base"],
)
def test_number_of_parameters_is_the_published_one(options, size, expected):
    assert torch_logits.count(models.VisionTransformer(**options), size) == expected


def torch_variables(width=192, depth=9, heads=3, patch=4, positions=65, classes=10):
    """What `weights.py` gives a torchvision transformer, in our layout."""

    def norm(name):
        scale, bias = (weights.value(f"{name}.{leaf}", (width,)) for leaf in ("weight", "bias"))
        return {"scale": scale, "bias": bias}

    def dense(name, inputs, outputs):
        kernel = weights.value(f"{name}.weight", (outputs, inputs)).T
        return {"kernel": kernel, "bias": weights.value(f"{name}.bias", (outputs,))}

    def attention(name):
        kernels = weights.value(f"{name}.in_proj_weight", (3 * width, width))
        biases = weights.value(f"{name}.in_proj_bias", (3 * width,))
        out = dense(f"{name}.out_proj", width, width)
        out["kernel"] = out["kernel"].reshape(heads, -1, width)
        projections = {
            kind: {"kernel": kernel.T.reshape(width, heads, -1), "bias": bias.reshape(heads, -1)}
            for kind, kernel, bias in zip(
                ("query", "key", "value"), np.split(kernels, 3), np.split(biases, 3), strict=True
            )
        }
        return projections | {"out": out}

    def layer(name):
        return {
            "attention_norm": norm(f"{name}.ln_1"),
            "attention": attention(f"{name}.self_attention"),
            "mlp_norm": norm(f"{name}.ln_2"),
            "mlp_in": dense(f"{name}.mlp.0", width, 4 * width),
            "mlp_out": dense(f"{name}.mlp.3", 4 * width, width),
        }

    convolution = weights.value("conv_proj.weight", (width, 3, patch, patch))
    params = {
        "patches": {
            "kernel": convolution.transpose(2, 3, 1, 0).reshape(-1, width),
            "bias": weights.value("conv_proj.bias", (width,)),
        },
        "class_token": weights.value("class_token", (1, 1, width)),
        "positions": weights.value("encoder.pos_embedding", (1, positions, width)),
        "norm": norm("encoder.ln"),
        "logits": dense("heads.head", width, classes),
    }
    layers = {f"layer{i}": layer(f"encoder.layers.encoder_layer_{i}") for i in range(depth)}
    return {"params": params | layers}


@pytest.mark.slow
@pytest.mark.claim("README.md", "give the logits of their PyTorch counterparts")
def test_logits_are_those_of_torch():
    model, variables = models.VisionTransformer(), torch_variables()
    shapes = functools.partial(jax.tree.map, lambda leaf: leaf.shape)
    assert shapes(variables) == shapes(torch_logits.init_shapes(model, 32))
    apply = jax.jit(functools.partial(model.apply, train=False))
    logits = apply(variables, weights.images(2, 32, 32, 3))
    expected = torch_logits.reference("vit")["vit.eval"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_patches_are_cut_row_by_row():
    patches = np.asarray(_patches(jnp.asarray(IMAGES), 4))
    cut = [IMAGES[:, i : i + 4, j : j + 4] for i in (0, 4) for j in (0, 4, 8)]
    np.testing.assert_array_equal(patches, np.stack([patch.reshape(6, -1) for patch in cut], 1))


@functools.cache
def tiny_variables():
    """With random numbers everywhere: the last layer and the biases start at 0."""
    init = functools.partial(TINY.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), IMAGES)
    draw = lambda leaf: RNG.uniform(-0.5, 0.5, leaf.shape).astype(leaf.dtype)
    return jax.tree.map(draw, shapes)


@functools.partial(jax.jit, static_argnames=("dropout", "train", "dtype"))
def apply(variables, images, key=None, dropout=0.0, train=False, dtype="float32"):
    rngs = {} if key is None else {"dropout": key}
    return TINY.clone(dropout=dropout, dtype=dtype).apply(variables, images, train=train, rngs=rngs)


def test_dropout_follows_the_sum_with_positions_and_dense_layers():
    places = []

    def note(call, args, kwargs, context):
        if isinstance(context.module, nn.Dropout):
            places.append((context.module.path[0], args[0].shape, context.module.rate))
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        torch_logits.init_shapes(TINY.clone(dropout=0.3), 8)
    layer = [(1, 5, 12), (1, 5, 48), (1, 5, 12)]  # attention, within the MLP, after it
    shapes = [(1, 5, 12), *layer, *layer]
    names = ["Dropout_0", *3 * ["layer0"], *3 * ["layer1"]]
    assert places == [(name, shape, 0.3) for name, shape in zip(names, shapes, strict=True)]


@pytest.mark.slow
def test_dropout_acts_in_training_only():
    run = functools.partial(apply, tiny_variables(), IMAGES)
    without = run()
    np.testing.assert_array_equal(run(dropout=0.3), without)  # and draws nothing
    first, again, other = (run(jax.random.key(i), dropout=0.3, train=True) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    assert np.abs(first - without).max() > 0.01


@pytest.mark.slow
def test_a_step_along_finite_gradients_lowers_the_loss():
    def loss(params):
        logits = TINY.apply({"params": params}, IMAGES, train=True)
        return -jnp.mean(jax.nn.log_softmax(logits)[np.arange(6), LABELS])

    params = tiny_variables()["params"]
    run = jax.jit(jax.value_and_grad(loss))
    before, gradient = run(params)
    chex.assert_tree_all_finite(gradient)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        # A bias of the keys adds the same to all that a query sees: softmax does not.
        key_bias = jax.tree_util.keystr(path).endswith("['key']['bias']")
        assert key_bias or np.linalg.norm(leaf) > 1e-4, path
    after, _ = run(jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient))
    assert after < before


@pytest.mark.slow
def test_replicas_vmap():
    stacked = jax.tree.map(lambda leaf: np.stack([leaf, 0.5 * leaf]), tiny_variables())
    logits = jax.jit(jax.vmap(lambda v: TINY.apply(v, IMAGES, train=False)))(stacked)
    np.testing.assert_allclose(logits[0], apply(tiny_variables(), IMAGES), rtol=1e-4, atol=1e-5)
    assert np.abs(logits[1] - logits[0]).max() > 0.01


@pytest.mark.slow
def test_half_precision_is_close_and_has_float32_variables():
    logits = apply(tiny_variables(), IMAGES)
    half = apply(tiny_variables(), IMAGES, dtype="bfloat16")
    assert half.dtype == jnp.float32
    error = np.abs(half - logits).max() / np.abs(logits).max()
    assert 0 < error < 0.05
    run = functools.partial(
        TINY.clone(dtype="bfloat16").init_with_output,
        train=True,
        capture_intermediates=True,
        mutable=["params", "intermediates"],
    )
    logits, state = jax.eval_shape(run, jax.random.key(0), IMAGES)
    dtypes = lambda tree: {leaf.dtype.name for leaf in jax.tree.leaves(tree)}
    assert dtypes([state["params"], logits]) == {"float32"}
    del state["intermediates"]["__call__"]  # the logits
    assert dtypes(state["intermediates"]) == {"bfloat16"}


@pytest.mark.slow
def test_initial_weights():
    model = models.VisionTransformer(width=48, depth=1, num_classes=5)
    init = jax.jit(functools.partial(model.init, train=False))
    params = init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))["params"]
    for zero in (params["class_token"], params["logits"]["kernel"], params["patches"]["bias"]):
        assert not np.any(zero)
    layer = params["layer0"]
    expected = {  # variances
        "positions": (params["positions"], 0.02**2),
        "patches": (params["patches"]["kernel"], 1 / 48),
        "query": (layer["attention"]["query"]["kernel"], 2 / (48 + 48)),
        "out": (layer["attention"]["out"]["kernel"], 2 / (48 + 48)),
        "mlp": (layer["mlp_in"]["kernel"], 2 / (48 + 4 * 48)),
    }
    for name, (leaf, variance) in expected.items():
        # The sample variance of n normal numbers is off by sqrt(2/n) of itself; allow 4 of these.
        assert abs(np.mean(leaf**2) / variance - 1) < 4 * np.sqrt(2 / leaf.size), name


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"patch_size": 0}, ValueError, "patch_size must be >= 1, got 0"),
        ({"depth": 2.0}, TypeError, "depth must be an int, got 2.0"),
        ({"heads": 5}, ValueError, "heads must divide the width 192, got 5"),
        ({"dropout": 2}, ValueError, r"dropout must be in \[0, 1\], got 2"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        models.create("vit", 10, **options)


def test_images_must_consist_of_patches():
    with pytest.raises(ValueError, match=r"divisible by 4, got \(1, 8, 10, 3\)"):
        TINY.init(jax.random.key(0), jnp.ones((1, 8, 10, 3)), train=False)
