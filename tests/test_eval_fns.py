"""Evaluation functions for common tasks, and what is found wrong with others."""

import equinox
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatjax import flatness

RNG = np.random.default_rng(0)
X, LABELS = RNG.normal(size=(6, 4)).astype(np.float32), RNG.integers(3, size=6)
W = RNG.normal(size=(4, 3)).astype(np.float32)
linear = lambda params, x: x @ params


def cross_entropy(logits, labels, weights):
    """(loss, error) by a plain loop."""
    loss = error = 0.0
    for z, y, m in zip(logits.astype(float), labels, weights, strict=True):
        loss += m * (np.log(np.exp(z).sum()) - z[y])
        error += m * (z.argmax() != y)
    return loss, error


# --- classification -------------------------------------------------------------------------------

WEIGHTS = np.array([1, 1, 0, 1, 0.5, 1], np.float32)
FORMS = [
    ((X, LABELS), {}),
    ([X, LABELS, WEIGHTS], {}),
    ({"image": X, "label": LABELS, "weight": WEIGHTS}, {}),
    ({"x": X, "y": LABELS}, {}),
    ({"pixels": X, "kind": LABELS}, {"inputs": "pixels", "targets": "kind"}),
    (
        {"pixels": X, "kind": LABELS},
        {"inputs": lambda b: b["pixels"], "targets": lambda b: b["kind"]},
    ),
    ((X, np.eye(3, dtype=np.float32)[LABELS]), {}),
]


@pytest.mark.parametrize(("batch", "options"), FORMS)
def test_classification_in_all_forms_of_batches(batch, options):
    sums = flatness.classification(linear, **options)(W, batch)
    has_weights = len(batch) == 3
    weights = WEIGHTS if has_weights else np.ones(6)
    loss, error = cross_entropy(X @ W, LABELS, weights)
    assert float(sums["loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(sums["error"]) == error
    assert float(sums["count"]) == weights.sum()


def test_labels_of_pixels_and_ignored_ones():
    images, labels = (
        RNG.normal(size=(2, 3, 3, 4)).astype(np.float32),
        RNG.integers(3, size=(2, 3, 3)),
    )
    labels[0, 0] = -100
    sums = flatness.classification(linear)(W, (images, labels))
    flat = labels.ravel()
    loss, error = cross_entropy((images @ W).reshape(-1, 3), np.maximum(flat, 0), flat >= 0)
    assert float(sums["count"]) == 15
    assert float(sums["loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(sums["error"]) == error


def test_logits_that_are_not_finite_are_errors():
    """The argmax would be class 0. Classes may be excluded by -inf."""
    rows = [
        ([1.0, 0.0, 0.0], False),
        ([np.nan, 0.0, 0.0], True),
        ([1.0, 0.0, np.nan], True),
        ([np.inf, 0.0, 0.0], True),
        ([-np.inf, -np.inf, -np.inf], True),
        ([1.0, -np.inf, 0.0], False),
        ([np.nan, np.nan, np.nan], True),
    ]
    logits, wrong = (np.array(part) for part in zip(*rows, strict=True))
    labels = np.zeros(len(rows), int)
    given = lambda params, x: x
    for targets in (labels, np.eye(3)[labels]):
        sums = flatness.classification(given)(None, (logits, targets))
        assert float(sums["error"]) == wrong.sum()
        assert np.isnan(sums["loss"])
    weights = np.where(wrong, 0.0, 1.0)  # padding
    sums = flatness.classification(given)(None, (logits, labels, weights))
    assert float(sums["error"]) == 0
    assert np.isfinite(sums["loss"])
    sums = flatness.language_model(given)(None, (logits[None], labels[None]))
    assert float(sums["error"]) == wrong.sum()


def test_a_class_that_is_excluded_has_no_loss_if_its_probability_is_0():
    logits = np.array([[1.0, -np.inf, 0.5]])
    eval_fn = flatness.classification(lambda params, x: params + x)
    expected = eval_fn(np.zeros(3), (logits, np.array([2])))["loss"]
    of_soft = lambda params: eval_fn(params, (logits, np.array([[0.0, 0.0, 1.0]])))["loss"]
    value, slope = jax.value_and_grad(of_soft)(jnp.zeros(3))
    assert float(value) == pytest.approx(float(expected))
    np.testing.assert_allclose(slope, [jax.nn.sigmoid(0.5), 0, -jax.nn.sigmoid(0.5)], rtol=1e-6)
    assert of_soft(np.zeros(3)) < np.inf
    excluded = eval_fn(np.zeros(3), (logits, np.array([[0.0, 0.5, 0.5]])))["loss"]
    assert float(excluded) == np.inf
    with pytest.raises(ValueError, match=r"or floats with the shape of the logits.*int32\(1, 3\)"):
        eval_fn(np.zeros(3), (logits, np.array([[0, 0, 1]])))


@pytest.mark.parametrize("label", [-1, -99, -101, 3, 200])
def test_labels_that_are_no_class_are_no_numbers(label):
    labels = LABELS.copy()
    labels[2] = label
    sums = flatness.classification(linear)(W, (X, labels))
    assert np.isnan([sums["loss"], sums["error"]]).all()
    padded = flatness.classification(linear)(W, (X, labels, WEIGHTS))  # of weight 0
    expected = cross_entropy(X @ W, LABELS, WEIGHTS)
    np.testing.assert_allclose([padded["loss"], padded["error"]], expected, rtol=1e-5)
    tokens = flatness.language_model(linear)(W, (X[None], labels[None]))
    assert np.isnan([tokens["loss"], tokens["error"]]).all()
    with pytest.raises(ValueError, match=r"finite sums.*labels outside of 0 to C - 1"):
        flatness.report(flatness.classification(linear), W, [(X, labels)], 0)


class Network(nn.Module):
    """With dropout and batch norm, which act unless told not to."""

    @nn.compact
    def __call__(self, x, train: bool = True):
        """Logits."""
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(5)(x))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(x))


class Deterministic(nn.Module):
    """The other name of the mode."""

    @nn.compact
    def __call__(self, x, *, deterministic):
        """Logits."""
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=deterministic)(x))


