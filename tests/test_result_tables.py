"""Every result of a measure prints as a table, not as arrays of draws."""

import inspect

import numpy as np
import pytest

from flatjax import flatness
from flatjax.flatness import _tables

DRAWS = np.random.default_rng(0).normal(size=(2, 30))
REFERENCE = {"error": np.array(0.1), "loss": np.array(0.5)}
RISE = {"error": np.array(0.25), "loss": np.array(1.5)}
RISES = {name: np.array([0.25, 1.5]) for name in REFERENCE}
TWO = np.array([0.5, 0.25])
ENERGY = flatness.LocalEnergy(
    sigma=np.array([0.1, 0.3]),
    mean=RISES,
    sem={name: np.array([0.01, 0.02]) for name in REFERENCE},
    reference=REFERENCE,
    draws=dict.fromkeys(REFERENCE, DRAWS),
    num_samples=np.array([30, 30]),
    target_met=None,
    antithetic=False,
    key=np.zeros(2, np.uint32),
)
stack = lambda values: {name: np.stack([value, 2 * value]) for name, value in values.items()}
STACKED = ENERGY._replace(
    mean=stack(ENERGY.mean), sem=stack(ENERGY.sem), reference=stack(REFERENCE)
)
ENTROPY = dict.fromkeys(flatness.LocalEntropy._fields, np.zeros((2, 3))) | {
    "distance": np.array([0.1, 0.3]),
    "beta": np.array([0.0, 1.0, 2.0]),
    "log_volume": np.full((2, 3), -1.25),
    "log_volume_sem": np.full((2, 3), 0.25),
    "log_fraction": TWO,
    "log_fraction_sem": TWO,
    "num_weights": 10,
    "reference": 3.0,
    "converged": np.array([True, False]),
}
CHAINS = {"log_fraction": None, "log_fraction_sem": None}
# Each result with what must be in its table.
RESULTS = [
    (ENERGY, ["rise of the error", "0.250 ± 0.010", "0.3", "30"]),
    (STACKED, ["2 solutions", "solution 1, 0.3", "0.500 ± 0.020"]),
    (flatness.WeightNoise(TWO, TWO, TWO / 10, ENERGY), ["0.500 ± 0.050", "noise σ*"]),
    (
        flatness.PacBayesSigma(0.25, 0.1, 0.01, 16.0, True, TWO, TWO),
        ["0.25", "0.100 ± 0.010", "16", "yes"],
    ),
    (flatness.Quantization(np.array([4, 3]), RISES, REFERENCE, TWO), ["bits", "4", "1.5"]),
    (flatness.Pruning(TWO, RISES, REFERENCE, TWO), ["sparsity", "rise of the loss", "0.25"]),
    (
        flatness.FineTuning(np.array([10, 100]), RISES, REFERENCE, RISES, REFERENCE, TWO),
        ["steps", "100", "On the second task before", "1.5"],
    ),
    (flatness.SamSharpness(RISE, REFERENCE, np.array(2.0)), ["gradient 2", "loss", "1.5"]),
    (flatness.WorstCaseSharpness(RISE, REFERENCE, TWO, DRAWS), ["0.5, 0.25", "1.5"]),
    (flatness.Eigenvalues(TWO, TWO / 100, DRAWS), ["eigenvalue", "0.5", "0.0025"]),
    (flatness.Trace(np.array(3.0), np.array(0.5), DRAWS[0]), ["3.00 ± 0.50", "30 random vectors"]),
    (
        flatness.SpectralDensity(
            np.array([[-1.0, 1.0], [1.0, 3.0]]), np.full((2, 2), 0.5), DRAWS, DRAWS, DRAWS, 0.1, 100
        ),
        ["-1, 3", "1.0 ± 1.0", "100"],
    ),
    (
        flatness.LogFraction(TWO, -TWO, TWO, np.array([7, 8]), DRAWS, 10),
        ["-0.50 ± 0.50", "hits", "30 draws"],
    ),
    (flatness.LocalEntropy(**ENTROPY), ["-1.25 ± 0.25", "-0.125", "no", "β = 2"]),
    (flatness.LocalEntropy(**ENTROPY | CHAINS), ["log-volume F"]),
    (flatness.Slice1D(TWO, {"loss": np.array([np.nan, 2.0])}), ["2 at (0.25)"]),
    (
        flatness.Slice2D(TWO, 10 * TWO, {"loss": np.array([[1.0, 2.0], [3.0, 0.5]])}),
        ["0.5 at (0.25, 2.5)", "3 at (0.5, 2.5)"],
    ),
    (
        flatness.Ranking(0.5, (0.25, 0.75), {"rate": 1.0}, 1.0, (0.0, 1.0), 12),
        ["+0.50", "+0.25 to +0.75", "12 solutions", "rate"],
    ),
    (
        flatness.Barrier(TWO, {"loss": TWO}, {"loss": 0.125}, 3.0),
        ["distance of 3", "0.5", "0.25", "0.125"],
    ),
    (
        flatness.Trajectory(DRAWS, (DRAWS, DRAWS), np.array([[1.5, 0.5], [0, 0]]), TWO),
        ["50 %, 25 %", "1.5", "0.5"],
    ),
    (
        flatness.Soup({"w": TWO}, (), (0, 2), {"error": 0.125}, {"error": TWO}),
        ["of 2 solutions: 0, 2", "0.125", "0.25", "0.375"],
    ),
    (flatness.TrainingCoefficient(1.5, 0.25, TWO, 100.0), ["1.50 ± 0.25", "2 loops"]),
]


@pytest.mark.parametrize(("result", "wanted"), RESULTS, ids=lambda x: type(x).__name__)
def test_results_print_as_tables(result, wanted):
    for text in (str(result), repr(result), f"{result}"):
        assert max(map(len, text.splitlines())) <= _tables.WIDTH
        assert "array" not in text
        for word in wanted:
            assert word in text, text
    page = result._repr_html_()
    assert page.count("<tr>") == len(result.table().lines) + 1
    assert all(word.replace("<", "&lt;") in page for word in wanted)


def test_no_result_is_left_out():
    tabled = {type(result) for result, _ in RESULTS}
    own = {flatness.LearningCoefficient, flatness.Report, flatness.Comparison}
    parts = {flatness.Row, flatness.Difference}  # lines of tables
    public = {
        found for name in flatness.__all__ if inspect.isclass(found := getattr(flatness, name))
    }
    assert tabled == public - own - parts


def test_wide_tables_continue_below():
    columns = [f"column {number}" for number in range(20)]
    table = _tables.Table(["title " * 20, ""], ["name", *columns], [["x"] * 21], ["note " * 40])
    text = str(table).splitlines()
    assert max(map(len, text)) <= _tables.WIDTH
    assert sum(line.startswith("name") for line in text) > 1
    for column in columns:
        assert sum(column in line.split("  ") for line in text) == 1
