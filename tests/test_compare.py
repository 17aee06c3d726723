"""`flatness.compare`: paired differences, and a picture of which solution is flatter."""

import dataclasses
import json

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

from flatjax import flatness
from flatjax.flatness import _report_plots, _tables

matplotlib.use("Agg")

BATCHES = list(np.random.default_rng(0).normal(size=(10, 6, 4)).astype(np.float32))
MEASURES = ["local_energy", "weight_noise", "sam_sharpness", "trace"]


def eval_fn(params, batch):
    """A product of two weights a feature: one function at any split, flattest at equal ones."""
    outputs = batch @ (params[0] * params[1] - 1.0) + 0.1
    error = jnp.sum(jnp.tanh(outputs**2))
    return {"loss": jnp.sum(outputs**2), "error": error, "count": len(batch)}


def weights(scale):
    """One function at any scale, in two factors."""
    return jnp.stack([jnp.full(4, scale), jnp.full(4, 1 / scale)])


def report(scale, key=0, **options):
    options = {"measures": MEASURES, "level": "quick"} | options
    return flatness.report(eval_fn, weights(scale), BATCHES, key, **options)


@pytest.fixture(scope="module")
def reports():
    return {"flat": report(1.0), "sharp": report(3.0), "near": report(1.02)}


@pytest.mark.slow
def test_differences_are_paired(reports):
    """The same examples raise both solutions: the difference is known better than the numbers."""
    found = flatness.compare({"near": reports["near"], "flat": reports["flat"]})
    for d in found.differences:
        name = d.measure, d.label, d.setting
        first, second = (reports[one][name] for one in ("near", "flat"))
        assert d.value == pytest.approx(second.value - first.value)
        if d.measure in ("sam_sharpness", "local_energy"):
            assert d.sem < 0.3 * np.hypot(first.sem, second.sem)
        if d.measure == "local_energy":
            paired = second.units - first.units
            assert d.sem == pytest.approx(paired.std(ddof=1) / np.sqrt(len(paired)))


def test_the_flatter_one_is_named(reports):
    found = flatness.compare({"sharp": reports["sharp"], "flat": reports["flat"]})
    by_measure = {d.measure: d for d in found.differences}
    assert by_measure["sam_sharpness"].flatter == "flat"
    assert by_measure["trace"].flatter == "flat"
    assert by_measure["sam_sharpness"].relative[1] < 0
    assert f"flat is flatter than sharp by {sum(d.flatter == 'flat' for d in found.differences)} of"
    same = flatness.compare({"a": reports["flat"], "b": reports["flat"]})
    assert {d.flatter for d in same.differences} == {None}
    assert {d.value for d in same.differences} == {0}


def test_noise_that_is_tolerated_counts_the_other_way(reports):
    rows = {name: one["weight_noise"] for name, one in reports.items()}
    assert not rows["flat"].larger_is_sharper
    shifted = rows["flat"]._replace(value=rows["flat"].value + 1, units=rows["flat"].units + 1)
    more = dataclasses.replace(reports["flat"], rows=(shifted,))
    (difference,) = flatness.compare({"flat": reports["flat"], "more": more}).differences
    assert difference.flatter == "more"
    assert difference.relative[1] < 0


def test_numbers_that_are_not_finite_have_no_false_ratio(reports):
    """A finite number is the flatter one of an infinite pair; NaN is neither flat nor sharp."""
    row = reports["flat"]["sam_sharpness"]

    def compared(first, other):
        rows = {
            name: row._replace(value=value, sem=np.nan, units=np.full_like(row.units, value))
            for name, value in (("first", first), ("other", other))
        }
        given = {name: dataclasses.replace(reports["flat"], rows=(r,)) for name, r in rows.items()}
        far = flatness.Barrier(np.arange(2), {}, {"loss": np.nan}, 1.0)
        return flatness.compare(given, barriers={"other": far})

    relative = lambda *values: compared(*values).differences[0].relative
    found = json.loads(json.dumps(compared(np.inf, 0.1).to_dict(), allow_nan=False))
    assert found["differences"][0]["value"] == "-inf"
    assert found["barriers"]["other"]["loss"] is None
    np.testing.assert_equal(relative(np.inf, 0.1), (np.nan, -1, np.nan))
    np.testing.assert_equal(relative(0.1, np.inf), (np.nan, 1, np.nan))
    np.testing.assert_equal(relative(np.nan, 0.1), (np.nan, np.nan, np.nan))
    one = lambda value: row._replace(value=value, units=np.array([value]), weights=np.ones(1))
    alone = [dataclasses.replace(reports["flat"], rows=(one(v),)) for v in (1.0, 3.0)]
    (difference,) = flatness.compare({"a": alone[0], "b": alone[1]}).differences
    np.testing.assert_equal(difference.relative, (np.nan, 0.5, np.nan))


def test_a_comparison_is_printed_and_drawn(reports):
    for names in (("sharp", "flat"), ("flat", "sharp", "near")):
        found = flatness.compare({name: reports[name] for name in names})
        text = str(found)
        assert max(map(len, text.splitlines())) <= _tables.WIDTH
        assert text.startswith(f"{names[1]} is flatter than {names[0]} by")
        assert "<table>" in found._repr_html_()
        assert len(found.to_dict()["differences"]) == len(found.differences)
        figure = found.plot()
        assert figure.get_size_inches()[0] * _report_plots.DPI == 736
        (ax,) = figure.axes
        assert len(ax.get_yticklabels()) == len(found.differences) / (len(names) - 1)
        shown = [text.get_text() for text in ax.texts]
        assert f"{names[0]} is flatter" in shown
        assert (ax.get_legend() is None) == (len(names) == 2)
        matplotlib.pyplot.close(figure)