def test_linen_modules_are_in_evaluation_mode():
    network = Network()
    init, apply = (jax.jit(f, static_argnames="train") for f in (network.init, network.apply))
    variables = init(jax.random.key(0), X, train=False)
    stats = jax.tree.map(lambda leaf: np.asarray(leaf) + np.float32(0.5), variables["batch_stats"])
    logits = apply({"params": variables["params"], "batch_stats": stats}, X, train=False)
    loss, error = cross_entropy(np.asarray(logits), LABELS, np.ones(6))
    for apply_fn in (network, network.apply):
        eval_fn = jax.jit(flatness.classification(apply_fn))
        for state in (stats, {"batch_stats": stats}):
            sums = eval_fn(variables["params"], (X, LABELS), state)
            assert float(sums["loss"]) == pytest.approx(loss, rel=1e-5)
            assert float(sums["error"]) == error
    network = Deterministic()
    params = network.init(jax.random.key(0), X, deterministic=True)["params"]
    assert float(flatness.classification(network)(params, (X, LABELS))["count"]) == 6


def test_functions_of_other_libraries():
    """Haiku's with rng, flatjax's of a saved model with state, Equinox's modules."""
    expected = flatness.classification(linear)(W, (X, LABELS))["loss"]
    haiku = lambda params, rng, x: x @ params if rng is None else None
    stateful = lambda params, state, images: images @ params + state["shift"]
    module = equinox.nn.Linear(4, 3, use_bias=False, key=jax.random.key(0))
    module = equinox.tree_at(lambda m: m.weight, module, W.T)
    trains = lambda params, x, training: x @ params * (jnp.nan if training else 1)
    found = [
        flatness.classification(haiku)(W, (X, LABELS)),
        flatness.classification(stateful)(W, (X, LABELS), {"shift": 0.0}),
        flatness.classification(lambda m, x: jax.vmap(m)(x))(module, (X, LABELS)),
        flatness.classification(trains)(W, (X, LABELS)),
        flatness.classification(lambda p, x, s: x @ p + s)(W, (X, LABELS), jnp.zeros(3)),
    ]
    for sums in found:
        assert float(sums["loss"]) == pytest.approx(float(expected), rel=1e-5)


