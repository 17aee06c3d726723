"""What every measure takes: dtypes, kinds of leaves, masks, batches and keys; and what it refuses.

Every test runs over all measures. `MEASURES` has a function for each of them,
`make(eval_fn, mask) -> (measure of (params, batches, key) -> numbers)`, at its smallest size.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flatjax
from flatjax import flatness


def eval_fn(params, batch):
    """A parabola of the weights; other leaves must be as they were."""
    square = jnp.sum(params["w"] ** 2) + 3 * params["b"] ** 2
    unmoved = params.get("count", COUNT) == COUNT
    loss = 0.5 * jnp.sum(batch) * jnp.where(unmoved, square, jnp.nan)
    return {"loss": loss, "count": len(batch)}


COUNT = 2**25 + 1  # no float32
# Numbers that half precision holds, so that only rounding of perturbations can do harm.
PARAMS = {"w": jnp.array([[1.0, -0.5], [2.0, 0.25]]), "b": jnp.array(1.5)}
BATCHES = [jnp.array([1.0, 3.0]), jnp.array([2.0])]
KEY = jax.random.key(0)


def of_noise(eval_fn, mask):
    measure = flatness.local_energy(
        eval_fn, sigmas=[1e-3], num_samples=4, antithetic=True, mask=mask
    )
    return lambda *given: measure(*given).mean["loss"]


def of_pac_bayes(eval_fn, mask):
    measure = flatness.pac_bayes_sigma(
        eval_fn, target_rise=1e-4, quantity="loss", num_samples=2, rtol=0.5, mask=mask
    )
    return lambda *given: measure(*given).sigmas


def of_sam(eval_fn, mask):
    measure = flatness.sam_sharpness(eval_fn, rho=1e-2, mask=mask)
    return lambda params, batches, key: measure(params, batches).rise["loss"]


def of_worst_case(eval_fn, mask):
    measure = flatness.worst_case_sharpness(eval_fn, rho=1e-2, steps=1, mask=mask)
    return lambda *given: measure(*given).rise["loss"]


def of_hessian(make, read):
    def measure(eval_fn, mask):
        measure = make(flatness.hessian_operator(eval_fn, mask=mask))
        return lambda *given: read(measure(*given))

    return measure


def of_local_entropy(eval_fn, mask):
    measure = flatness.local_entropy(
        eval_fn, distances=[1e-3], betas=[1.0], quantity="loss", mask=mask, **SHORT
    )
    return lambda *given: measure(*given).mean_energy


def of_learning_coefficient(eval_fn, mask):
    measure = flatness.learning_coefficient(
        eval_fn, beta=1.0, mask=mask, step_size=1e-3, num_chains=2, num_steps=10, num_warmup=10
    )

    def read(*given):  # the solution's part, since chains depend on the order of batches
        found = measure(*given)
        return np.array([found.loss, float(np.isfinite(found.trace).all())])

    return read


def of_log_fraction(eval_fn, mask):
    measure = flatness.log_fraction_direct(
        eval_fn, distances=[1e-3], quantity="loss", mask=mask, num_samples=4, num_parallel=4
    )
    return lambda *given: measure(*given).energy


def of_slices(eval_fn, mask):
    one = flatness.slice_1d(eval_fn, [0.0, 1e-3])
    two = flatness.slice_2d(eval_fn, [1e-3], [1e-3])

    def measure(params, batches, key):
        direction = flatness.random_direction(params, key, normalization="none", mask=mask)
        along = one(params, direction, batches).values["loss"]
        across = two(params, (direction, direction), batches).values["loss"]
        return np.append(along, across)

    return measure


SHORT = {"num_chains": 2, "num_steps": 10, "num_warmup": 1}
MEASURES = {
    "local_energy": of_noise,
    "pac_bayes": of_pac_bayes,
    "sam": of_sam,
    "worst_case": of_worst_case,
    "eigenvalues": of_hessian(
        lambda of: flatness.top_eigenvalues(of, num_matvecs=3), lambda found: found.values
    ),
    "trace": of_hessian(lambda of: flatness.trace(of, num_samples=2), lambda found: found.mean),
    "density": of_hessian(
        lambda of: flatness.spectral_density(of, num_matvecs=3, num_samples=2),
        lambda found: found.nodes,
    ),
    "local_entropy": of_local_entropy,
    "learning_coefficient": of_learning_coefficient,
    "log_fraction": of_log_fraction,
    "slices": of_slices,
}
WITH_KEY = [name for name in MEASURES if name != "sam"]
every = pytest.mark.parametrize("name", MEASURES)


@functools.cache
def plain(name):
    return MEASURES[name](eval_fn, None)


@functools.cache
def expected(name):
    return plain(name)(PARAMS, BATCHES, KEY)


def check(name, found, rtol=1e-5):
    assert np.all(np.isfinite(found))
    assert np.any(np.asarray(found) != 0)
    np.testing.assert_allclose(found, expected(name), rtol=rtol, atol=1e-9)


# --- parameters -----------------------------------------------------------------------------------


@every
def test_half_precision_is_measured_as_float32(name):
    for dtype in (jnp.bfloat16, jnp.float16):
        half = jax.tree.map(lambda w, dtype=dtype: w.astype(dtype), PARAMS)
        check(name, plain(name)(half, BATCHES, KEY))


@every
def test_what_is_no_weight_never_moves(name):
    others = {"count": jnp.int32(COUNT), "flag": True, "key": jax.random.key(5), "none": None}
    given = PARAMS | others | {"b": 1.5}  # a Python float is a weight
    check(name, plain(name)(given, BATCHES, KEY), rtol=1e-4)


@every
def test_masked_leaves_may_be_of_any_kind(name):
    given = PARAMS | {"count": COUNT, "z": jnp.array([1j]), "key": jax.random.key(5)}
    mask = {"w": True, "b": True, "count": True, "z": False, "key": False}
    for one in (mask, lambda params: mask):
        check(name, MEASURES[name](eval_fn, one)(given, BATCHES, KEY), rtol=1e-4)
        if name in ("local_entropy", "density"):
            break  # the others have shown it, and faster


@every
def test_complex_weights_are_refused_by_name(name):
    with pytest.raises(TypeError, match=r"\['z'\] must be real, got complex64.*imaginary"):
        plain(name)(PARAMS | {"z": jnp.array([1j])}, BATCHES, KEY)


# --- batches --------------------------------------------------------------------------------------


class Loader:
    """Iterable again and again."""

    def __iter__(self):
        return iter(BATCHES)


class SizedLoader(Loader):
    """With a length, as PyTorch's have it."""

    def __len__(self):
        return len(BATCHES)


