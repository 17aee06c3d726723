"""The local learning coefficient where it is known, its intervals, diagnosis and errors."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast import only, slow

import flatjax
from experiments.benchmarks import coefficient_coverage, coefficient_networks
from experiments.report import store
from flatjax import flatness
from flatjax.flatness import learning_coefficient, learning_coefficient_of_training
from flatjax.gaussian_mixture import losses, sample, simulate

KEY = jax.random.key(0)
# A regression of ten weights on ten minibatches, and the measure that many tests share.
REGRESSION = coefficient_coverage.regression()
MEASURE = learning_coefficient(REGRESSION.eval_fn, num_steps=500)
GIVEN = (REGRESSION.params, REGRESSION.batches)


@functools.cache
def found_by_default():
    return MEASURE(*GIVEN, KEY)


def constant(energy):
    """An eval_fn of a loss that needs no data, of a million examples."""
    return lambda params, batch: {"loss": 1e6 * energy(params), "count": jnp.array(1e6)}


# --- known values ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", coefficient_coverage.CASES)
def test_intervals_hold_the_truth(name):
    """The short form of `python -m experiments.benchmarks.coefficient_coverage`."""
    found = coefficient_coverage.Coverage(calls=10).measure(coefficient_coverage.CASES[name]())
    assert found["covered"] >= 8
    error = found["mean"] - found["truth"]
    assert abs(error) < 4 * found["spread between calls"] / np.sqrt(10)


def test_large_steps_are_exact_in_a_parabola():
    """Where those of ordinary noise overestimate by 1 / (1 - a / 2) = 1.33."""
    stiffness, gamma, d = 99.0, 1.0, 40

    def eval_fn(params, batch):
        return {"loss": 0.5 * stiffness * jnp.sum(params**2), "count": jnp.array(1)}

    measure = learning_coefficient(eval_fn, beta=0.5, localization=gamma, step_size=0.01)
    found = measure(jnp.zeros(d), [0, 0], KEY)  # a = 0.01 (2 * 99 / 2 + 1) / 2
    assert abs(found.mean - d / 2 * 0.99) < 4 * found.sem < 0.02 * found.mean
    assert abs(found.temperature - 1) < 4 * found.temperature_sem
    assert np.isnan(found.acceptance)


@pytest.mark.slow
def test_unequal_scales_of_weights_do_not_matter():
    scales = jnp.geomspace(1e-2, 1e2, 9)
    measure = learning_coefficient(constant(lambda w: 0.5 * jnp.sum((w / scales) ** 2)))
    found = measure(jnp.zeros(9), [0], KEY)
    stiffness = 1e6 / np.log(1e6) / np.asarray(scales, float) ** 2
    assert abs(found.mean - 0.5 * np.sum(stiffness / (stiffness + 1))) < 4 * found.sem
    assert found.converged


@pytest.mark.slow
@pytest.mark.parametrize("batches", [slow([0]), [0, 0]], ids=["exact", "batches"])
def test_momentum_crosses_flat_directions(batches):
    """Ten of twenty, which no axis shows, at a condition number of 10,000."""
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((20, 20)))[0]
    stiff = jnp.asarray(rotation[:10], jnp.float32)

    def eval_fn(params, batch):
        energy = 0.5e4 / len(batches) * jnp.sum((stiff @ params) ** 2)
        return {"loss": energy, "count": jnp.array(1)}

    length = {"num_steps": 4000, "num_warmup": 2000}
    found = learning_coefficient(eval_fn, beta=1.0, **length)(jnp.zeros(20), batches, KEY)
    assert abs(found.mean - 5 * 1e4 / (1e4 + 1)) < 4 * found.sem < 1
    # Half of it is that of the flat directions: without momentum they would not have settled.
    assert found.temperature == pytest.approx(1, abs=0.15)
    assert found.temperature_sem < 0.08


@pytest.mark.slow
@pytest.mark.parametrize("power", [slow(1), 2, slow(3)])
def test_powers_of_a_weight(power):
    """w^2k has coefficient 1 / 2k."""
    measure = learning_coefficient(constant(lambda w: jnp.sum(w ** (2 * power))))
    found = measure(jnp.zeros(1), [0], KEY)
    assert found.mean == pytest.approx(1 / (2 * power), abs=4 * found.sem + 0.005)
    assert found.sem < 0.03


def test_the_formula_of_reduced_rank_regression():
    """That of two layers [Aoyagi and Watanabe, 2005], by cases."""

    def two_layers(m, h, n, r):
        if m + h < n + r:
            return (h * m - h * r + n * r) / 2
        if n + h < m + r:
            return (h * n - h * r + m * r) / 2
        if m + n < h + r:
            return m * n / 2
        pairs = 2 * ((h + r) * (m + n) + m * n) - (h + r) ** 2 - m**2 - n**2
        return (pairs + (m + n + h + r) % 2) / 8

    for m, h, n, r in [(4, 3, 4, 1), (3, 2, 9, 1), (9, 2, 3, 1), (2, 9, 2, 1), (5, 4, 4, 2)]:
        assert coefficient_networks.aoyagi((m, h, n), r)[0] == pytest.approx(two_layers(m, h, n, r))


@pytest.mark.parametrize(
    "name", only(["24 weights"], ["24 weights", "200 weights, weak spring", "300 weights, deep"])
)
def test_linear_networks(name):
    """The short form of `python -m experiments.benchmarks.coefficient_networks`."""
    found = coefficient_networks.Networks(sweeps=500).measure(coefficient_networks.SIZES[name])
    assert found["expectation"] == pytest.approx(found["formula"], rel=0.2)
    error = np.hypot(found["sem"], found["expectation sem"])
    assert abs(found["mean"] - found["expectation"]) < 4 * error < 0.1 * found["formula"]


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "half"), [(30.0, 5.0), slow(0.5, 2.5)])
def test_a_minimum_of_the_gaussian_mixture(alpha, half):
    """Half the number of weights, or of patterns if there are fewer of them."""
    d, ridge, gamma = 10, 1e-3, 0.01
    patterns = sample(jax.random.key(1), d, alpha=alpha, delta=1.0)
    loss, n = losses.square(), round(alpha * d)
    minimum = simulate.minimise(patterns, loss, lam=ridge)
    design = np.asarray(patterns.x) / np.sqrt(d)

    def eval_fn(weights, batch):
        fields = batch["label"] * (batch["x"] @ weights) / jnp.sqrt(d)
        share = ridge * len(fields) / n  # of a batch
        risk = loss.value(fields).sum() + share / 2 * weights @ weights
        return {"loss": risk, "count": len(fields)}

    batch = {"x": patterns.x, "label": patterns.label}
    measure = learning_coefficient(eval_fn, localization=gamma)
    found = measure(jnp.asarray(minimum.weights, jnp.float32), [batch], KEY)
    stiffness = (np.linalg.eigvalsh(design.T @ design) + ridge) / np.log(n)
    truth = 0.5 * np.sum(stiffness / (stiffness + gamma))
    assert truth == pytest.approx(half, rel=0.1)
    assert abs(found.mean - truth) < 4 * found.sem < 0.1 * truth


@pytest.mark.slow
def test_tempered_chains_agree():
    for case in (coefficient_coverage.crossing(), coefficient_coverage.regression(3, 100, 1)):
        measure = learning_coefficient(case.eval_fn, sampler="tempered", num_steps=1000)
        found = measure(case.params, case.batches, KEY)
        assert abs(found.mean - case.truth) < 4 * found.sem < 0.2 * case.truth
        assert found.converged
        assert np.isnan(found.temperature)


# --- what it is given -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_block_alone():
    energy = lambda w: 0.5 * (w["a"] @ w["a"]) + jnp.sum(w["b"] ** 4)
    params = {"a": jnp.zeros(3), "b": jnp.zeros(1)}
    measure = learning_coefficient(constant(energy), mask={"a": True, "b": False}, num_steps=500)
    found = measure(params, [0], KEY)
    assert found.num_weights == 3
    assert abs(found.mean - 1.5) < 4 * found.sem < 0.3


@pytest.mark.slow
def test_batches_that_stream_and_networks_one_by_one(monkeypatch):
    """In a Python loop the steps are the same."""
    measure = learning_coefficient(REGRESSION.eval_fn, num_chains=2, num_steps=10, num_warmup=10)
    expected = measure(*GIVEN, KEY)
    monkeypatch.setattr("flatjax._cpu.prefers_unrolled", lambda *given: True)
    found = measure(*GIVEN, KEY)
    np.testing.assert_allclose(found.trace, expected.trace, rtol=1e-3, atol=1e-3)
    streamed = measure(REGRESSION.params, lambda: iter(REGRESSION.batches), KEY)
    assert np.isfinite(streamed.trace).all()
    assert streamed.num_evaluations == expected.num_evaluations


def test_what_is_refused():
    for options, named in [
        ({"beta": 0.0}, "beta"),
        ({"localization": -1.0}, "localization"),
        ({"step_size": float("nan")}, "step_size"),
        ({"num_chains": 1}, "num_chains"),
        ({"sampler": "nuts"}, "sampler"),
        ({"betas": [1.0]}, "betas"),
        ({"sampler": "tempered", "step_size": 0.1}, "step_size"),
    ]:
        with pytest.raises(ValueError, match=named):
            learning_coefficient(REGRESSION.eval_fn, **options)
    one = lambda params, batch: {"loss": jnp.sum(params**2), "count": jnp.array(1)}
    with pytest.raises(ValueError, match="beta must be given"):
        learning_coefficient(one)(jnp.zeros(2), [0], KEY)
    measure = learning_coefficient(one, sampler="tempered", betas=[0.1, 0.2], beta=1.0)
    with pytest.raises(ValueError, match="betas must increase up to beta = 1"):
        measure(jnp.zeros(2), [0], KEY)


# --- what it says ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_result_is_printed_and_drawn():
    found = found_by_default()
    text = repr(found)
    assert f"{found.mean:.4g}" in text
    assert "converged      yes" in text
    low, high = found.interval()
    assert low < found.mean < high
    lines = found.plot().get_lines()
    assert len(lines) == len(found.trace) + 1
    assert lines[0].get_ydata()[-1] == pytest.approx(found.trace[0].mean())


@pytest.mark.slow
def test_problems_are_named():
    wild = learning_coefficient(REGRESSION.eval_fn, step_size=1.0, num_steps=100, num_warmup=10)
    assert "diverged" in wild(*GIVEN, KEY).problems[0]
    # a = 1.45 in all directions: exact in the mean of a parabola, but not for noisy batches.
    large = learning_coefficient(REGRESSION.eval_fn, step_size=0.02, num_steps=500)
    assert "temperature" in " ".join(large(*GIVEN, KEY).problems)
    away = MEASURE(REGRESSION.params + 1.0, REGRESSION.batches, KEY)
    assert "no minimum" in " ".join(away.problems)
    short = learning_coefficient(
        REGRESSION.eval_fn, step_size=1e-5, num_steps=50, num_warmup=10, num_chains=2
    )
    assert "ess" in " ".join(short(*GIVEN, KEY).problems)


# --- Entropy-SGD ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_inner_loop_of_entropy_sgd_is_the_same_estimate():
    d, stiffness, gamma, noise, eta = 50, 1.0, 0.25, 0.05, 0.04
    loss = lambda w: 0.5 * stiffness * jnp.sum(w**2)
    tx = flatjax.esgd(
        *(eta, gamma),
        momentum=None,
        weight_decay=0.0,
        outer_learning_rate=1e-3,
        inner_steps=400,
        noise_scale=noise,
    )

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return (params + updates, state), value

    start = jnp.zeros(d)
    _, losses = jax.jit(lambda: jax.lax.scan(step, (start, tx.init(start)), length=40 * 400))()
    found = learning_coefficient_of_training(losses, inner_steps=400, noise_scale=noise)
    n_beta = 1 / noise**2
    eval_fn = lambda params, batch: {"loss": loss(params), "count": jnp.array(1)}
    measure = learning_coefficient(eval_fn, beta=n_beta, localization=n_beta * gamma)
    by_measure = measure(start, [0], KEY)
    truth = d / 2 * stiffness / (stiffness + gamma)
    euler = 1 / (1 - eta * (stiffness + gamma) / 2)  # variance of its steps
    assert found.n_beta == pytest.approx(n_beta)
    assert abs(by_measure.mean - truth) < 4 * by_measure.sem
    assert abs(found.mean - truth * euler) < 4 * found.sem < 0.05 * truth


def test_losses_that_are_no_loops_are_refused():
    with pytest.raises(ValueError, match="losses must be a vector of at least inner_steps = 5"):
        learning_coefficient_of_training([1.0], inner_steps=5, noise_scale=0.1)
    with pytest.raises(ValueError, match="noise_scale"):
        learning_coefficient_of_training([1.0] * 9, inner_steps=5, noise_scale=0.0)
    assert np.isnan(
        flatness.learning_coefficient_of_training([1.0] * 5, inner_steps=5, noise_scale=1.0).sem
    )


# --- what the page says ---------------------------------------------------------------------------


PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "how_singular.md").read_text(encoding="utf-8")


def record(name):
    return store.read_json(store.RESULTS / "benchmarks" / f"coefficient_{name}.json")


@pytest.mark.claim("docs/how_singular.md", "intervals that hold it")
def test_the_table_of_coverage_is_the_record():
    calls = record("coverage")["calls"]
    for row in record("coverage")["found"].values():
        numbers = [row[name] for name in ("truth", "mean", "spread between calls")]
        cells = [f"{number:.3f}" for number in [*numbers, row["mean reported sem"]]]
        cells.append(f"{row['covered']} of {calls}")
        assert " | ".join(cells) in PAGE
        assert 90 <= row["covered"] <= 99


def test_the_table_of_networks_is_the_record():
    found = record("networks")["found"]
    assert list(found) == list(coefficient_networks.SIZES)
    assert coefficient_networks.table(found) in PAGE
    for row in found.values():
        assert row["mean"] == pytest.approx(row["expectation"], rel=0.03)
        assert row["cpu seconds"] < 60


def test_the_table_of_the_race_is_the_record():
    found = record("race")
    for name, time in found["microseconds"].items():
        ratio = 1 if name == "flatjax" else found["ratios"][f"{name} / flatjax"]
        mean, sem = found["means"][name], found["sems"][name]
        assert f"| {name} | {time:.0f} | {ratio:.0f} | {mean:.1f} ± {sem:.1f} |" in PAGE
        assert ratio >= 2 or name == "flatjax"
        error = np.hypot(sem, found["sems"]["flatjax"])
        assert abs(mean - found["means"]["flatjax"]) <= 3 * error
