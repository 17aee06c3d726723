"""Soups: means, batch statistics, and which solutions are taken."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flatjax
from flatjax import flatness

BATCHES = [jnp.ones(3), jnp.ones(3)]


def well(params, batch):
    """Two minima along the first coordinate, of different depths; a parabola along the second."""
    x, y = params["x"], params["y"]
    loss = (x**2 - 1) ** 2 + 0.25 * x + y**2
    return {"loss": len(batch) * loss, "distance": len(batch) * jnp.abs(x), "count": len(batch)}


def at(x, y=0.0):
    return {"x": jnp.float32(x), "y": jnp.float32(y)}


def test_a_soup_is_the_mean_and_a_greedy_one_takes_what_helps():
    solutions = [at(0.9, -1), at(-1), at(0.8, 1.2), at(1.1, 0.9)]
    mean = flatness.soup(well)(solutions, BATCHES)
    assert mean.members == (0, 1, 2, 3)
    np.testing.assert_allclose([mean.params["x"], mean.params["y"]], [0.45, 0.275], rtol=1e-6)
    alone = [float(well(w, jnp.ones(1))["loss"]) for w in solutions]
    assert np.argmin(alone) == 1
    greedy = flatness.soup(well, greedy="loss")(solutions, BATCHES)
    assert greedy.members == (1,)  # the others are in the other well
    for found in (mean, greedy):
        np.testing.assert_allclose(found.alone["loss"], alone, rtol=1e-6)
        np.testing.assert_allclose(found.alone["distance"], [0.9, 1, 0.8, 1.1], rtol=1e-6)
    lines = str(mean).splitlines()
    assert lines[0] == "Soup of 4 solutions: 0, 1, 2, 3"
    shown = next(line for line in lines if line.startswith("loss")).split()[1:]
    expected = [mean.values["loss"], np.mean(alone), min(alone)]
    np.testing.assert_allclose([*map(float, shown)], expected, rtol=1e-3)
    others = flatness.soup(well, greedy="loss")([solutions[i] for i in (0, 2, 3)], BATCHES)
    members, best = _greedy_by_hand([solutions[i] for i in (0, 2, 3)])
    assert others.members == members
    assert others.values["loss"] == pytest.approx(best, rel=1e-5)
    assert best < min(alone[i] for i in (0, 2, 3))


def _greedy_by_hand(solutions):
    points = np.array([[w["x"], w["y"]] for w in solutions], float)
    loss = lambda p: (p[0] ** 2 - 1) ** 2 + 0.25 * p[0] + p[1] ** 2
    order = sorted(range(len(points)), key=lambda i: loss(points[i]))
    members = [order[0]]
    for i in order[1:]:
        if loss(points[[*members, i]].mean(0)) <= loss(points[members].mean(0)):
            members.append(i)
    return tuple(sorted(members)), loss(points[members].mean(0))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", range(3))
def test_a_greedy_soup_never_takes_a_network_that_diverged(value, place):
    solutions = [at(0.9, -1), at(0.8, 1.2)]
    expected = flatness.soup(well, greedy="loss")(solutions, BATCHES)
    assert expected.members == (0, 1)
    solutions.insert(place, at(value))
    found = flatness.soup(well, greedy="loss")(solutions, BATCHES)
    assert found.members == tuple(i for i in range(3) if i != place)
    assert found.values == expected.values
    assert not np.isfinite(found.alone["loss"][place])
    with pytest.raises(ValueError, match=r"solutions must have a finite 'loss'.*nan"):
        flatness.soup(well, greedy="loss")([at(np.nan), at(value)], BATCHES)


class Normed(nn.Module):
    """A network with batch norm."""

    @nn.compact
    def __call__(self, x, train):
        """One output."""
        return nn.BatchNorm(not train, momentum=0.9, use_bias=False)(nn.Dense(1, use_bias=False)(x))


X = [
    jnp.asarray(np.random.default_rng(i).normal(size=(50, 2)) * [1, 4], jnp.float32) for i in (0, 1)
]


@functools.cache
def variables(angle):
    """A unit vector as kernel; the statistics are those of training at the angle 0."""
    kernel = jnp.array([[np.cos(angle)], [np.sin(angle)]], jnp.float32)
    params = Normed().init(jax.random.key(0), X[0], True)["params"]
    return {**params, "Dense_0": {"kernel": kernel}}


def update(params, stats, batch):
    """Statistics after a batch."""
    call = {"params": params, "batch_stats": stats}
    return Normed().apply(call, batch, True, mutable=["batch_stats"])[1]["batch_stats"]


def variance(params, batch, stats):
    """Of the outputs, about 1 with statistics of the weights."""
    out = Normed().apply({"params": params, "batch_stats": stats}, batch, False)
    return {"variance": jnp.sum(out**2), "count": len(batch)}


def test_statistics_are_measured_at_every_point():
    one, other = variables(0.0), variables(np.pi / 2)
    again = lambda params, stats: (flatjax.batch_stats.reestimate(update, params, stats, X),)
    stats = again(one, Normed().init(jax.random.key(0), X[0], True)["batch_stats"])[0]
    found = flatness.barrier(variance, num_points=3, state_fn=again)(one, other, X, stats)
    np.testing.assert_allclose(found.values["variance"], 1, atol=0.05)
    fixed = flatness.barrier(variance, num_points=3)(one, other, X, stats)
    assert fixed.values["variance"][-1] > 5
    soup = flatness.soup(variance, state_fn=again)([one, other], X, stats)
    assert soup.values["variance"] == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(soup.alone["variance"], 1, atol=0.05)
    expected = again(soup.params, stats)[0]
    jax.tree.map(np.testing.assert_allclose, soup.state[0], expected)


def test_a_barrier_compiles_nothing_at_later_calls(caplog):
    eval_fn = lambda params, batch: well(params, batch)  # which no other test has compiled
    measure = flatness.barrier(eval_fn, num_points=3)
    programs = []
    with jax.log_compiles():
        for x in (1.0, 2.0, 3.0):
            caplog.clear()
            measure(at(-1.0), at(x), BATCHES)
            programs.append([r for r in caplog.messages if r.startswith("Compiling")])
    assert programs[0]
    assert programs[1:] == [[], []]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: flatness.soup(None), TypeError, "eval_fn must be a function"),
        (lambda: flatness.soup(well)([], BATCHES), ValueError, "solutions must hold one at least"),
        (
            lambda: flatness.soup(well, greedy="error")([at(1)], BATCHES),
            ValueError,
            "greedy must be a name of eval_fn's values, .*'loss'.*got 'error'",
        ),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