class OldLoader:
    """Iterable by its items."""

    def __getitem__(self, index):
        return BATCHES[index]


KINDS = [tuple(BATCHES), Loader(), SizedLoader(), OldLoader(), lambda: BATCHES, Loader().__iter__]


@every
def test_all_kinds_of_batches(name):
    for batches in KINDS:
        check(name, plain(name)(PARAMS, batches, KEY), rtol=1e-4)
        if name == "local_entropy" and batches is not KINDS[0]:
            break  # a loop of steps in Python


NO_BATCHES = [
    (jnp.ones(3), r"float32\(3,\)"),
    ({"image": jnp.ones(3)}, "a mapping of"),
    ((jnp.ones((3, 2)), jnp.ones(3)), r"a tuple of float32\(3, 2\), float32\(3,\)"),
    ([np.ones((3, 2)), np.ones(3, int)], "a list of"),
    (3, "list of batches.*got 3"),
    (lambda: 3, "list of batches.*returned 3"),
    (iter(()), "iterator"),
    (lambda: iter(()), "at least one.*used up"),
    ([], "at least one"),
]


@every
def test_what_are_no_batches_is_refused_by_name(name):
    for batches, named in NO_BATCHES:
        with pytest.raises((TypeError, ValueError), match=f"(?s)batches must.*{named}"):
            plain(name)(PARAMS, batches, KEY)


@every
def test_an_iterator_is_not_continued(name):
    """The shapes of a first batch would be taken from one pass, and the sums from the rest."""
    once = iter(BATCHES * 100)
    if name == "local_energy":  # one pass is enough
        check(name, plain(name)(PARAMS, lambda: once, KEY), rtol=1e-3)
    with pytest.raises(ValueError, match=r"batches must .*(one iterator twice|used up)"):
        plain(name)(PARAMS, lambda: once, KEY)


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_KEY)
def test_all_kinds_of_keys(name):
    for key in (0, np.int64(0), jax.random.PRNGKey(0)):
        check(name, plain(name)(PARAMS, BATCHES, key))
    if name in ("local_energy", "trace"):
        measure = functools.partial(flatness.local_energy(eval_fn, num_samples=2), PARAMS, BATCHES)
        assert np.any(measure(2**40).mean["loss"] != measure(0).mean["loss"])


@pytest.mark.parametrize("name", WITH_KEY)
def test_what_is_no_key_is_refused_by_name(name):
    for key in (None, 0.5, PARAMS, jax.random.split(KEY)):
        with pytest.raises((TypeError, ValueError), match=r"\bkey must be"):
            plain(name)(PARAMS, BATCHES, key)


# --- the order of arguments, and eval_fn ----------------------------------------------------------


@every
def test_parameters_without_weights_are_refused_by_name(name):
    for params in (KEY, {"n": 3}, None, BATCHES[:0]):
        with pytest.raises(TypeError, match="params must be a pytree with weights"):
            plain(name)(params, BATCHES, KEY)


@every
def test_what_is_no_eval_fn_is_refused_by_name(name):
    with pytest.raises(TypeError, match="eval_fn must be a function"):
        MEASURES[name](PARAMS, None)
    wrong = [
        (lambda params, batch: jnp.sum(params["w"] ** 2), "eval_fn must return a dict of sums"),
        (lambda params, batch: {"loss": jnp.sum(params["w"] ** 2)}, "eval_fn must .* 'count'"),
    ]
    for wrong_fn, named in wrong:
        with pytest.raises((TypeError, ValueError), match=named):
            MEASURES[name](wrong_fn, None)(PARAMS, BATCHES, KEY)


