"""Barriers between solutions and paths of training; pictures of single results."""

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from test_result_tables import ENERGY, ENTROPY, STACKED

from flatjax import flatness

matplotlib.use("Agg")
from matplotlib import pyplot as plt

BATCHES = [jnp.ones(2), jnp.ones(1)]


def double_well(params, batch, *state):
    """Minima at w = (-1, 0) and (1, 0); a state shifts them apart along the other axis."""
    shift = state[0] if state else 0.0
    loss = (params["w"][0] ** 2 - 1) ** 2 + (params["w"][1] - shift) ** 2
    return {"loss": len(batch) * loss, "slope": len(batch) * params["w"][0], "count": len(batch)}


def at(*w):
    return {"w": jnp.array(w), "step": jnp.int32(3)}


# --- barriers -------------------------------------------------------------------------------------


def test_the_barrier_of_a_double_well():
    found = flatness.barrier(double_well, num_points=5)(at(-1.0, 0.0), at(1.0, 0.0), BATCHES)
    np.testing.assert_allclose(found.t, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(found.values["loss"], [0, 0.5625, 1, 0.5625, 0], atol=1e-6)
    assert found.height["loss"] == pytest.approx(1.0)
    assert found.height["slope"] == pytest.approx(0.0, abs=1e-6)  # linear: no barrier
    assert found.distance == pytest.approx(2.0)


def test_a_barrier_is_above_the_line_between_ends_of_different_height():
    found = flatness.barrier(double_well, num_points=21)(at(-1.0, 2.0), at(1.0, 0.0), BATCHES)
    first, second = 4.0, 0.0
    t = np.linspace(0, 1, 21)
    values = ((2 * t - 1) ** 2 - 1) ** 2 + 4 * (1 - t) ** 2
    expected = np.max(values - (1 - t) * first - t * second)
    assert found.height["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_barrier_with_a_state_of_each_point():
    """Batch statistics of each point, say: here the shift that makes the second term zero."""
    own = lambda params, *state: (params["w"][1],)
    found = flatness.barrier(double_well, num_points=3, state_fn=own)
    found = found(at(-1.0, 2.0), at(1.0, 0.0), BATCHES, jnp.array(0.0))
    np.testing.assert_allclose(found.values["loss"], [0, 1, 0], atol=1e-6)


# --- trajectories ---------------------------------------------------------------------------------


def path(num=6, size=4):
    """A spiral in a plane of weight space, with a counter that is no weight."""
    angle = np.linspace(0, 3, num)
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(size, 2)))[0]
    points = (np.exp(-angle) * np.stack([np.cos(angle), np.sin(angle)])).T @ basis.T + 1
    return [{"w": jnp.array(p, jnp.float32), "step": jnp.int32(3)} for p in points]


def test_a_path_in_a_plane_is_found_whole():
    checkpoints = path()
    found = flatness.trajectory(checkpoints)
    assert found.explained.sum() == pytest.approx(1.0, abs=1e-5)
    first, second = (d["w"] for d in found.directions)
    gram = np.array([[first @ first, first @ second], [second @ first, second @ second]])
    np.testing.assert_allclose(gram, np.eye(2), atol=1e-4)
    for point, (x, y) in zip(checkpoints, found.coordinates, strict=True):
        np.testing.assert_allclose(
            found.origin["w"] + x * first + y * second, point["w"], atol=1e-4
        )
    assert int(found.directions[0]["step"]) == 0
    np.testing.assert_allclose(found.coordinates[-1], 0, atol=1e-6)


def test_leading_directions_are_those_of_the_singular_values():
    points = np.random.default_rng(1).normal(size=(5, 7))
    found = flatness.trajectory([{"w": jnp.array(p, jnp.float32)} for p in points])
    values = np.linalg.svd(points - points[-1], compute_uv=False)
    np.testing.assert_allclose(found.explained, values[:2] ** 2 / (values**2).sum(), rtol=1e-4)


