"""Slices of known functions, and the directions along which they are taken."""

import sys

import chex
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import pytest

from flatjax.flatness import (
    Slice1D,
    Slice2D,
    line,
    plane,
    plot_slice,
    random_direction,
    slice_1d,
    slice_2d,
)

matplotlib.use("Agg")
import matplotlib.pyplot as plt

KEY = jax.random.key(0)


@jax.jit
def convnet_params():
    keys = jax.random.split(jax.random.key(1), 3)
    scale = jnp.geomspace(0.1, 10, 7)
    return {
        "conv": {
            "kernel": scale * jax.random.normal(keys[0], (3, 3, 2, 7)),
            "bias": jax.random.normal(keys[1], (7,)),
        },
        "dense": {"kernel": jax.random.normal(keys[2], (12, 5))},
    }


def test_filters_keep_their_norms():
    params = convnet_params()
    direction = random_direction(params, KEY)
    for layer in ("conv", "dense"):
        one, other = (
            np.asarray(tree[layer]["kernel"]).reshape(-1, tree[layer]["kernel"].shape[-1])
            for tree in (params, direction)
        )
        np.testing.assert_allclose(
            np.linalg.norm(one, axis=0), np.linalg.norm(other, axis=0), rtol=1e-5
        )
        cosines = np.sum(one * other) / np.linalg.norm(one) / np.linalg.norm(other)
        assert abs(cosines) < 0.5
    assert not direction["conv"]["bias"].any()


def test_layers_keep_their_norms():
    params = convnet_params()
    direction = random_direction(params, KEY, normalization="layer")
    norm = lambda tree: jax.tree.map(jnp.linalg.norm, jax.tree.map(jnp.ravel, tree))
    np.testing.assert_allclose(
        norm(params)["conv"]["kernel"], norm(direction)["conv"]["kernel"], rtol=1e-5
    )
    filters = lambda tree: np.linalg.norm(tree["conv"]["kernel"].reshape(-1, 7), axis=0)
    assert filters(direction)[0] > 10 * filters(params)[0]
    assert not direction["conv"]["bias"].any()


@pytest.mark.slow
def test_plain_noise_moves_everything_but_masked_leaves():
    params = {"kernel": jnp.zeros((100, 30)), "bias": jnp.zeros(300), "frozen": jnp.ones((2, 2))}
    mask = {"kernel": True, "bias": True, "frozen": False}
    direction = random_direction(params, KEY, normalization="none", mask=mask)
    assert np.std(direction["kernel"]) == pytest.approx(1, rel=0.1)
    assert np.std(direction["bias"]) == pytest.approx(1, rel=0.2)
    assert not direction["frozen"].any()
    # Leaves do not share their noise, nor do keys.
    assert abs(np.corrcoef(direction["kernel"].ravel()[:300], direction["bias"])[0, 1]) < 0.3
    other = random_direction(params, jax.random.key(1), normalization="none")
    assert abs(np.corrcoef(direction["bias"], other["bias"])[0, 1]) < 0.3


def test_dead_filters_stay_dead():
    params = {"kernel": jnp.ones((4, 3)).at[:, 1].set(0.0)}
    direction = random_direction(params, KEY)["kernel"]
    assert not direction[:, 1].any()
    chex.assert_tree_all_finite(direction)


def relu_network(params, batch):
    hidden = jax.nn.relu(batch @ params["in"] + params["bias"])
    return {"loss": jnp.sum((hidden @ params["out"]) ** 2), "count": len(batch)}


@pytest.mark.slow
def test_filter_normalised_slices_ignore_the_rescaling_of_relu_layers():
    keys = jax.random.split(jax.random.key(1), 4)
    params = {
        "in": jax.random.normal(keys[0], (5, 16)),
        "bias": jax.random.normal(keys[1], (16,)),
        "out": jax.random.normal(keys[2], (16, 3)),
    }
    rescaled = {"in": 8 * params["in"], "bias": 8 * params["bias"], "out": params["out"] / 8}
    batches = [jax.random.normal(keys[3], (50, 5))]
    measure = slice_1d(relu_network, np.linspace(-1, 1, 5))

    def curves(normalization):
        for p in (params, rescaled):
            direction = random_direction(p, KEY, normalization=normalization)
            yield measure(p, direction, batches).values["loss"]

    np.testing.assert_array_equal(*curves("filter"))
    np.testing.assert_array_equal(*curves("layer"))
    one, other = curves("none")
    assert one[2] == other[2]
    assert np.abs(one / other - 1).max() > 0.1


@pytest.fixture
def solutions():
    keys = jax.random.split(KEY, 6)
    return [
        {"a": jax.random.normal(keys[2 * i], (5, 3)), "b": jax.random.normal(keys[2 * i + 1], (4,))}
        for i in range(3)
    ]