def test_barriers_are_printed_with_the_verdicts(reports):
    measure = flatness.barrier(eval_fn, num_points=3)
    found = measure(weights(1.0), weights(3.0), BATCHES)
    two = {name: reports[name] for name in ("flat", "sharp")}
    comparison = flatness.compare(two, barriers={"sharp": found})
    x = np.concatenate(BATCHES)
    losses = [
        np.mean((x @ (np.full(4, a * b) - 1) + 0.1) ** 2)
        for a, b in ((1, 1), (2, 2 / 3), (3, 1 / 3))
    ]
    height = losses[1] - (losses[0] + losses[2]) / 2
    assert comparison.to_dict()["barriers"]["sharp"]["loss"] == pytest.approx(height, rel=1e-4)
    assert f"between sharp and flat: error {found.height['error']:.4g}, loss" in str(comparison)
    with pytest.raises(ValueError, match=r"barriers must have names of \['sharp'\].*got 'flat'"):
        flatness.compare(two, barriers={"flat": found})
    with pytest.raises(TypeError, match=r"barriers\['sharp'\] must be a Barrier"):
        flatness.compare(two, barriers={"sharp": 0.1})


def test_a_soup_is_printed_beside_its_members(reports):
    solutions = [weights(1.0), weights(3.0)]
    found = flatness.soup(eval_fn, greedy="loss")(solutions, BATCHES)
    two = {name: reports[name] for name in ("flat", "sharp")}
    comparison = flatness.compare(two, soup=found)
    loss = reports["flat"].reference["loss"]  # of both, as they are one function
    assert found.members == (0,)
    text = f"The soup of flat: error {found.values['error']:.4g} (alone"
    assert text in str(comparison)
    assert (
        f"loss {loss:.4g} (alone {loss:.4g} on average, {loss:.4g} at the"
        in comparison.verdicts()[-1]
    )
    shown = comparison.to_dict()["soup"]
    assert shown["members"] == ["flat"]
    assert shown["alone"]["loss"] == pytest.approx([loss, loss], rel=1e-4)
    assert flatness.compare(two).to_dict()["soup"] is None
    with pytest.raises(ValueError, match=r"soup must be made of the 2 solutions.*soup of 1"):
        flatness.compare(two, soup=flatness.soup(eval_fn)(solutions[:1], BATCHES))
    with pytest.raises(TypeError, match=r"soup must be a Soup, got dict"):
        flatness.compare(two, soup={})


def test_what_cannot_be_compared_is_refused_by_name(reports):
    flat = reports["flat"]
    others = {
        "key": dataclasses.replace(flat, key=[0, 1]),
        "batches": dataclasses.replace(flat, fingerprint="other"),
        "level": dataclasses.replace(flat, level="thorough"),
        "common": dataclasses.replace(flat, rows=()),
    }
    for named, other in others.items():
        with pytest.raises(ValueError, match=rf"reports must.*{named}"):
            flatness.compare({"one": flat, "other": other})
    with pytest.raises(ValueError, match="two solutions"):
        flatness.compare({"one": flat})
    with pytest.raises(TypeError, match=r"reports\['b'\] must be a Report"):
        flatness.compare({"a": flat, "b": 3})
    with pytest.raises(ValueError, match="confidence"):
        flatness.compare({"a": flat, "b": flat}, confidence=1.0)


def of_leaves(mask=None, blocks=None, **more):
    params = {"first": {"w": jnp.ones(4)}, "second": {"w": jnp.ones(4)}} | more
    both = lambda params, batch: eval_fn([params["first"]["w"], params["second"]["w"]], batch)
    options = {"level": "quick", "measures": ["sam_sharpness"], "mask": mask, "blocks": blocks}
    return flatness.report(both, params, BATCHES, 0, **options)


def test_different_masks_of_the_same_leaves_cannot_be_compared(tmp_path):
    first = lambda params: {"first": True, "second": False}
    plain, masked, named = of_leaves(), of_leaves(first), of_leaves(blocks={"part": first})
    assert plain.leaves == plain.moving["all"] == ["first/w", "second/w"]
    assert masked.moving == {"all": ["first/w"]}
    message = r"same mask; in the block 'all', the leaf 'second/w' moves for 'a' but not for 'b'"
    with pytest.raises(ValueError, match=message):
        flatness.compare({"a": plain, "b": masked})
    with pytest.raises(ValueError, match=message):
        flatness.compare({"b": masked, "a": plain})
    second = of_leaves(blocks={"part": {"first": False, "second": True}})
    with pytest.raises(ValueError, match=r"in the block 'part', the leaf 'first/w'"):
        flatness.compare({"a": named, "b": second})
    # One mask in two forms, blocks of one report alone, and networks with other leaves.
    same = of_leaves({"first": {"w": True}, "second": False})
    other = of_leaves(lambda params: {"first": True, "second": False, "third": False}, third=0)
    for pair in ((masked, same), (plain, named), (plain, of_leaves(True)), (plain, other)):
        assert flatness.compare(dict(zip("ab", pair, strict=True))).differences
    masked.save(tmp_path / "masked.json")
    loaded = flatness.Report.load(tmp_path / "masked.json")
    with pytest.raises(ValueError, match="same mask"):
        flatness.compare({"a": plain, "b": loaded})
    early = {
        name: value for name, value in masked.to_dict().items() if name not in ("leaves", "moving")
    }
    assert flatness.compare({"a": plain, "b": flatness.Report.from_dict(early)}).differences


def test_fingerprints_tell_data_apart(reports):
    other = flatness.report(
        eval_fn, jnp.ones((2, 4)), BATCHES[::-1], 0, level="quick", measures=["sam_sharpness"]
    )
    assert other.fingerprint != reports["flat"].fingerprint
