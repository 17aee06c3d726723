"""Couplings that cannot quietly fail: gamma without tuning, limits of distance, the last check."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import flatjax
from flatjax import models
from flatjax.schedules import meeting, stability_limit

REPLICAS, BATCH = 3, 64
MODEL = models.create("mlp", 10, hidden=(32,))


@functools.cache
def digits():
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images = jnp.asarray(images[order].reshape(-1, 8, 8, 1) / 8 - 1, jnp.float32)
    return images, jnp.asarray(labels[order])


def logits(params, image):
    return MODEL.apply({"params": params}, image, train=False)


def loss(params, image, label):
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits(params, image), label)
    return losses.mean()


def eval_fn(params, batch):
    image, label = batch
    error = jnp.sum(logits(params, image).argmax(-1) != label)
    return {"error": error, "count": len(label)}


def train(tx, steps, seed):
    """Stacked replicas on digits; the point of each that is to be evaluated."""
    images, labels = digits()
    init = lambda key: MODEL.init(key, images[:1], train=False)["params"]
    params = flatjax.stack_replicas(init, jax.random.split(jax.random.key(seed), REPLICAS))

    def step(carry, key):
        params, state = carry
        rows = jax.random.randint(key, (REPLICAS, BATCH), 0, 1297)
        grads = jax.vmap(jax.grad(loss))(params, images[rows], labels[rows])
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(1000 + seed), steps)
    (params, state), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
    return flatjax.eval_params(state, params)


RATES = {"cosine": lambda steps: optax.cosine_decay_schedule(0.1, steps), "constant": lambda _: 0.1}
TRANSFORMATIONS = {
    "rsgd": flatjax.replicated_sgd,
    "rsgd_in_gradient": functools.partial(flatjax.replicated_sgd, decoupled=False),
    "rsgd_every_tenth": functools.partial(flatjax.replicated_sgd, period=10),
    "parle": flatjax.parle,
}
LONG = [(name, kind, 300) for name in ("rsgd", "parle") for kind in RATES]
LONG += [("rsgd_in_gradient", "constant", 300), ("rsgd_every_tenth", "cosine", 300)]
# Ten times as long, of one seed: a step of Parle takes three times one of Replicated-SGD.
LONG += [("rsgd", kind, 3000) for kind in RATES] + [("parle", kind, 1000) for kind in RATES]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "steps"), LONG)
def test_without_a_gamma_replicas_meet(name, kind, steps):
    """The center is at most 1 point worse than its replicas, and they have learned."""
    tx = TRANSFORMATIONS[name](RATES[kind](steps), steps=steps, replica_axis=0)
    images, labels = digits()
    held_out = [(images[1297:], labels[1297:])]
    seeds = 3 if steps == 300 else 1
    found = jax.jit(jax.vmap(lambda seed: train(tx, steps, seed)))(jnp.arange(seeds))
    for seed in range(seeds):
        params = jax.tree.map(lambda leaf, seed=seed: leaf[seed], found)
        collapse = flatjax.check_collapsed(eval_fn, params, held_out)
        assert collapse.has_met
        assert collapse.center < 0.08


@pytest.mark.slow
def test_independent_replicas_are_reported():
    images, labels = digits()
    tx = optax.sgd(0.1, momentum=0.9, nesterov=True)
    params = jax.jit(lambda: train(tx, 150, 0))()
    with pytest.warns(UserWarning, match=r"replicas have not met: error is 0\.\d+ at the center"):
        found = flatjax.check_collapsed(eval_fn, params, [(images[1297:], labels[1297:])])
    assert not found.has_met
    assert found.center > found.replicas + 0.05
    assert 0.7 < found.relative_distance < 0.85


def squares(params, batch):
    return {"error": len(batch) * jnp.sum(params["w"] ** 2), "count": len(batch)}


INFINITE = {
    "a replica": ([[1.0, 2.0], [jnp.nan, 0.0], [1.0, 1.0]], "for replica 1, center"),
    "all": (jnp.full((3, 2), jnp.inf), "for replica 0, replica 1, replica 2, center"),
    "a value": ([[1e20, 0.0], [1.0, 1.0], [1.0, 1.0]], "for replica 0, center"),
    "the center": ([[3e38, 0.0], [3e38, 0.0], [1.0, 1.0]], "center"),
}


@pytest.mark.parametrize("name", INFINITE)
def test_networks_that_are_not_finite_have_not_met(name):
    stack, named = INFINITE[name]
    params = {"w": jnp.asarray(stack), "steps": jnp.arange(3)}
    message = rf"weights or error are NaN or infinite .*{named}\. Training has diverged"
    with pytest.warns(UserWarning, match=message):
        found = flatjax.check_collapsed(squares, params, [jnp.ones(2)])
    assert found.has_met is False


def test_classifiers_that_diverged_have_not_met():
    """Their errors are finite, and equal."""
    classifier = flatjax.flatness.classification(lambda params, x: x @ params)
    batches = [(jnp.ones((4, 3)), jnp.zeros(4, int))]
    with pytest.warns(UserWarning, match="for replica 0, replica 1, center"):
        found = flatjax.check_collapsed(classifier, jnp.full((2, 3, 2), jnp.nan), batches)
    assert found[:3] == (False, 1.0, 1.0)
    assert flatjax.check_collapsed(classifier, jnp.ones((2, 3, 2)), batches).has_met is True


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "steps"), [("cosine", 300), ("constant", 1000)])
def test_esgd_without_a_gamma_learns(kind, steps):
    tx = flatjax.esgd(RATES[kind](steps), steps=steps, replica_axis=0)
    images, labels = digits()
    for anchor in flatjax.unstack_replicas(jax.jit(lambda: train(tx, steps, 0))()):
        error = jnp.mean(logits(anchor, images[1297:]).argmax(-1) != labels[1297:])
        assert float(error) < 0.08


# ------------------------------------------------------------------------------- the schedule


@pytest.mark.parametrize("steps", [100, 10_000])
@pytest.mark.parametrize("rate", [0.01, 1.0])
def test_the_contraction_depends_on_the_share_of_the_training_only(steps, rate):
    """Equation (2) of flatjax/_strength.py."""
    gamma = meeting(rate, steps)
    strength = rate * np.array([float(s) for s in jax.vmap(gamma)(jnp.arange(steps))])
    for share in (0.5, 1.0):
        contraction = strength[: round(share * steps)].sum()
        expected = 0.1 / np.log(1e4) * (1e4**share - 1)
        assert contraction == pytest.approx(expected, rel=0.06)


def test_gamma_where_the_learning_rate_ends_at_0():
    gamma = meeting(optax.cosine_decay_schedule(0.1, 50), 50)
    assert float(gamma(50)) == 0
    assert float(gamma(49)) > float(gamma(25)) > 0


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_the_force_stays_below_half_of_its_limit(momentum, nesterov):
    gamma = meeting(0.1, 20, momentum=momentum, nesterov=nesterov, period=2)
    largest = max(float(gamma(t)) for t in range(21))
    assert 2 * 0.1 * largest == pytest.approx(0.5 * stability_limit(momentum, nesterov), rel=1e-5)


RISING = {
    "warmup": optax.warmup_cosine_decay_schedule(1e-8, 0.05, 20, 400),
    "restarts": optax.sgdr_schedule(
        [
            {"init_value": 1e-6, "peak_value": 0.05, "decay_steps": 100, "warmup_steps": 3}
            for _ in range(4)
        ]
    ),
}


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("rate", RISING)
@pytest.mark.parametrize(
    "make",
    [
        functools.partial(flatjax.replicated_sgd, replica_axis=0),
        functools.partial(flatjax.esgd, noise_scale=0.0, weight_decay=0.0),
        functools.partial(flatjax.parle, noise_scale=0.0, weight_decay=0.0, replica_axis=0),
    ],
    ids=["rsgd", "esgd", "parle"],
)
def test_replicas_stay_near_where_the_learning_rate_rises(make, rate, decoupled):
    """Two parabolas with minima at 0 and 2: no replica needs to leave [-2, 5] by much."""
    tx = make(RISING[rate], steps=400, decoupled=decoupled)
    minima = jnp.array([[0.0], [2.0]])

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(params - minima, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), jnp.max(jnp.abs(params))

    params = jnp.array([[5.0], [-2.0]])
    _, largest = jax.lax.scan(step, (params, tx.init(params)), length=400)
    assert float(jnp.max(largest)) < 6


@pytest.mark.parametrize("rate", RISING)
def test_the_force_refers_to_the_learning_rates_that_it_meets(rate):
    """Equation (3) by a loop over all steps; the schedule looks at a part of them."""
    gamma, b = meeting(RISING[rate], 400, momentum=0.9), 0.9
    plain = meeting(1.0, 400, momentum=0.9)
    for count in range(0, 400, 7):
        ahead = [b**k * float(RISING[rate](count + k)) for k in range(100)]
        product = float(gamma(count)) * max(ahead)
        assert (1 - 1e-5) * float(plain(count)) <= product <= 2 * float(plain(count))
        assert product <= stability_limit(0.9)


def test_limits_of_stability():
    assert stability_limit() == stability_limit(0.0, nesterov=False) == 2
    assert stability_limit(0.9, nesterov=False) == pytest.approx(3.8)
    assert stability_limit(0.9) == pytest.approx(3.8 / 2.8)


# ------------------------------------------------------------------------------- what is refused


FORCE = {"replica_axis": 0, "decoupled": False}


@pytest.mark.parametrize(
    "make",
    [
        lambda: flatjax.replicated_sgd(0.1, 20.0, **FORCE),
        lambda: flatjax.replicated_sgd(0.1, 3.0, period=5, **FORCE),
        lambda: flatjax.esgd(0.1, 20.0, decoupled=False),
        lambda: flatjax.parle(0.1, 20.0, 0.1, **FORCE),
        lambda: flatjax.parle(0.1, 0.1, 30.0, **FORCE),
    ],
)
def test_a_force_that_diverges_is_refused(make):
    with pytest.raises(ValueError, match=r"learning_rate \* gamma is .* above the"):
        make()


def test_a_force_that_meets_a_rising_learning_rate_is_reported():
    rising = optax.linear_schedule(1e-4, 0.5, 10)
    gamma = lambda count: 0.5 / rising(count)  # at each step below the limit
    with pytest.warns(UserWarning, match=r"learning_rate \* gamma is .* above the 1\.36"):
        flatjax.replicated_sgd(rising, gamma, **FORCE)


@pytest.mark.parametrize(
    ("make", "counts"),
    [(flatjax.replicated_sgd, ["period"]), (flatjax.esgd, ["inner_steps", "key"])],
)
def test_a_traced_momentum(make, counts):
    """optax.inject_hyperparams traces all numbers that are not static."""
    tx = optax.inject_hyperparams(make, static_args=("replica_axis", "steps", *counts))
    own = tx(learning_rate=0.1, gamma=0.1, replica_axis=0, decoupled=False)
    expected = make(0.1, 0.1, replica_axis=0, decoupled=False)
    params = jax.random.normal(jax.random.key(0), (3, 4))
    grads = params / 2
    found, _ = jax.jit(own.update)(grads, own.init(params), params)
    again, _ = jax.jit(expected.update)(grads, expected.init(params), params)
    np.testing.assert_allclose(found, again, rtol=1e-6)
    own = tx(learning_rate=0.1, steps=10, replica_axis=0, decoupled=False)
    state = own.init(params)
    with pytest.raises(ValueError, match="momentum must be a number here, got a traced value"):
        jax.jit(own.update)(grads, state, params)


def test_a_schedule_that_diverges_is_reported():
    gamma = flatjax.schedules.scoping(1e-2, 200)
    with pytest.warns(UserWarning, match=r"learning_rate \* gamma is .* above the 1\.36"):
        flatjax.esgd(0.1, gamma, decoupled=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flatjax.esgd(0.1, gamma)  # decoupled: stable for every gamma
        flatjax.replicated_sgd(0.1, flatjax.schedules.scoping(1e-4, 200), **FORCE)


def test_the_state_of_the_center_is_a_tuple():
    stats = {"mean": jnp.ones(2)}
    with pytest.raises(TypeError, match=r"center_state must be a tuple .* \(stats,\), got dict"):
        flatjax.check_collapsed(eval_fn, jnp.ones(2), [], stats, center_state=stats)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: flatjax.replicated_sgd(0.1, replica_axis=0), "steps or gamma .* got neither"),
        (lambda: flatjax.esgd(0.1), "steps or gamma .* got neither"),
        (lambda: flatjax.esgd(0.1, 0.1, steps=10), "steps or gamma .* got both"),
        (lambda: flatjax.parle(0.1, 0.1, replica_axis=0), "steps, or both gamma and replica_gamma"),
        (lambda: flatjax.parle(0.1, steps=0, replica_axis=0), "steps must be >= 1"),
        (lambda: meeting(0.1, 10, momentum=1.0), r"momentum must be in \[0, 1\)"),
        (lambda: flatjax.limit_distance(-0.1, replica_axis=0), "target must be finite, >= 0"),
        (
            lambda: flatjax.check_collapsed(eval_fn, jnp.ones(2), [], jnp.ones(2)),
            "center_state must be given with state",
        ),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
