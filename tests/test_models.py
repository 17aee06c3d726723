"""The models against plain NumPy loops, their batch norm, dtypes and the registry."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast import only

from flatjax import models
from flatjax.models._efficientnet import EFFICIENTNETS

# Most of the time here goes into compilation: NumPy draws the values, and a call is one program.


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def init_shapes(model, shape):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape), train=False))


def random_variables(model, shape, low=0.1, high=1.0):
    """Random values everywhere: biases of 0 would hide a missing one."""
    rng = np.random.default_rng(1)
    draw = lambda x: rng.uniform(low, high, x.shape).astype(x.dtype)
    return jax.tree.map(draw, init_shapes(model, shape))


@functools.partial(jax.jit, static_argnames=("model", "train"))
def apply(model, variables, images, *, train):
    """The logits and the updated collections."""
    return model.apply(variables, images, train=train, mutable=["batch_stats"])


shapes = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)
count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))


# Forward passes in NumPy, loops over everything that has an index in the definition.


def numpy_conv(x, kernel, bias):
    """Cross-correlation with zero padding; the extra row of an even kernel is at the end."""
    size = len(kernel)
    before = (size - 1) // 2
    batch, height, width, _ = x.shape
    out = np.zeros((batch, height, width, kernel.shape[-1]))
    for row, column, i, j in itertools.product(range(height), range(width), *[range(size)] * 2):
        r, c = row + i - before, column + j - before
        if 0 <= r < height and 0 <= c < width:
            out[:, row, column] += x[:, r, c] @ kernel[i, j]
    return out + bias


def numpy_pool(x, window=2):
    batch, height, width, channels = x.shape
    out = np.zeros((batch, height // window, width // window, channels))
    for row, column in itertools.product(*map(range, out.shape[1:3])):
        i, j = row * window, column * window
        out[:, row, column] = x[:, i : i + window, j : j + window].max(axis=(1, 2))
    return out


def numpy_dense_layers(x, params):
    number = sum(name.startswith("Dense") for name in params)
    for index in range(number):
        layer = params[f"Dense_{index}"]
        x = x @ layer["kernel"] + layer["bias"]
        x = np.maximum(x, 0) if index < number - 1 else x
    return x


def numpy_convnet(variables, images, stages, statistics=None):
    """`statistics`: None, "batch" or "running"."""
    x, params = np.asarray(images, np.float64), variables["params"]
    for index in range(stages):
        conv = params[f"Conv_{index}"]
        x = numpy_conv(x, conv["kernel"], conv.get("bias", 0.0))
        if statistics is not None:
            norm = params[f"BatchNorm_{index}"]
            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
            if statistics == "running":
                running = variables["batch_stats"][f"BatchNorm_{index}"]
                mean, variance = running["mean"], running["var"]
            x = (x - mean) / np.sqrt(variance + 1e-5) * norm["scale"] + norm["bias"]
        x = numpy_pool(np.maximum(x, 0))
    return numpy_dense_layers(x.reshape(len(x), -1), params)


def test_mlp_shapes_and_parameter_count():
    variables = init_shapes(models.MLP(), (2, 28, 28, 1))
    assert list(variables) == ["params"]
    assert shapes(variables["params"]) == {
        "Dense_0": {"kernel": (784, 256), "bias": (256,)},
        "Dense_1": {"kernel": (256, 256), "bias": (256,)},
        "Dense_2": {"kernel": (256, 10), "bias": (10,)},
    }
    assert count(variables) == (784 + 1) * 256 + (256 + 1) * 256 + (256 + 1) * 10


def test_convnet_shapes_and_parameter_count():
    variables = init_shapes(models.SmallConvNet(), (2, 28, 28, 1))
    assert list(variables) == ["params"]
    assert shapes(variables["params"]) == {
        "Conv_0": {"kernel": (3, 3, 1, 16), "bias": (16,)},
        "Conv_1": {"kernel": (3, 3, 16, 32), "bias": (32,)},
        "Dense_0": {"kernel": (7 * 7 * 32, 128), "bias": (128,)},
        "Dense_1": {"kernel": (128, 10), "bias": (10,)},
    }
    convs = (9 * 1 + 1) * 16 + (9 * 16 + 1) * 32
    assert count(variables) == convs + (7 * 7 * 32 + 1) * 128 + (128 + 1) * 10


def test_batch_norm_replaces_the_bias_of_convolutions():
    variables = init_shapes(models.SmallConvNet(features=(4,), batch_norm=True), (2, 8, 8, 1))
    assert sorted(variables) == ["batch_stats", "params"]
    assert list(variables["params"]["Conv_0"]) == ["kernel"]
    assert shapes(variables["batch_stats"]) == {"BatchNorm_0": {"mean": (4,), "var": (4,)}}


@pytest.mark.parametrize(
    ("height", "width", "channels", "flat"),
    [(8, 8, 1, 2 * 2), (9, 11, 2, 2 * 2), (15, 8, 1, 3 * 2), (28, 28, 1, 49), (32, 32, 3, 64)],
)
def test_convnet_takes_even_and_odd_sizes(height, width, channels, flat):
    model = models.SmallConvNet(features=(2, 3), hidden=(5,), num_classes=4)
    variables = init_shapes(model, (2, height, width, channels))
    assert variables["params"]["Dense_0"]["kernel"].shape == (flat * 3, 5)


@pytest.mark.parametrize("hidden", [(), (7,), (7, 5)])
def test_mlp_is_the_numpy_forward_pass(hidden):
    model = models.MLP(hidden=hidden, num_classes=3)
    images = random_images(4, 5, 3, 2)
    variables = random_variables(model, images.shape, -0.5, 0.6)
    logits, _ = apply(model, variables, images, train=False)
    expected = numpy_dense_layers(images.reshape(4, -1), variables["params"])
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "features", "kernel_size", "hidden"),
    [
        ((3, 8, 8, 1), (3, 4), 3, (6,)),
        ((2, 11, 9, 2), (3, 4), 5, (6, 5)),
        ((2, 9, 10, 1), (3, 4, 2), 2, ()),
    ],
)
def test_convnet_is_the_numpy_forward_pass(shape, features, kernel_size, hidden):
    model = models.SmallConvNet(features, kernel_size, hidden, num_classes=4)
    images = random_images(*shape)
    variables = random_variables(model, shape, -0.5, 0.5)  # half of the ReLUs closed
    logits, _ = apply(model, variables, images, train=True)
    expected = numpy_convnet(variables, images, len(features))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("train", [True, False])
def test_convnet_with_batch_norm_is_the_numpy_forward_pass(train):
    model = models.SmallConvNet(features=(3, 4), hidden=(6,), num_classes=4, batch_norm=True)
    images = random_images(5, 8, 9, 1)
    variables = random_variables(model, images.shape)
    variables["params"] = random_variables(model, images.shape, -0.5, 0.5)["params"]
    logits, _ = apply(model, variables, images, train=train)
    expected = numpy_convnet(variables, images, 2, "batch" if train else "running")
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_batch_norm_averages_with_momentum_when_training_only():
    model = models.SmallConvNet(features=(3,), batch_norm=True)
    images = random_images(6, 8, 8, 1)
    variables = random_variables(model, images.shape)
    before = variables["batch_stats"]["BatchNorm_0"]
    _, updates = apply(model, variables, images, train=True)
    after = updates["batch_stats"]["BatchNorm_0"]
    maps = numpy_conv(images, variables["params"]["Conv_0"]["kernel"], 0)
    expected_mean = 0.9 * before["mean"] + 0.1 * maps.mean((0, 1, 2))
    expected_variance = 0.9 * before["var"] + 0.1 * maps.var((0, 1, 2))
    np.testing.assert_allclose(after["mean"], expected_mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after["var"], expected_variance, rtol=1e-4)

    _, unchanged = apply(model, variables, images, train=False)
    np.testing.assert_array_equal(unchanged["batch_stats"]["BatchNorm_0"]["mean"], before["mean"])


@pytest.mark.parametrize(
    ("model", "gain"),
    [(models.MLP(hidden=(64,)), 2), (models.SmallConvNet(features=(16,), hidden=()), 1)],
    ids=["He", "LeCun"],
)
def test_variance_of_the_initial_weights(model, gain):
    init = jax.jit(functools.partial(model.init, train=False))
    params = init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))["params"]
    for name, layer in params.items():
        kernel = np.asarray(layer["kernel"])
        fan_in = kernel.size // kernel.shape[-1]
        # The sample variance of n normal numbers is off by sqrt(2/n) of itself; allow 4 of these.
        tolerance = 4 * np.sqrt(2 / kernel.size)
        assert abs(kernel.var() * fan_in / gain - 1) < tolerance, name
        assert not np.any(layer["bias"])


SMALL_MODELS = {
    "mlp": functools.partial(models.MLP, hidden=(16,)),
    "small_convnet": functools.partial(models.SmallConvNet, features=(4, 8), hidden=(16,)),
    "batch_norm": functools.partial(models.SmallConvNet, features=(4, 8), batch_norm=True),
}


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_half_precision_computes_in_bfloat16_with_float32_variables(name):
    model = SMALL_MODELS[name](dtype="bfloat16")
    variables = init_shapes(model, (2, 8, 8, 1))
    collections = ["batch_stats", "intermediates"]
    call = functools.partial(
        model.apply, train=True, capture_intermediates=True, mutable=collections
    )
    logits, state = jax.eval_shape(call, variables, jnp.zeros((2, 8, 8, 1)))
    dtypes = lambda tree: {leaf.dtype.name for leaf in jax.tree.leaves(tree)}
    layers = {name: out for name, out in state["intermediates"].items() if name != "__call__"}
    assert len(layers) == len(variables["params"])
    assert dtypes(layers) == {"bfloat16"}
    assert dtypes([variables, state.get("batch_stats"), logits]) == {"float32"}


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_gradients_reach_every_parameter(name):
    model = SMALL_MODELS[name]()
    images, labels = random_images(32, 9, 8, 1), np.arange(32) % 10
    variables = random_variables(model, images.shape, -0.3, 0.4)

    def loss(params):
        logits, _ = apply(model, {**variables, "params": params}, images, train=True)
        return -jnp.mean(jax.nn.log_softmax(logits)[np.arange(32), labels])

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.linalg.norm(leaf) > 1e-3, path


# Tracing the deep ones in full would take a minute.
SHALLOW = {
    **{name: {"width_multiplier": 0.1, "depth_multiplier": 0.1} for name in EFFICIENTNETS},
    "densenet121": {"stage_sizes": (1, 1), "growth": 4},
    "pyramidnet272": {"depth": 11},
    "resnet50": {"stage_sizes": (1, 1)},
    "resnet110": {"stage_sizes": (1, 1)},
}


# The other families have test files of their own.
FAMILIES = ["mlp", "small_convnet", "resnet18"]
OF_IMAGES = [name for name in models.CONSTRUCTORS if name != "transformer"]
# One class, whose eight sizes are one size here.
OF_IMAGES = [name for name in OF_IMAGES if name not in list(EFFICIENTNETS)[1:]]


@pytest.mark.parametrize("name", only(FAMILIES, OF_IMAGES))
def test_every_registered_model_is_called_alike(name):
    model = models.create(name, 7, **SHALLOW.get(name, {}))
    variables = init_shapes(model, (2, 8, 8, 3))
    options = {"mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(0)}}
    for train in (True, False):
        run = functools.partial(model.apply, train=train, **options)
        logits, _ = jax.eval_shape(run, variables, jax.ShapeDtypeStruct((5, 8, 8, 3), jnp.float32))
        assert logits.shape == (5, 7)
        assert logits.dtype == jnp.float32
    with pytest.raises(TypeError, match="train"):
        model.apply(variables, jnp.ones((2, 8, 8, 3)))


def test_create_passes_options_on():
    expected = models.SmallConvNet(features=(4, 8), batch_norm=True, num_classes=3)
    model = models.create("small_convnet", 3, features=[4, 8], batch_norm=True)
    assert model == expected
    assert hash(model) == hash(expected)  # a list of features would have none


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("lenet", {}, ValueError, "name must be one of .*small_convnet.*; got 'lenet'"),
        ("mlp", {"depth": 3}, TypeError, "options of 'mlp' are hidden, dtype; got depth"),
        ("mlp", {"parent": None}, TypeError, "got parent"),
        ("mlp", {"hidden": "12"}, TypeError, "hidden must be a sequence of ints, got '12'"),
        ("mlp", {"hidden": (3, 0)}, ValueError, r"hidden\[1\] must be >= 1, got 0"),
        ("mlp", {"hidden": (3, 2.0)}, TypeError, r"hidden\[1\] must be an int, got 2.0"),
        ("mlp", {"dtype": "int32"}, ValueError, "dtype must be a floating-point dtype, got int32"),
        ("mlp", {"dtype": "real"}, TypeError, "dtype must be a dtype, got 'real'"),
        ("small_convnet", {"features": ()}, ValueError, "features must have at least 1 entries"),
        ("small_convnet", {"kernel_size": 0}, ValueError, "kernel_size must be >= 1, got 0"),
        ("small_convnet", {"batch_norm": 1}, TypeError, "batch_norm must be a bool, got 1"),
    ],
)
def test_create_refuses_bad_options(name, options, error, message):
    with pytest.raises(error, match=message):
        models.create(name, 10, **options)


@pytest.mark.parametrize("name", models.CONSTRUCTORS)
def test_create_refuses_a_bad_number_of_classes(name):
    with pytest.raises(ValueError, match="num_classes must be >= 1, got 0"):
        models.create(name, 0)
    with pytest.raises(TypeError, match="num_classes must be an int, got True"):
        models.create(name, True)


@pytest.mark.parametrize("name", OF_IMAGES)
@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.ones((8, 8, 1)), ValueError, r"must have shape \(B, H, W, C\), got \(8, 8, 1\)"),
        (np.ones((1, 8, 8, 1), np.uint8), TypeError, "images must be floating point.*got uint8"),
    ],
)
def test_models_refuse_bad_images(name, images, error, message):
    with pytest.raises(error, match=message):
        models.create(name, 10).init(jax.random.key(0), images, train=False)


def test_convnet_refuses_images_smaller_than_its_pooling():
    with pytest.raises(ValueError, match=r"at least 8 pixels.*\(1, 7, 8, 1\)"):
        init_shapes(models.SmallConvNet(features=(2, 2, 2)), (1, 7, 8, 1))
