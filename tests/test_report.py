"""`flatness.report`: its numbers are those of the measures, its errors those of theory."""

import json
import sys

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from fast import slow

import flatjax
from flatjax import flatness
from flatjax.flatness import _report_plots, _rows, _tables
from flatjax.flatness._effort import LEVELS, MEASURES, Cost, cost_of

matplotlib.use("Agg")

EFFORT = LEVELS["quick"]
BLOCK = {"a": jnp.array([[1.0, -0.5], [2.0, 0.25]]), "b": jnp.array([[0.5, 3.0]])}
# Batches of unequal sizes, and what their examples weigh.
BATCHES = [np.float32([1, 3, 2]), np.float32([2]), *np.float32(np.arange(1, 13)).reshape(6, 2)]


def eval_fn(params, batch):
    """Parabolas x_i |w|^2 / 2, of all weights together."""
    square = jnp.sum(params["a"] ** 2) + jnp.sum(params["b"] ** 2)
    return {
        "loss": 0.5 * jnp.sum(batch) * square,
        "error": jnp.sum(batch > 1) * jnp.tanh(square / 50),
        "count": len(batch),
    }


X = np.concatenate(BATCHES)
SQUARE = sum(float((np.asarray(leaf) ** 2).sum()) for leaf in BLOCK.values())


@pytest.fixture(scope="module")
def found():
    return flatness.report(eval_fn, BLOCK, BATCHES, 0, level="quick", measures=MEASURES)


@pytest.fixture(scope="module")
def by_layer():
    return small(measures=["local_energy", "quantization", "trace"], blocks="layers")


@pytest.mark.slow
def test_numbers_are_those_of_the_measures(found):
    key = jax.random.key(0)
    energy = flatness.local_energy(eval_fn, sigmas=EFFORT.sigmas, num_samples=EFFORT.num_samples)
    energy = energy(BLOCK, BATCHES, key)
    for name in ("error", "loss"):
        for g, sigma in enumerate(EFFORT.sigmas):
            row = found["local_energy", f"local energy, {name}", f"σ = {sigma:g}"]
            assert row.value == pytest.approx(energy.mean[name][g], rel=1e-5)
            assert row.sem == pytest.approx(energy.sem[name][g], rel=1e-5)
    worst = flatness.worst_case_sharpness(eval_fn, rho=0.05, steps=EFFORT.ascent_steps)
    value = worst(BLOCK, BATCHES, key).rise["loss"]
    assert found["worst_case_sharpness"].value == pytest.approx(float(value), rel=1e-5)
    assert {row.measure for row in found.rows} == set(MEASURES)


@pytest.mark.slow
def test_numbers_of_a_parabola_and_their_errors_over_examples(found):
    """Each is proportional to the mean of x, and so is its error."""
    norm = np.sqrt(SQUARE)
    known = {
        "sam_sharpness": ((norm + 0.05) ** 2 - SQUARE) / 2,
        "top_eigenvalue": 1.0,
    }
    share = np.array([len(batch) for batch in BATCHES]) / len(X)
    means = np.array([float(batch.mean()) for batch in BATCHES])
    num = len(BATCHES)
    # The error of a ratio of sums to first order; batches weigh differently.
    spread = np.sum((share * (means - X.mean())) ** 2) * num / (num - 1)
    for name, factor in known.items():
        row = found[name]
        assert row.value == pytest.approx(factor * X.mean(), rel=1e-3)
        assert row.sem == pytest.approx(factor * np.sqrt(spread), rel=0.15)
        assert row.units.sum() == pytest.approx(row.value, rel=1e-3)
        assert row.source == "batches"
    assert found["trace"].value == pytest.approx(6 * X.mean(), rel=1e-4)
    assert found["spectral_density"].value == 0


@pytest.mark.slow
def test_blocks_are_measured_alone(by_layer):
    found = by_layer
    assert found.num_weights == {"all": 6, "a": 4, "b": 2}
    traces = {row.block: row.value for row in found.rows if row.measure == "trace"}
    assert traces["a"] == pytest.approx(4 * X.mean(), rel=1e-4)
    assert traces["b"] == pytest.approx(2 * X.mean(), rel=1e-4)
    rounded = {row.block: row for row in found.rows if row.measure == "quantization"}
    assert set(rounded) == {"all", "a", "b"}


