"""Expectation propagation: exact where it must be, both spaces, counting, and degenerate data."""

import numpy as np
import pytest
from fast import slow
from test_committee_amp import degenerate, instance, log_fraction
from test_committee_existence import contradictory

from flatjax.committee._amp import amp
from flatjax.committee._expectation_propagation import expectation_propagation


@pytest.mark.slow
def test_one_pattern_halves_the_sphere():
    """At every overlap with a reference that is orthogonal to it; constraints hold on average."""
    x, teacher = np.tile([[1.0, -1.0]], (1, 250)), np.ones((1, 500))
    found = expectation_propagation(x, [1], reference=teacher, overlap=[0.0, 0.9])
    np.testing.assert_allclose(found.phi * 500, np.log(0.5), atol=2e-3)
    square = np.mean(found.variance + found.mean**2, axis=-1)
    np.testing.assert_allclose(square, 1, rtol=1e-6)
    np.testing.assert_allclose(np.mean(found.mean, axis=-1)[:, 0], [0.0, 0.9], atol=1e-10)


@pytest.mark.slow
def test_both_spaces_agree():
    x, y, teacher = instance(0, 30, 20, 3, correlated=True)
    patterns, inputs, auto = (
        expectation_propagation(x, y, reference=teacher, overlap=[0.7, 0.9], space=space)
        for space in ("patterns", "inputs", "auto")
    )
    assert patterns.converged.all()
    np.testing.assert_array_equal(auto.phi, inputs.phi)  # of fewer numbers
    for ours, theirs in zip(patterns, inputs, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [slow(0.95), None])
def test_agrees_with_amp_on_independent_inputs(overlap):
    x, y, teacher = instance(1, 50, 100, 1)
    around = {} if overlap is None else {"reference": teacher, "overlap": overlap}
    found, other = expectation_propagation(x, y, **around), amp(x, y, **around)
    assert found.converged
    assert found.phi == pytest.approx(other.phi, rel=0.02)
    np.testing.assert_allclose(found.mean, other.mean, atol=0.05)


# As for AMP; correlated inputs too, where AMP is off by more than a quarter.
SMALL = [
    (1, 20, 10, False, 0.7, 0.025),
    (1, 20, 10, False, 0.9, 0.03),
    slow(3, 30, 20, False, 0.9, 0.025),
    slow(9, 30, 30, False, 0.9, 0.025),
    slow(3, 30, 20, True, 0.8, 0.06),
]


@pytest.mark.parametrize(
    ("num_units", "num", "num_patterns", "correlated", "overlap", "tolerance"), SMALL
)
def test_against_counting(num_units, num, num_patterns, correlated, overlap, tolerance):
    x, y, teacher = instance(0, num_patterns, num, num_units, correlated)
    expected, standard_error = log_fraction(0, num_patterns, num, num_units, correlated, overlap)
    found = expectation_propagation(x, y, reference=teacher, overlap=overlap)
    assert found.converged
    assert found.phi * teacher.size == pytest.approx(
        expected, abs=3 * standard_error + tolerance * abs(expected)
    )
    if correlated:
        far = amp(x, y, reference=teacher, overlap=overlap).phi * teacher.size
        assert abs(far - expected) > 0.2 * abs(expected)


@pytest.mark.parametrize("space", [slow("patterns"), "inputs"])
def test_degenerate_data(space):
    x, y, teacher = degenerate(30)
    found = expectation_propagation(x, y, reference=teacher, overlap=[0.7, 0.9], space=space)
    assert all(np.all(np.isfinite(values)) for values in found)
    assert found.converged.all()


def test_contradictions_leave_nothing():
    x, y, teacher = contradictory(30)
    found = expectation_propagation(x, y, reference=teacher, overlap=[0.7, 0.9])
    assert np.isnan(found.phi).all()
    assert not found.converged.any()


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="space must be"):
        expectation_propagation(np.eye(3), [1, 1, 1], space="dual")
    with pytest.raises(ValueError, match="y must hold labels"):
        expectation_propagation(np.eye(3), [1, 2, 1])