def distance(one, other):
    return float(optax.tree.norm(optax.tree.sub(one, other)))


def test_the_coordinates_of_a_line_are_distances(solutions):
    start, end, _ = solutions
    found = line(start, end)
    assert float(optax.tree.norm(found.direction)) == pytest.approx(1, rel=1e-6)
    np.testing.assert_allclose(found.coordinates, [0, distance(start, end)], rtol=1e-6)
    there = optax.tree.add_scale(found.origin, found.coordinates[1], found.direction)
    assert distance(there, end) < 1e-5


def at(found, coordinates):
    point = found.origin
    for coordinate, direction in zip(coordinates, found.directions, strict=True):
        point = optax.tree.add_scale(point, coordinate, direction)
    return point


def test_the_coordinates_of_a_plane_are_distances(solutions):
    found = plane(*solutions)
    for i, solution in enumerate(solutions):
        assert distance(at(found, found.coordinates[i]), solution) < 1e-5
        for j, other in enumerate(solutions):
            in_plane = np.linalg.norm(found.coordinates[i] - found.coordinates[j])
            assert in_plane == pytest.approx(distance(solution, other), abs=1e-5)
    first, second = found.directions
    assert abs(optax.tree.vdot(first, second)) < 1e-6
    assert found.coordinates[1, 1] == 0
    assert found.coordinates[2, 1] > 0


def test_a_plane_through_points_almost_on_a_line(solutions):
    p0, p1, p2 = solutions
    near = optax.tree.add_scale(optax.tree.add_scale(p0, 0.5, optax.tree.sub(p1, p0)), 1e-3, p2)
    found = plane(p0, p1, near)
    assert abs(optax.tree.vdot(*found.directions)) < 1e-6
    assert distance(at(found, found.coordinates[2]), near) < 1e-5


def test_no_line_and_no_plane(solutions):
    p0, p1, _ = solutions
    with pytest.raises(ValueError, match="start and end"):
        line(p0, p0)
    with pytest.raises(ValueError, match="one line"):
        plane(p0, p1, optax.tree.add_scale(p0, 0.7, optax.tree.sub(p1, p0)))
    with pytest.raises(ValueError, match="one line"):
        plane(p0, p0, p1)
    with pytest.raises(ValueError, match="same structure"):
        line(p0, {"a": p0["a"]})
    with pytest.raises(ValueError, match="same structure"):
        plane(p0, p1, {"a": p0["a"], "b": jnp.ones(3)})


def quartic(params, batch, shift):
    """Over batches of weights 1 and 0: the mean of (batch + w_0 + 2 w_1)^4, and of w_1."""
    value = batch["x"] + params["w"][0] + 2 * params["w"][1] + shift
    weight = batch["weight"]
    return {
        "loss": weight @ value**4,
        "last": weight.sum() * params["w"][1],
        "count": weight.sum(),
    }