def test_a_second_direction_of_a_small_share_is_right():
    """In single precision its norm was 0.7 for a share of 1e-6, and a line was a plane."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(20_000, 2)))[0]
    along = np.linspace(1, 0, 8)
    make = lambda height: [
        jnp.array(basis @ [x, height * np.sin(7 * x)], jnp.float32) for x in along
    ]
    points = make(1e-3)
    found = flatness.trajectory(points)
    directions = np.array(found.directions, float)
    np.testing.assert_allclose(directions @ directions.T, np.eye(2), atol=1e-6)
    steps = np.array(points, float) - np.array(points[-1], float)
    np.testing.assert_allclose(steps @ directions.T, found.coordinates, atol=1e-7)
    assert found.explained[1] == pytest.approx(1.2e-6, rel=0.1)
    with pytest.raises(ValueError, match="must not lie on one line"):
        flatness.trajectory(make(0.0))


def test_what_makes_no_path_is_refused_by_name():
    with pytest.raises(ValueError, match="three at least, got 2"):
        flatness.trajectory(path()[:2])
    with pytest.raises(ValueError, match="must not lie on one line"):
        flatness.trajectory([jnp.array([t, 2 * t]) for t in (0.0, 1.0, 3.0)])
    with pytest.raises(ValueError, match="same structure"):
        flatness.trajectory([jnp.ones(2), jnp.ones(2), jnp.ones(3)])
    with pytest.raises(ValueError, match="must be finite, got NaN or infinity in number 1"):
        flatness.trajectory([jnp.ones(2), jnp.array([1.0, jnp.inf]), jnp.zeros(2)])
    with pytest.raises(ValueError, match="num_points"):
        flatness.barrier(double_well, num_points=2)
    with pytest.raises(ValueError, match="name must be one of"):
        flatness.barrier(double_well)(at(0.0, 1.0), at(1.0, 1.0), BATCHES).plot("error")


# --- pictures -------------------------------------------------------------------------------------

DENSITY = flatness.SpectralDensity(
    *(np.ones((2, 3)), np.full((2, 3), 1 / 3)),
    *(np.linspace(-1, 4, 20), np.exp(-(np.linspace(-1, 4, 20) ** 2)), np.full(20, 0.01)),
    *(0.1, 100),
)
PICTURES = {
    "local energy": (lambda ax: ENERGY.plot("loss", ax), "σ", "rise of the loss", 1),
    "of two": (lambda ax: STACKED.plot(ax=ax, label="SGD"), "σ", "rise of the error", 2),
    "local entropy": (
        lambda ax: flatness.LocalEntropy(**ENTROPY).plot(ax),
        "unit of the prior",
        "nats per weight",
        3,
    ),
    "density": (lambda ax: DENSITY.plot(ax), "λ", "ρ(λ)", 3),
    "barrier": (
        lambda ax: flatness.barrier(double_well, num_points=3)(
            at(-1.0, 0.0), at(1.0, 0.0), BATCHES
        ).plot(ax=ax),
        "t, weights",
        "loss",
        2,
    ),
    "path": (lambda ax: flatness.trajectory(path()).plot(ax), "e₁", "e₂", 2),
    "slice": (
        lambda ax: flatness.plot_slice(flatness.Slice1D(np.arange(2), {"loss": np.ones(2)}), ax=ax),
        "length of d",
        "loss",
        1,
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_name_their_axes_and_curves(name):
    draw, x, y, curves = PICTURES[name]
    given = plt.figure().add_subplot()
    ax = draw(given)
    assert ax is given
    assert x in ax.get_xlabel()
    assert y in ax.get_ylabel()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(labels) == curves
    assert all(labels)
    ax.figure.canvas.draw()
    plt.close(ax.figure)


def test_a_path_is_drawn_over_a_slice_of_its_plane():
    found = flatness.trajectory(path())
    grid = np.linspace(-2, 2, 3)
    loss = lambda params, batch: {"loss": jnp.sum(params["w"] ** 2), "count": 1}
    plane = flatness.slice_2d(loss, grid, grid)(found.origin, found.directions, BATCHES)
    ax = flatness.plot_slice(plane)
    assert found.plot(ax) is ax
    assert "% of the path" in ax.get_xlabel()
    plt.close(ax.figure)
    assert jax.tree.structure(found.origin) == jax.tree.structure(path()[0])