# --- regression and language ----------------------------------------------------------------------


def test_regression_is_a_mean_over_components():
    targets = RNG.normal(size=(6, 3)).astype(np.float32)
    weights = WEIGHTS
    sums = flatness.regression(linear)(W, {"x": X, "y": targets, "weight": weights})
    squares = ((X @ W - targets) ** 2).mean(axis=1)
    assert float(sums["loss"]) == pytest.approx(float((weights * squares).sum()), rel=1e-5)
    assert float(sums["count"]) == weights.sum()
    with pytest.raises(ValueError, match=r"targets must have the shape of the outputs, \(6, 1\)"):
        flatness.regression(linear)(W[:, :1], (X, targets[:, 0]))


def test_language_models_predict_the_next_token():
    tokens = RNG.integers(5, size=(2, 7))
    table = RNG.normal(size=(5, 5)).astype(np.float32)
    model = lambda params, tokens: params[tokens]
    mask = np.ones((2, 7), int)
    mask[1, 4:] = 0
    logits = table[tokens]
    for batch, counted in [
        (tokens, np.ones((2, 6))),
        ({"input_ids": tokens, "attention_mask": mask}, mask[:, 1:]),
    ]:
        sums = flatness.language_model(model)(table, batch)
        shifted = logits[:, :-1].reshape(-1, 5), tokens[:, 1:].ravel(), counted.ravel()
        loss, error = cross_entropy(*shifted)
        assert float(sums["loss"]) == pytest.approx(loss, rel=1e-5)
        assert float(sums["error"]) == error
        assert float(sums["count"]) == counted.sum()
    aligned = flatness.language_model(model)(table, (tokens[:, :-1], tokens[:, 1:]))
    plain = flatness.language_model(model)(table, tokens)
    assert float(aligned["loss"]) == pytest.approx(float(plain["loss"]), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: flatness.classification(3), "apply_fn must be"),
        (lambda: flatness.classification(linear)(W, X), "batch must hold targets"),
        (lambda: flatness.classification(linear)(W, {"a": X}), "batch must have one of image"),
        (lambda: flatness.classification(linear)(W, (X, LABELS[:3])), "logits must have shape"),
        (lambda: flatness.classification(linear)(W, (X, LABELS, WEIGHTS[:2])), "weights must"),
        (lambda: flatness.classification(linear, targets="t")(W, {"x": X}), "targets must name"),
        (lambda: flatness.classification(linear, inputs="x")(W, (X, LABELS)), "inputs is the name"),
    ],
)
def test_bad_networks_and_batches_are_named(call, named):
    with pytest.raises((TypeError, ValueError), match=named):
        call()


# --- check_eval_fn --------------------------------------------------------------------------------


def losses(params, batch):
    return (batch - params) ** 2


