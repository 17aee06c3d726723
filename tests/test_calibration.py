"""Temperature, calibration error and Brier score against scipy and loops in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from fast import slow

from flatjax import calibration

KEY = jax.random.key(0)


@functools.partial(jax.jit, static_argnums=(1, 2))
def sample(scale, n=400, classes=5, key=KEY):
    """Logits that are too large by a factor, and labels drawn from the true probabilities."""
    logit_key, label_key = jax.random.split(key)
    logits = 2 * jax.random.normal(logit_key, (n, classes))
    return scale * logits, jax.random.categorical(label_key, logits)


def loss(logits, labels):
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    return float(np.mean(np.asarray(losses, float)))


@pytest.mark.parametrize("scale", [slow(0.2), 1.0, slow(5.0)])
def test_the_temperature_is_that_of_scipy(scale):
    logits, labels = sample(scale)
    found = calibration.fit_temperature(logits, labels)
    z, y = np.asarray(logits, float), np.asarray(labels)

    def objective(log_temperature):
        scaled = z / np.exp(log_temperature)
        return np.mean(np.logaddexp.reduce(scaled, axis=1) - scaled[np.arange(len(y)), y])

    expected = scipy.optimize.minimize_scalar(
        objective, bounds=np.log([0.01, 100]), method="bounded", options={"xatol": 1e-7}
    )
    np.testing.assert_allclose(found, np.exp(expected.x), rtol=1e-4)
    assert float(found) == pytest.approx(scale, rel=0.2)  # labels are a sample
    # And by brute force no other temperature has less loss.
    least = objective(np.log(float(found)))
    assert all(least <= objective(other) + 1e-6 for other in np.log(np.geomspace(0.01, 100, 200)))


def test_the_scaled_loss_does_not_depend_on_the_scale():
    logits, labels = sample(1.0)
    fitted = [
        loss(scale * logits / calibration.fit_temperature(scale * logits, labels), labels)
        for scale in (0.1, 1.0, 7.0)
    ]
    np.testing.assert_allclose(fitted, fitted[1], rtol=1e-6)


def test_temperatures_at_the_bounds():
    sure = jnp.array([[3.0, 0.0], [0.0, 1.0]])
    find = calibration.fit_temperature
    np.testing.assert_allclose(find(sure, jnp.array([0, 1])), 0.01, rtol=1e-4)
    np.testing.assert_allclose(find(sure, jnp.array([1, 0])), 100, rtol=1e-4)
    np.testing.assert_allclose(find(sure, jnp.array([1, 0]), bounds=(0.5, 2)), 2, rtol=1e-4)
    for none in (jnp.zeros((4, 3)), jnp.array([[2.0] * 3, [-1.0] * 3])):  # no information
        labels = jnp.arange(len(none)) % 3
        np.testing.assert_allclose(find(none, labels), 100, rtol=1e-4)
    far = 1e6 * sure  # the derivative is zero already at a temperature of 1
    np.testing.assert_allclose(find(far, jnp.array([0, 1])), 0.01, rtol=1e-4)
    assert np.isnan(find(sure.at[0, 0].set(jnp.nan), jnp.array([0, 1])))


@pytest.mark.slow
def test_many_networks_at_once():
    pairs = [sample(scale, key=jax.random.key(i)) for i, scale in enumerate((0.5, 3.0))]
    logits, labels = map(jnp.stack, zip(*pairs, strict=True))
    for fn in (
        calibration.fit_temperature,
        calibration.expected_calibration_error,
        calibration.brier_score,
    ):
        together = jax.jit(jax.vmap(fn))(logits, labels)
        np.testing.assert_allclose(together, [fn(*pair) for pair in pairs], rtol=1e-4)


@pytest.mark.parametrize("num_bins", [1, 7, 15, 400])
def test_calibration_error_against_a_loop(num_bins):
    logits, labels = sample(3.0)
    z = np.asarray(logits, float)
    p = np.exp(z - np.logaddexp.reduce(z, axis=1)[:, None])
    rows = sorted(
        (row.max(), float(row.argmax() == label))
        for row, label in zip(p, np.asarray(labels), strict=True)
    )
    expected = 0.0
    for part in np.array_split(np.array(rows), num_bins):
        expected += len(part) / len(rows) * abs(part[:, 0].mean() - part[:, 1].mean())
    found = calibration.expected_calibration_error(logits, labels, num_bins=num_bins)
    # Bins of unequal size are cut at other places: by one example each.
    tolerance = 1e-5 if len(rows) % num_bins == 0 else 2 * num_bins / len(rows)
    np.testing.assert_allclose(found, expected, atol=tolerance)


def error_by_a_loop(logits, labels, num_bins):
    """Of an example, the mean over all that have its confidence."""
    z = np.asarray(logits, np.float64)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    confidence, right = p.max(axis=1).round(6), p.argmax(axis=1) == labels
    excess = []
    for one in sorted(confidence):
        same = [r for c, r in zip(confidence, right, strict=True) if c == one]
        excess.append(one - sum(same) / len(same))
    bins = np.arange(len(excess)) * num_bins // len(excess)
    return sum(abs(sum(e for e, b in zip(excess, bins, strict=True) if b == k)) for k in range(99))


@pytest.mark.parametrize("num_bins", [1, 4, 15])
def test_the_order_of_ties_does_not_matter(num_bins):
    rng = np.random.default_rng(0)
    confidence = rng.choice([0.6, 0.75, 0.9, 0.97], size=60)
    confidence[:10] = np.linspace(0.55, 0.59, 10)  # these have none
    logits = np.log(np.stack([confidence, 1 - confidence], axis=-1)).astype(np.float32)
    labels = (rng.random(60) > confidence).astype(int)
    find = jax.jit(functools.partial(calibration.expected_calibration_error, num_bins=num_bins))
    found = find(logits, labels)
    expected = error_by_a_loop(logits, labels, num_bins) / 60
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    for order in (np.argsort(labels), np.argsort(-labels), rng.permutation(60)):
        assert find(logits[order], labels[order]) == found
    # A network of one confidence, which is its accuracy.
    logits, labels = np.tile(logits[:1], (20, 1)), np.zeros(20, int)
    accuracy = np.exp(logits[0, 0])
    assert find(logits, labels) == pytest.approx(1 - accuracy, rel=1e-5)


def test_without_ties_each_example_has_its_own_outcome():
    logits, labels = sample(1.0, n=100)
    confidence = np.asarray(jax.nn.softmax(logits).max(axis=1), float)
    assert len(np.unique(confidence)) == 100
    excess = confidence - np.asarray(logits.argmax(axis=1) == labels)
    parts = excess[np.argsort(confidence)].reshape(20, 5)
    found = calibration.expected_calibration_error(logits, labels, num_bins=20)
    np.testing.assert_allclose(found, np.abs(parts.sum(axis=1)).sum() / 100, rtol=1e-5)


@pytest.mark.slow
def test_calibrated_probabilities_have_little_calibration_error():
    logits, labels = sample(1.0, n=20_000)
    assert calibration.expected_calibration_error(logits, labels) < 0.02
    assert calibration.expected_calibration_error(4 * logits, labels) > 0.1


def test_bins_hold_equal_numbers():
    """Of ten examples in four bins, by confidence: 3, 2, 3, 2; all in one would give 0."""
    confidence = np.linspace(0.55, 0.95, 10)
    logits = np.log(np.stack([confidence, 1 - confidence], axis=-1))
    labels = np.array([0, 1] * 5)
    found = calibration.expected_calibration_error(logits, labels, num_bins=4)
    right = 1.0 - np.asarray(labels)
    groups = np.split(np.arange(10), [3, 5, 8])
    expected = sum(abs((confidence[g] - right[g]).sum()) for g in groups) / 10
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_brier_score_against_a_loop():
    logits, labels = sample(2.0, n=30)
    total = 0.0
    for row, label in zip(np.asarray(logits, float), np.asarray(labels), strict=True):
        p = np.exp(row) / np.exp(row).sum()
        total += sum((p[c] - (c == label)) ** 2 for c in range(len(p)))
    np.testing.assert_allclose(calibration.brier_score(logits, labels), total / 30, rtol=1e-5)


def test_half_precision_is_computed_in_float32():
    logits, labels = sample(1.0)
    half = logits.astype(jnp.bfloat16)
    found = calibration.fit_temperature(half, labels)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, calibration.fit_temperature(half.astype(float), labels))


@pytest.mark.parametrize(
    ("logits", "labels", "named"),
    [
        (np.zeros((3, 2), int), np.zeros(3, int), "logits"),
        (np.zeros(3), np.zeros(3, int), "logits"),
        (np.zeros((0, 2)), np.zeros(0, int), "logits"),
        (np.zeros((3, 2)), np.zeros(3), "labels"),
        (np.zeros((3, 2)), np.zeros((3, 2), int), "labels"),
        (np.zeros((3, 2)), np.zeros(2, int), "labels"),
    ],
)
def test_what_is_no_classification_is_refused_by_name(logits, labels, named):
    for name in calibration.__all__:
        with pytest.raises((TypeError, ValueError), match=rf"^{named} must be"):
            getattr(calibration, name)(logits, labels)


@pytest.mark.parametrize("name", calibration.__all__)
@pytest.mark.parametrize("label", [-1, -100, 2])
def test_labels_that_are_no_class(name, label):
    fn = getattr(calibration, name)
    fn = functools.partial(fn, num_bins=2) if name == "expected_calibration_error" else fn
    logits, labels = np.eye(2)[[0, 1, 1]], np.array([0, label, 1])
    message = rf"labels must be in \[0, 1\] for .* got {label}\. Labels count from 0"
    for given in (labels, jnp.asarray(labels), labels.astype(np.int8)):
        with pytest.raises(ValueError, match=message):
            fn(logits, given)
        with pytest.raises(ValueError, match=message):  # only the logits are traced
            jax.jit(lambda logits, given=given: fn(logits, given))(logits)
    assert np.isnan(jax.jit(fn)(logits, labels))
    right = np.array([0, 1, 1])
    np.testing.assert_allclose(jax.jit(fn)(logits, right), fn(logits, right), rtol=1e-6)
    many = jnp.stack([labels, right])
    np.testing.assert_array_equal(
        np.isnan(jax.vmap(functools.partial(fn, logits))(many)), [True, False]
    )


def test_bad_options_are_refused_by_name():
    given = (jnp.zeros((3, 2)), jnp.zeros(3, int))
    for bounds in [(1.0, 0.5), (0.0, 1.0), (1.0,), (1.0, np.inf), None, "ab"]:
        with pytest.raises((TypeError, ValueError), match="bounds"):
            calibration.fit_temperature(*given, bounds=bounds)
    for num_bins in [0, 4, 2.0, None]:
        with pytest.raises((TypeError, ValueError), match="num_bins"):
            calibration.expected_calibration_error(*given, num_bins=num_bins)