@pytest.mark.parametrize(
    "measure", [flatness.top_eigenvalues, flatness.trace, flatness.spectral_density]
)
def test_an_eval_fn_is_no_operator(measure):
    for no_operator in (eval_fn, lambda params, batches: {"loss": 1.0, "count": 1}):
        with pytest.raises(TypeError, match=r"operator_fn must .*hessian_operator\(eval_fn\)"):
            measure(no_operator)(PARAMS, BATCHES, KEY)


def test_the_order_of_arguments_of_a_random_direction():
    with pytest.raises(TypeError, match="params must be"):
        flatness.random_direction(KEY, PARAMS)
    with pytest.raises(TypeError, match="key must be"):
        flatness.random_direction(PARAMS, PARAMS)


# --- directions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_directions_and_distances_are_of_float32(dtype):
    """In float16 the square of a distance of 300 is infinite."""
    points = [jnp.array(p, dtype) for p in ([0.0, 0.0, 0.0], [300.0, 0.0, 0.0], [0.0, 400.0, 0.0])]
    found = flatness.line(*points[:2])
    np.testing.assert_array_equal(found.coordinates, [0, 300])
    found = flatness.plane(*points)
    np.testing.assert_allclose(found.coordinates, [[0, 0], [300, 0], [0, 400]])
    kernel = 300 * jnp.ones((2, 2), dtype)
    direction = flatness.random_direction(kernel, KEY)
    assert direction.dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(direction, axis=0), 300 * np.sqrt(2), rtol=1e-6)


def test_lines_pass_by_what_is_no_weight():
    others = {"count": jnp.int32(COUNT), "flag": True, "key": KEY}
    start, end = {"w": jnp.zeros(2)} | others, {"w": jnp.array([3.0, 4.0])} | others
    found = flatness.line(start, end)
    assert found.coordinates[1] == 5
    assert found.direction["count"] == 0
    with pytest.raises(TypeError, match=r"end\['w'\] must be real"):
        flatness.line(start, end | {"w": jnp.array([1j, 0])})


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_priors_measure_norms_in_float32(dtype):
    weights, noise = jnp.full(4, 300.0, dtype), jnp.array([1.0, -1.0, 1.0, -1.0])
    moved = flatness.priors.relative_sphere(weights, noise, 0.01)
    np.testing.assert_allclose(moved, 300 + 3 * noise, rtol=1e-6)
    chex.assert_trees_all_close(
        flatness.priors.fixed_overlap(0)(weights, noise, 0.5),
        flatness.priors.fixed_overlap(0)(weights.astype(jnp.float32), noise, 0.5),
    )


def test_lanczos_iterates_in_float32():
    spectrum = jnp.linspace(1.0, 2.0, 30)
    found = flatness.lanczos(10)(lambda v: spectrum * v, jnp.ones(30, jnp.bfloat16))
    np.testing.assert_allclose(found.Q_tall @ found.Q_tall.T, np.eye(10), atol=1e-5)
    with pytest.raises(TypeError, match="vector"):
        flatness.lanczos(2)(lambda v: v, jnp.arange(3))


# --- sums -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "local_entropy"])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_sums_of_half_precision_over_many_batches(name, dtype):
    """They overflow in float16 at 65504, and stop to grow in bfloat16 at 256 summands."""

    def in_half(params, batch):
        square = 300 * (jnp.sum(params["w"] ** 2) + 3 * params["b"] ** 2)
        return {"loss": square.astype(dtype), "count": jnp.ones([], dtype)}

    few, many = (MEASURES[name](in_half, None)(PARAMS, BATCHES[:1] * num, KEY) for num in (1, 300))
    assert np.all(np.isfinite(many))
    size = 300 if name == "log_fraction" else 1  # energies are totals, not means
    np.testing.assert_allclose(many, size * np.asarray(few), rtol=1e-5)


def test_counts_beyond_32_bits():
    def in_integers(params, batch):
        return {"error": jnp.int32(135_000_000), "count": jnp.int32(1_350_000_000)}

    found = flatness.local_energy(in_integers, num_samples=2)(PARAMS, [0] * 4, KEY)
    assert found.reference["error"] == 0.1


def test_evaluate_takes_what_measures_take():
    for batches in (BATCHES, iter(BATCHES), *KINDS):
        found = flatjax.evaluate(jax.jit(eval_fn), PARAMS, batches)
        assert found["loss"] == pytest.approx(0.5 * 2 * (5.3125 + 3 * 2.25))
    used_up = iter(())
    for batches, named in [*NO_BATCHES, (used_up, "used up")]:
        if not (hasattr(batches, "__next__") and named == "iterator"):
            with pytest.raises((TypeError, ValueError), match=f"(?s)batches must.*{named}"):
                flatjax.evaluate(eval_fn, PARAMS, batches)
    with pytest.raises(TypeError, match="eval_fn must be a function"):
        flatjax.evaluate(PARAMS, eval_fn, BATCHES)
    with pytest.raises(TypeError, match=r"dict of sums.*n \* mean"):
        flatjax.evaluate(lambda params, batch: jnp.sum(batch), PARAMS, BATCHES)
