"""Local entropy: reference values, limits, identities, and where there is none."""

import jax
import numpy as np
import pytest
from gaussian_mixture_rows import rows

from flatjax import gaussian_mixture as gm
from flatjax.gaussian_mixture import losses

PARAMS = {"alpha": 1.0, "delta": 1.0}


def reference_of(name, selected):
    column = lambda key: np.array([float(row["params"][key]) for row in selected])
    mixture = {"alpha": column("alpha"), "delta": column("Delta")}
    if name == "hebb":
        return gm.hebb_reference(**mixture)
    of_row = lambda row: float(row["params"].get("lam") or row["name"].split("lam=")[1])
    lam = np.array([of_row(row) for row in selected])
    return gm.erm_reference(getattr(losses, name)(), lam=lam, **mixture)


NAMES = {
    "hebb": ["ref=hebb", "FP ref=hebb"],
    "logistic": ["ref=logistic", "FP ref=CE lam=1.0", "FP ref=CE lam=0.1", "FP ref=CE lam=0.01"],
    "hinge": ["ref=hinge"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_reference_values(name):
    selected = rows(3, *NAMES[name])
    assert len(selected) in (2, 21, 54)
    selected = selected[:: 3 if len(selected) == 54 else 1]
    # The training error without any weight on it is that of a vanishing beta.
    beta = [
        1e-9 if row["quantity"] == "err_0" else float(row["params"]["beta"]) for row in selected
    ]
    overlap = np.array([row["params"]["o"] for row in selected])
    found = gm.local_entropy(reference_of(name, selected), overlap=overlap, beta=np.array(beta))
    assert found.converged.all()
    for i, row in enumerate(selected):
        value = found.phi[i] if row["quantity"] == "phi" else found.train_error[i]
        assert value == pytest.approx(row["theory"], abs=row["tol_theory"]), row["params"]


BETA = np.array([1e-6, 0.5 - 1e-4, 0.5, 0.5 + 1e-4, 5.0, 20.0, 40.0, np.inf])
OVERLAP = np.array([0.9, 0.6, 0.3])
MINIMUM = {"lam": 0.1} | PARAMS


@pytest.fixture(scope="module")
def around_hebb():
    """Of the Hebb rule, at three distances, and a grid of temperatures."""
    return gm.local_entropy(gm.hebb_reference(**PARAMS), overlap=OVERLAP[:, None], beta=BETA)


@pytest.fixture(scope="module")
def around_minimum():
    """The same of the minimum of the cross-entropy."""
    reference = gm.erm_reference(losses.logistic(), **MINIMUM)
    return gm.local_entropy(reference, overlap=OVERLAP[:, None], beta=BETA)


@pytest.mark.slow
def test_the_training_error_is_the_derivative_in_beta(around_hebb):
    found = around_hebb
    slope = (found.phi[:, 3] - found.phi[:, 1]) / 2e-4
    np.testing.assert_allclose(-slope, found.train_error[:, 2], rtol=1e-5)


@pytest.mark.slow
def test_it_vanishes_without_weight_and_falls(around_hebb):
    found = around_hebb
    np.testing.assert_allclose(found.phi[:, 0], 0, atol=1e-5)
    assert np.all(np.diff(found.phi, axis=1) < 1e-9)
    np.testing.assert_allclose(found.phi[:, 6], found.phi[:, 7], atol=1e-5)


@pytest.mark.slow
def test_typical_weights_of_no_beta_are_random_at_their_overlap(around_hebb):
    found = around_hebb
    m = OVERLAP / np.sqrt(2)  # that of the Hebb rule is 1 / sqrt(1 + delta / alpha)
    np.testing.assert_allclose(found.m[:, 0], m, atol=1e-5)
    expected = gm.generalization_error(m, 1.0, delta=1.0)
    np.testing.assert_allclose(found.test_error[:, 0], expected, atol=1e-5)


@pytest.mark.slow
def test_curves_cross(around_hebb, around_minimum):
    """Near by, the minimum of the loss has more room; far away, the Bayes-optimal rule."""
    reference = gm.erm_reference(losses.logistic(), **MINIMUM)
    assert reference.test_error > gm.bayes_optimal(**PARAMS).test_error
    difference = around_hebb.phi[:, -1] - around_minimum.phi[:, -1]
    assert difference[0] < -0.1
    assert difference[2] > 0.1


@pytest.mark.slow
def test_a_cold_sample_is_the_minimum(around_minimum):
    cold = gm.gibbs_reference(losses.logistic(), beta=1e5, **MINIMUM)
    minimum = gm.erm_reference(losses.logistic(), **MINIMUM)
    for name in ("m", "q", "test_error", "train_error"):
        assert getattr(cold, name) == pytest.approx(getattr(minimum, name), rel=5e-3), name
    found = gm.local_entropy(cold, overlap=0.6, beta=5.0)
    assert found.converged
    assert found.phi == pytest.approx(around_minimum.phi[1, 4], rel=1e-3)


def test_a_noisy_rule_without_noise_is_the_rule():
    noisy = gm.noisy_hebb_reference(overlap=1.0, **PARAMS)
    best = gm.bayes_optimal(**PARAMS).test_error
    assert noisy.test_error == pytest.approx(best, rel=1e-10)
    errors = gm.noisy_hebb_reference(overlap=np.array([0.9, 0.5]), **PARAMS).test_error
    assert best < errors[0] < errors[1]


@pytest.mark.slow
def test_it_works_under_transformations_without_x64():
    reference = gm.hebb_reference(**PARAMS)
    phi = lambda overlap: gm.local_entropy(reference, overlap=overlap, beta=1.0).phi
    expected = phi(np.array([0.6 - 1e-4, 0.6, 0.6 + 1e-4]))
    slope = jax.jit(jax.grad(phi))(0.6)
    assert slope == pytest.approx((expected[2] - expected[0]) / 2e-4, rel=1e-3)
    assert not jax.config.jax_enable_x64


def test_refuses_parameters_out_of_range():
    reference = gm.hebb_reference(**PARAMS)
    with pytest.raises(ValueError, match="overlap"):
        gm.local_entropy(reference, overlap=1.5)
    with pytest.raises(ValueError, match="beta"):
        gm.local_entropy(reference, overlap=0.5, beta=-1.0)
    with pytest.raises(ValueError, match="overlap"):
        gm.noisy_hebb_reference(overlap=1.5, **PARAMS)
    with pytest.raises(ValueError, match="alpha"):
        gm.hebb_reference(alpha=-1.0, delta=1.0)