def test_bootstrapped_intervals_cover_the_truth():
    """Ratios of sums over batches of unequal sizes: 95 % intervals, at their nominal rate."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        sizes = rng.integers(1, 6, size=12)
        sums = np.array([rng.exponential(size=size).sum() for size in sizes])
        units, shares = sums / sizes.sum(), sizes / sizes.sum()
        row = _rows.row("m", "all", "l", "s", units.sum(), "batches", units, shares)
        low, high = row.interval()
        hits += low < 1 < high
    assert 175 <= hits <= 199


@jax.custom_vjp
def tanh(x):
    """Has a backward pass only, as many kernels."""
    return jnp.tanh(x)


tanh.defvjp(lambda x: (jnp.tanh(x), x), lambda x, grad: (grad * (1 - jnp.tanh(x) ** 2),))


def of_network(params, batch):
    outputs = tanh(batch["x"] @ params["in"] + params["bias"]) @ params["out"]
    num = batch["weight"] * len(batch["x"])
    return {"loss": batch["weight"] * jnp.sum((outputs - batch["y"]) ** 2), "count": num}


@pytest.mark.claim("docs/how_flat.md", "linear effect of the examples on the perturbation")
@pytest.mark.parametrize(
    "mask", [None, slow({"in": True, "bias": False, "out": True})], ids=["all", "masked"]
)
def test_sharpness_has_the_derivative_of_each_batch_as_its_unit(mask):
    """The first order of resampling: what the sharpness does if a batch counts 1 + h times."""
    rng, h = np.random.default_rng(0), 1e-5
    shapes = {"in": (3, 4), "bias": 4, "out": 4}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    batches = [
        {"x": rng.normal(size=(num, 3)), "y": rng.normal(size=num), "weight": 1.0}
        for num in (5, 2, 3)
    ]
    names = ["sam_sharpness", "adaptive_sharpness"]
    with jax.enable_x64(True):
        found = flatness.report(of_network, params, batches, 0, measures=names, mask=mask)
        for name, rho in zip(names, (0.05, 0.5), strict=True):
            adaptive = name == "adaptive_sharpness"
            measure = flatness.sam_sharpness(of_network, rho=rho, adaptive=adaptive, mask=mask)

            def at(number, weight, measure=measure):
                weighted = list(batches)
                weighted[number] = batches[number] | {"weight": weight}
                return measure(params, weighted).rise["loss"]

            row = found[name]
            expected = [(at(b, 1 + h) - at(b, 1 - h)) / (2 * h) for b in range(3)]
            np.testing.assert_allclose(row.units - row.weights * row.value, expected, rtol=1e-6)
            np.testing.assert_allclose(row.units.sum(), row.value, rtol=1e-12)
            assert row.value == measure(params, batches).rise["loss"]


def test_batches_without_examples_contribute_nothing():
    """They have no mean, but the others' standard error is known; so it is for a zero gradient."""
    padded = lambda params, batch: {
        "loss": 0.5 * jnp.sum(batch) * jnp.sum(params**2),
        "count": jnp.sum(batch > 0),
    }
    names = ["sam_sharpness", "adaptive_sharpness", "top_eigenvalue"]
    batches = [*np.float32([[1, 3], [2, 2], [0, 0], [4, 1]])]
    found = flatness.report(padded, jnp.ones(2), batches, 0, level="quick", measures=names)
    for row in found.rows:
        assert row.sem > 0
        assert row.units[2] == row.weights[2] == 0
    flat = flatness.report(padded, jnp.zeros(2), batches, 0, level="quick", measures=names[:2])
    for row in flat.rows:
        assert row.value == row.sem == 0


@pytest.mark.slow
def test_tolerated_noise_has_the_error_of_weight_noise(found):
    measure = flatness.weight_noise(
        eval_fn,
        sigmas=EFFORT.sigmas,
        target_rise=[0.05],
        quantity="error",
        num_samples=EFFORT.num_samples,
    )
    alone, row = measure(BLOCK, BATCHES, jax.random.key(0)), found["weight_noise"]
    np.testing.assert_allclose(row.value, alone.tolerance[0], rtol=1e-4)
    np.testing.assert_allclose(row.sem, alone.sem[0], rtol=1e-4)
    assert row.note or np.isfinite(row.value)


@pytest.mark.slow
def test_a_report_is_printed_drawn_and_kept(found, by_layer, tmp_path):
    assert max(map(len, str(found).splitlines())) <= _tables.WIDTH
    assert "± over 8 batches: SAM sharpness, loss" in str(found)
    found, text = by_layer, str(by_layer)
    assert max(map(len, text.splitlines())) <= _tables.WIDTH
    assert "local energy, error, σ = 0.3" in text
    assert found._repr_html_().count("<tr>") == len(found.rows) / 3 + 1
    found.save(tmp_path / "report.json")
    back = flatness.Report.load(tmp_path / "report.json")
    assert str(back) == text
    assert back.to_dict() == found.to_dict()
    json.dumps(found.to_dict(), allow_nan=False)
    figure = found.plot()
    assert figure.get_size_inches()[0] * _report_plots.DPI == 736
    for ax in figure.axes:
        assert "σ" in ax.get_xlabel()
        assert [one.get_text() for one in ax.get_legend().get_texts()] == ["all", "a", "b"]
    matplotlib.pyplot.close(figure)


def test_what_is_no_report_is_refused_by_name(tmp_path):
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other\.json holds no report"):
        flatness.Report.load(tmp_path / "other.json")