BATCHES = [
    {"x": jnp.array([1.0, 2.0]), "weight": jnp.array([1.0, 1.0])},
    {"x": jnp.array([3.0, 9.0]), "weight": jnp.array([1.0, 0.0])},
]
ORIGIN = {"w": jnp.array([0.5, -0.25])}
DIRECTIONS = ({"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([1.0, -1.0])})


def exact(x, y, shift=0.0):
    value = np.array([1.0, 2.0, 3.0]) + 0.5 + x + y + 2 * (-0.25 - y) + shift
    return np.mean(value**4)


def test_slices_are_means_over_the_examples():
    x, y = np.linspace(-1, 2, 4), np.array([-1.0, 0.5])
    found = slice_1d(quartic, x)(ORIGIN, DIRECTIONS[0], BATCHES, jnp.array(0.3))
    np.testing.assert_array_equal(found.x, x)
    expected = [exact(a, 0, 0.3) for a in x]
    np.testing.assert_allclose(found.values["loss"], expected, rtol=1e-5)

    found = slice_2d(quartic, x, y)(ORIGIN, DIRECTIONS, BATCHES, jnp.array(0.0))
    assert found.values["loss"].shape == (2, 4)
    np.testing.assert_allclose(
        found.values["loss"], [[exact(a, b) for a in x] for b in y], rtol=1e-5
    )
    expected = np.broadcast_to(-0.25 - y[:, None], (2, 4))
    np.testing.assert_allclose(found.values["last"], expected, rtol=1e-6)


def test_state_may_follow_the_point():
    """What the first weight adds, the state takes away."""
    measure = slice_1d(
        quartic, [-1.0, 0.0, 2.0], state_fn=lambda params, shift: (shift - params["w"][0],)
    )
    found = measure(ORIGIN, DIRECTIONS[0], BATCHES, jnp.array(0.5))
    np.testing.assert_allclose(found.values["loss"], [exact(0, 0)] * 3, rtol=1e-5)


def test_nothing_is_recompiled_between_points_or_solutions():
    @chex.assert_max_traces(n=1)
    def eval_fn(params, batch):
        return {"loss": jnp.sum(params["w"] ** 2) * len(batch), "count": len(batch)}

    measure = slice_2d(eval_fn, [0.0, 1.0], [0.0, 1.0, 2.0])
    measure(ORIGIN, DIRECTIONS, [jnp.zeros(2)] * 2)
    measure(optax.tree.scale(2.0, ORIGIN), DIRECTIONS[::-1], [jnp.zeros(2)] * 2)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="x must"):
        slice_1d(quartic, [])
    with pytest.raises(ValueError, match="y must"):
        slice_2d(quartic, [0.0], np.zeros((2, 2)))
    with pytest.raises(ValueError, match="batches"):
        slice_1d(quartic, [0.0])(ORIGIN, DIRECTIONS[0], [])
    with pytest.raises(ValueError, match="directions"):
        slice_2d(quartic, [0.0], [0.0])(ORIGIN, DIRECTIONS[:1], BATCHES, 0.0)
    with pytest.raises(ValueError, match="normalization"):
        random_direction(ORIGIN, KEY, normalization="batch")


@pytest.fixture
def found_1d():
    x = np.linspace(-1, 1, 11)
    return Slice1D(x, {"loss": x**2 + 0.1, "error": np.abs(x)})


@pytest.fixture
def found_2d():
    x, y = np.linspace(-1, 1, 11), np.linspace(-2, 2, 9)
    return Slice2D(x, y, {"loss": 0.1 + x**2 + y[:, None] ** 2})


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_curves(found_1d):
    ax = plot_slice(found_1d, "error", points=[-1.0, 0.25], labels=["SGD", ""], color="red")
    curve, marks = ax.lines
    np.testing.assert_array_equal(
        curve.get_xydata(), np.column_stack([found_1d.x, abs(found_1d.x)])
    )
    assert curve.get_color() == "red"
    np.testing.assert_allclose(marks.get_xydata(), [[-1, 1], [0.25, 0.25]], atol=0.01)
    assert [text.get_text() for text in ax.texts] == ["SGD"]
    assert plot_slice(found_1d, ax=ax, log=True) is ax
    assert len(ax.lines) == 3  # no second set of marks
    assert ax.get_yscale() == "log"


@pytest.mark.parametrize("log", [False, True])
def test_contours(found_2d, log):
    points = [[0, 0], [0.5, -1], [-0.5, 1]]
    ax = plot_slice(found_2d, points=points, labels=["a", "b", "c"], log=log, levels=[0.5, 1, 3])
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), points)
    assert len(ax.texts) == 3
    filled = ax.collections[0]
    np.testing.assert_array_equal(filled.levels, [0.5, 1, 3])
    assert isinstance(filled.norm, matplotlib.colors.LogNorm) == log
    assert ax.get_aspect() == 1
    ax.figure.canvas.draw()
    levels = plot_slice(found_2d, log=log).collections[0].levels
    assert len(levels) > 8
    assert np.allclose(np.diff(np.log(levels) if log else levels, n=2), 0, atol=1e-6)


def test_values_of_zero_are_blank_on_a_logarithmic_scale(found_2d):
    found_2d.values["loss"][0, 0] = 0.0
    found_2d.values["loss"][1, 1] = np.nan
    plot_slice(found_2d, log=True).figure.canvas.draw()


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("kind", ["infinite", "constant", "zeros", "one positive"])
def test_slices_of_unusual_values_are_drawn(found_1d, found_2d, kind, log):
    partly_infinite = np.array(found_2d.values["loss"])
    partly_infinite[3:, -3:] = partly_infinite[0, :2] = np.inf
    values = {
        "infinite": partly_infinite,
        "constant": np.full((9, 11), 2.5),
        "zeros": np.zeros((9, 11)),
        "one positive": np.eye(9, 11, k=10),
    }[kind]
    curve = Slice1D(found_1d.x, {"loss": values[0]})
    for found in (curve, found_2d._replace(values={"loss": values})):
        if kind == "zeros" and log:
            with pytest.raises(ValueError, match=r"'loss' to draw, got none .*log=False"):
                plot_slice(found, log=log)
        else:
            plot_slice(found, log=log).figure.canvas.draw()


def test_bad_plots_are_named(found_1d, found_2d, monkeypatch):
    with pytest.raises(ValueError, match="name"):
        plot_slice(found_1d, "accuracy")
    with pytest.raises(ValueError, match="points"):
        plot_slice(found_2d, points=[0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="labels"):
        plot_slice(found_2d, points=[[0.0, 1.0]], labels=["a", "b"])
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"flatjax\[report\]"):
        plot_slice(found_1d)