BATCH = jnp.array([1.0, 2.0, 4.0])
WRONG = {
    "a scalar": (lambda p, b: losses(p, b).sum(), "must return a dict of sums"),
    "no count": (lambda p, b: {"loss": losses(p, b).sum()}, "with 'count'"),
    "a mean": (
        lambda p, b: {"loss": losses(p, b).mean(), "count": len(b)},
        r"'loss' is their mean: return jnp.sum\(losses\), or count \* mean",
    ),
    "two means": (
        lambda p, b: {"a": losses(p, b).mean(), "b": losses(p, b + 1).mean(), "count": len(b)},
        "'a', 'b' are their means",
    ),
    "a count of batches": (
        lambda p, b: {"loss": losses(p, b).mean(), "count": 1},
        "number of examples of the batch as 'count'; it counts 1 for 3 examples",
    ),
    "no sum": (
        lambda p, b: {"loss": losses(p, b), "count": len(b)},
        r"'loss' of shape \(3,\).*sum",
    ),
    "nothing but a count": (lambda p, b: {"count": len(b)}, "'count' alone"),
    "no examples": (lambda p, b: {"loss": losses(p, b).sum(), "count": 0}, "above 0, got 0"),
    "no number": (lambda p, b: {"loss": jnp.log(-losses(p, b)).sum(), "count": 3}, "'loss' = nan"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_found_and_cured(name):
    wrong, named = WRONG[name]
    with pytest.raises((TypeError, ValueError), match=named):
        flatness.check_eval_fn(wrong, jnp.array(0.0), [BATCH])
    if name == "a mean":
        with pytest.raises(ValueError, match=named):
            flatness.report(wrong, jnp.array(0.0), [BATCH], 0)


def test_wrong_signatures_say_how_it_is_called():
    called = r"eval_fn is called as eval_fn\(params, batch, \*state\), here with 2 arguments"
    right = lambda p, b: {"loss": losses(p, b).sum(), "count": len(b)}
    wrong = {
        "three": (lambda p, x, y: right(p, x), (), TypeError, "missing 1 required"),
        "swapped": (lambda b, p: right(p["w"], b), (), TypeError, "It raised TypeError"),
        "no state": (lambda p, b: right(p, b), (0,), TypeError, "takes 2 positional"),
        "a key": (lambda p, b: right(p, b["x"]), (), (TypeError, ValueError), "It raised"),
    }
    for one, state, kind, named in wrong.values():
        where = called.replace("2", "3") if state else called
        with pytest.raises(kind, match=f"{where}.*{named}") as caught:
            flatness.check_eval_fn(one, jnp.array(0.0), [BATCH], *state)
        assert caught.value.__cause__ is not None
    network = flatness.classification(Network())
    variables = Network().init(jax.random.key(0), X, train=False)
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), variables)
    with pytest.raises(ValueError, match=r"replicas, pass their flatjax\.replica_center"):
        flatness.check_eval_fn(network, stack["params"], [(X, LABELS)], stack["batch_stats"])


def test_what_is_right_passes():
    right = lambda p, b: {"loss": losses(p, b).sum(), "count": len(b)}
    assert flatness.check_eval_fn(right, jnp.array(0.0), [BATCH]) == {"loss": 7.0}
    weighted = lambda p, b: {"loss": (b["m"] * losses(p, b["x"])).sum(), "count": b["m"].sum()}
    flatness.check_eval_fn(weighted, 0.0, [{"x": BATCH, "m": jnp.array([1.0, 0.0, 1.0])}])
    fixed = lambda p, b: {"loss": losses(p, b.reshape(3)).sum(), "count": 3}  # of one size only
    flatness.check_eval_fn(fixed, 0.0, [BATCH])
    flatness.check_eval_fn(lambda p, b: {"loss": p**2, "count": 1}, 1.0, [0])
    half = lambda p, b: {"loss": losses(p, b).astype(jnp.bfloat16).sum(), "count": len(b)}
    flatness.check_eval_fn(half, 0.0, [BATCH])


def test_batch_norm_in_training_mode_is_warned_about():
    def training(params, batch):
        normal = (batch - batch.mean()) / (batch.std() + 0.1)
        return {"loss": losses(params, normal).sum(), "count": len(batch)}

    with pytest.warns(UserWarning, match="Is batch norm in training mode"):
        flatness.check_eval_fn(training, jnp.array(1.0), [BATCH])
