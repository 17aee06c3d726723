"""Curvature against dense matrices and against matfree."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fast import slow
from jax.flatten_util import ravel_pytree
from matfree import decomp, eig, funm

from flatjax.flatness import (
    gauss_newton_operator,
    hessian_operator,
    lanczos,
    spectral_density,
    top_eigenvalues,
    trace,
)

KEY = jax.random.key(0)


def predict(params, batch, shift=0.0):
    hidden = jnp.tanh(batch["x"] @ params["in"]["kernel"] + params["in"]["bias"] + shift)
    return hidden @ params["out"]["kernel"]


def loss_sums(logits, batch):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return {"loss": batch["weight"] @ losses, "count": batch["weight"].sum()}


def eval_fn(params, batch, *state):
    return loss_sums(predict(params, batch, *state), batch)


def mean_loss(params, batches, *state):
    sums = [eval_fn(params, batch, *state) for batch in batches]
    return sum(s["loss"] for s in sums) / sum(s["count"] for s in sums)


@pytest.fixture(scope="module")
def problem():
    """48 weights, 58 examples in three batches of 20."""
    return draw_problem()


@jax.jit
def draw_problem():
    keys = jax.random.split(jax.random.key(1), 5)
    params = {
        "in": {
            "kernel": jax.random.normal(keys[0], (4, 6)),
            "bias": jax.random.normal(keys[1], (6,)),
        },
        "out": {"kernel": jax.random.normal(keys[2], (6, 3))},
    }
    x, label = jax.random.normal(keys[3], (60, 4)), jax.random.randint(keys[4], (60,), 0, 3)
    weight = (jnp.arange(60) < 58).astype(jnp.float32)
    data = {"x": x, "label": label, "weight": weight}
    rows = [slice(start, start + 20) for start in (0, 20, 40)]
    return params, [{name: d[some] for name, d in data.items()} for some in rows]


@pytest.fixture(scope="module")
def dense(problem):
    """The Hessian and the Gauss-Newton matrix, (48, 48) each, without a product in sight."""
    params, batches = problem
    flat, unravel = ravel_pytree(params)
    hessian = jax.jit(jax.hessian(lambda v: mean_loss(unravel(v), batches)))(flat)

    data = jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)
    jacobian = jax.jit(jax.jacobian(lambda v: predict(unravel(v), data)))(flat)
    p = np.asarray(jax.jit(lambda: jax.nn.softmax(predict(params, data)))())
    of_softmax = np.eye(3) * p[:, None] - p[:, :, None] * p[:, None]
    of_outputs = np.asarray(data["weight"])[:, None, None] * of_softmax
    gauss_newton = np.einsum("ikm,ikl,iln->mn", jacobian, of_outputs, jacobian) / 58
    return {"hessian": np.asarray(hessian, float), "gauss newton": np.asarray(gauss_newton, float)}


OPERATORS = {
    "hessian": hessian_operator(eval_fn),
    "gauss newton": gauss_newton_operator(predict, loss_sums),
}
BOTH = pytest.mark.parametrize("kind", OPERATORS)


def flat_matvec(operator):
    _, unravel = ravel_pytree(operator.like)
    return lambda v: ravel_pytree(operator.matvec(unravel(v)))[0]


def materialize(operator):
    size = ravel_pytree(operator.like)[0].size
    matvec = flat_matvec(operator)
    return np.stack([matvec(row) for row in np.eye(size, dtype=np.float32)])


@BOTH
def test_products_are_those_of_the_dense_matrix(problem, dense, kind):
    found = materialize(OPERATORS[kind](*problem))
    assert found.shape == (48, 48)
    np.testing.assert_allclose(found, dense[kind], atol=2e-6 * np.abs(dense[kind]).max())
    assert np.abs(dense["hessian"] - dense["gauss newton"]).max() > 0.01


@BOTH
@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_top_eigenvalues(problem, dense, kind, which):
    found = top_eigenvalues(OPERATORS[kind], num=3, num_matvecs=40, which=which)(*problem, KEY)
    exact = np.linalg.eigvalsh(dense[kind])
    order = {"largest": -exact, "smallest": exact, "magnitude": -np.abs(exact)}[which]
    np.testing.assert_allclose(found.values, exact[np.argsort(order)[:3]], atol=2e-3)
    matrix = dense[kind]
    for index, (value, residual) in enumerate(zip(found.values, found.residuals, strict=True)):
        vector, _ = ravel_pytree(jax.tree.map(lambda v, i=index: v[i], found.vectors))
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        assert np.linalg.norm(matrix @ vector - value * vector) == pytest.approx(residual, abs=5e-6)
        assert residual < 0.05


def test_residuals_measure_the_error_of_too_few_products(problem, dense):
    found = top_eigenvalues(OPERATORS["hessian"], num=2, num_matvecs=6)(*problem, KEY)
    exact = np.linalg.eigvalsh(dense["hessian"])
    distance = np.abs(exact[:, None] - found.values).min(axis=0)
    assert (distance <= found.residuals).all()
    true = [
        np.linalg.norm(dense["hessian"] @ v - value * v)
        for value, v in zip(
            found.values, jax.vmap(lambda v: ravel_pytree(v)[0])(found.vectors), strict=True
        )
    ]
    assert min(true) > 1e-3
    np.testing.assert_allclose(found.residuals, true, rtol=1e-3)


@BOTH
def test_trace(problem, dense, kind):
    found = trace(OPERATORS[kind], num_samples=200)(*problem, KEY)
    matrix = dense[kind]
    beside = np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2)
    np.testing.assert_allclose(found.sem, np.sqrt(2 * beside / 200), rtol=0.25)
    assert abs(found.mean - np.trace(matrix)) < 4 * found.sem
    assert found.sem < 0.15 * np.trace(matrix)


@BOTH
def test_moments_of_the_spectral_density(problem, dense, kind):
    found = spectral_density(OPERATORS[kind], num_matvecs=6, num_samples=30)(*problem, KEY)
    assert found.nodes.shape == found.weights.shape == (30, 6)
    assert found.dimension == 48
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-6)
    for power in (1, 2, 3):
        samples = (found.weights * found.nodes**power).sum(axis=1)
        exact = np.trace(np.linalg.matrix_power(dense[kind], power)) / 48
        sem = samples.std(ddof=1) / np.sqrt(30)
        assert abs(samples.mean() - exact) < 4 * sem
        assert sem < 0.5 * abs(exact)


@pytest.mark.slow
def test_the_smoothed_density(problem, dense):
    measure = spectral_density(
        OPERATORS["hessian"], num_matvecs=40, num_samples=40, width=0.05, num_points=300
    )
    found = measure(*problem, KEY)
    exact = np.linalg.eigvalsh(dense["hessian"])
    assert found.width == pytest.approx(0.05 * np.ptp(exact), rel=1e-3)
    np.testing.assert_allclose(np.trapezoid(found.density, found.grid), 1, rtol=1e-4)
    kernel = np.exp(-0.5 * ((found.grid[:, None] - exact) / found.width) ** 2)
    smooth = kernel.mean(axis=1) / (np.sqrt(2 * np.pi) * found.width)
    deviations = np.abs(found.density - smooth) / (found.sem + 1e-3)
    assert deviations.max() < 5
    assert 0.3 < np.sqrt(np.mean(deviations**2)) < 2


def test_lanczos_is_matfrees(problem):
    operator = OPERATORS["hessian"](*problem)
    start = ravel_pytree(operator.like)[0]
    ours = lanczos(6)(flat_matvec(operator), start)
    matrix = jnp.asarray(materialize(operator))
    theirs = decomp.tridiag_sym(6, reortho="full")(lambda v: matrix @ v, start)
    assert ours._fields == theirs._fields
    for mine, reference in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, reference, atol=1e-4)


@pytest.mark.slow
def test_matfree_takes_it(problem, dense):
    operator = OPERATORS["gauss newton"](*problem)
    start = jax.tree.map(jnp.ones_like, operator.like)
    vector = ravel_pytree(start)[0]
    function = funm.funm_lanczos_sym(funm.dense_funm_sym_eigh(jnp.exp), lanczos(40))
    found, _ = ravel_pytree(function(operator.matvec, start))
    values, vectors = np.linalg.eigh(dense["gauss newton"])
    exact = vectors @ (np.exp(values) * (vectors.T @ vector))
    np.testing.assert_allclose(found, exact, rtol=1e-3)
    found, _ = eig.eigh_partial(lanczos(40))(operator.matvec, start)
    np.testing.assert_allclose(found[-2:], values[-2:], rtol=1e-4)


@pytest.mark.parametrize("loss", ["square", "softmax"])
def test_gauss_newton_is_the_hessian_of_linear_models(problem, loss):
    _, batches = problem
    params = {"w": jax.random.normal(KEY, (4, 3))}

    def linear(params, batch):
        return batch["x"] @ params["w"]

    def square_sums(outputs, batch):
        losses = jnp.sum((outputs - batch["label"][:, None]) ** 2, axis=1)
        return {"loss": batch["weight"] @ losses, "count": batch["weight"].sum()}

    loss_fn = square_sums if loss == "square" else loss_sums
    of_hessian = hessian_operator(lambda params, batch: loss_fn(linear(params, batch), batch))
    of_gauss_newton = gauss_newton_operator(linear, loss_fn)
    one, other = (materialize(o(params, batches)) for o in (of_hessian, of_gauss_newton))
    assert np.abs(one).max() > 0.1
    np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [slow("hessian"), "gauss newton"])
def test_masked_leaves_leave_the_matrix(problem, dense, kind):
    mask = {"in": {"kernel": True, "bias": False}, "out": False}
    operator_fn = (
        hessian_operator(eval_fn, mask=mask)
        if kind == "hessian"
        else gauss_newton_operator(predict, loss_sums, mask=lambda params: mask)
    )
    rows, _ = ravel_pytree(jax.tree.map(lambda w: jnp.zeros(w.shape, bool), problem[0]))
    rows = np.asarray(rows).copy()
    rows[6:30] = True  # in/bias comes before in/kernel
    block = dense[kind][np.ix_(rows, rows)]
    np.testing.assert_allclose(materialize(operator_fn(*problem)), block, atol=1e-5)

    found = top_eigenvalues(operator_fn, num=2, num_matvecs=30)(*problem, KEY)
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(block)[:-3:-1], rtol=1e-4)
    chex.assert_trees_all_equal_shapes(
        found.vectors, jax.tree.map(lambda w: jnp.stack([w, w]), problem[0])
    )
    assert not found.vectors["in"]["bias"].any()
    assert not found.vectors["out"]["kernel"].any()
    # With as many steps as rows, all nodes are eigenvalues.
    density = spectral_density(operator_fn, num_matvecs=100, num_samples=2)(*problem, KEY)
    assert density.dimension == 24
    np.testing.assert_allclose(density.nodes, [np.linalg.eigvalsh(block)] * 2, atol=1e-4)


def test_state_is_passed_on_and_nothing_is_recompiled_for_other_solutions(problem):
    params, batches = problem
    # One for products, and two to check that it returns sums.
    operator_fn = hessian_operator(chex.assert_max_traces(eval_fn, n=3))
    measure = top_eigenvalues(operator_fn, num_matvecs=40)
    first = measure(params, batches, KEY, jnp.array(0.0))
    trace(operator_fn, num_samples=2)(params, batches, KEY, jnp.array(0.0))
    second = measure(optax.tree.scale(2.0, params), batches, KEY, jnp.array(0.5))
    assert abs(first.values[0] - second.values[0]) > 1e-3
    # A shift of the units is one of their biases.
    shifted = params | {"in": params["in"] | {"bias": params["in"]["bias"] - 0.5}}
    same = measure(shifted, batches, KEY, jnp.array(0.5))
    np.testing.assert_allclose(same.values, first.values, rtol=1e-4)


def test_half_precision_weights_have_vectors_of_float32(problem):
    params, batches = problem
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
    measure = top_eigenvalues(OPERATORS["hessian"], num_matvecs=40)
    found, full = (measure(p, batches, KEY) for p in (half, params))
    np.testing.assert_allclose(found.values, full.values, rtol=0.05)


@pytest.mark.parametrize(
    ("measure", "arguments", "named"),
    [
        (top_eigenvalues, {"num": 0}, "num"),
        (top_eigenvalues, {"num": 5, "num_matvecs": 4}, "num_matvecs"),
        (top_eigenvalues, {"which": "LM"}, "which"),
        (trace, {"num_samples": 1}, "num_samples"),
        (spectral_density, {"num_matvecs": 0}, "num_matvecs"),
        (spectral_density, {"num_samples": 1}, "num_samples"),
        (spectral_density, {"num_points": 1}, "num_points"),
        (spectral_density, {"width": 0.0}, "width"),
    ],
)
def test_bad_arguments_are_named(measure, arguments, named):
    with pytest.raises(ValueError, match=named):
        measure(OPERATORS["hessian"], **arguments)


def test_bad_data_are_named(problem):
    params, batches = problem
    with pytest.raises(ValueError, match="batches"):
        trace(OPERATORS["hessian"])(params, [], KEY)
    with pytest.raises(ValueError, match="nll"):
        hessian_operator(eval_fn, quantity="nll")(params, batches)