@pytest.mark.slow
def test_missing_packages_are_named(found, monkeypatch):
    calls = {"pandas": found.to_pandas, "matplotlib.pyplot": found.plot}
    calls["tqdm"] = lambda: small(progress=True)
    for module, call in calls.items():
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=r"needs \w+.*pip install 'flatjax\[report\]'"):
            call()


@pytest.mark.slow
def test_a_data_frame_has_a_line_for_each_number(found, monkeypatch):
    pandas = type(sys)("pandas")
    pandas.DataFrame = list
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    lines = found.to_pandas()
    assert len(lines) == len(found.rows)
    assert lines[0]["low"] < lines[0]["value"] < lines[0]["high"]


def small(batches=BATCHES, **options):
    options = {"level": "quick", "measures": ["sam_sharpness"]} | options
    return flatness.report(eval_fn, BLOCK, batches, 0, **options)


@pytest.mark.slow
def test_the_cost_is_said_beforehand_and_is_right(capsys):
    calls = []

    def counted(params, batch):
        jax.debug.callback(lambda: calls.append(1))
        return eval_fn(params, batch)

    measures = ["local_energy", "weight_noise", "adaptive_sharpness", "quantization", "pruning"]
    options = {"level": "quick", "measures": measures, "progress": True}
    flatness.report(counted, BLOCK, BATCHES, 0, **options)
    jax.effects_barrier()
    said = capsys.readouterr().err
    assert "32 evaluations, 3 gradients of 8 batches; local_energy, weight_noise" in said
    before = 1 + 3 + len(BATCHES)  # the check, and the pass that counts the batches
    assert len(calls) == (32 + 3) * len(BATCHES) + before


def test_costs_of_levels_are_those_of_the_docstring():
    for level, effort in LEVELS.items():
        cost = cost_of(effort.measures, effort)
        line = next(
            line
            for line in flatness.report.__doc__.splitlines()
            if line.strip().startswith(f'`"{level}"`')
        )
        assert line.split()[-4:] == [f"{number:,}" for number in cost]
    assert Cost(1, 2, 3, 4) * 2 + Cost(1) == Cost(3, 4, 6, 8)
    assert Cost(10, 1, 1, 8).passes(4) == 10 + 3 * 3 + 8


@pytest.mark.slow
def test_loaders_and_one_batch(found):
    row = small(lambda: iter(BATCHES))["sam_sharpness"]
    assert row.value == pytest.approx(found["sam_sharpness"].value)
    assert row.sem == pytest.approx(found["sam_sharpness"].sem)
    alone = small([jnp.asarray(X)])
    assert alone["sam_sharpness"].value == pytest.approx(row.value, rel=1e-5)
    assert np.isnan(alone["sam_sharpness"].sem)
    assert "give the data in 10 batches" in str(alone)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"level": "slow"}, "level must be"),
        ({"measures": ["flat"]}, "measures must"),
        ({"measures": []}, "measures must name"),
        (
            {"loss": "nll"},
            r"^loss must be one of the sums .* Return the sum 'nll' too, or pass another name",
        ),
        ({"blocks": {"none": {"a": False, "b": False}}}, r"blocks\['none'\] must mark weights"),
        ({"blocks": {"all": None}}, "blocks must not be named 'all'"),
        ({"blocks": 3}, "blocks must be"),
    ],
)
def test_bad_arguments_are_refused_by_name(options, named):
    with pytest.raises((ValueError, TypeError), match=named):
        small(**options)


def test_a_batch_that_is_not_finite_is_named():
    """Also if it is not the first: its error is a number."""
    classifier = flatness.classification(lambda params, x: x @ params)
    x, labels = np.ones((4, 3), np.float32), np.zeros(4, int)
    of_nan = x.copy()
    of_nan[1, 2] = np.nan
    for batch in ((of_nan, labels), (x, labels + 2)):
        options = {"level": "quick", "measures": ["sam_sharpness"]}
        params, batches = np.ones((3, 2), np.float32), [(x, labels)] * 2 + [batch] * 2
        message = r"= nan for batch number 2, counted from 0\. .*NaN among the inputs, or labels"
        with pytest.raises(ValueError, match=message):
            flatness.report(classifier, params, batches, 0, **options)
        with pytest.raises(ValueError, match="for the first batch"):
            flatness.report(classifier, params, batches[::-1], 0, **options)
        means = flatjax.evaluate(classifier, params, batches)
        assert np.isnan(means["loss"])
    assert np.isnan(means["error"])  # of labels that are no class


@pytest.mark.slow
def test_without_an_error_the_loss_is_what_counts():
    only_loss = lambda params, batch: {
        name: total for name, total in eval_fn(params, batch).items() if name != "error"
    }
    found = flatness.report(only_loss, BLOCK, BATCHES, 0, level="quick")
    assert "weight_noise" not in {row.measure for row in found.rows}
    assert found["quantization"].label == "rounded weights, loss"
