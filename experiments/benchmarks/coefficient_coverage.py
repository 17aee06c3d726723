"""Coverage of 95% intervals of the local learning coefficient.

The true value is the expectation at the same n, beta and localization gamma, see `CASES`.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.machine import describe_machine
from experiments.engine import console
from experiments.report.store import RESULTS, write_json
from flatjax import flatness


class Case(NamedTuple):
    """A loss with a known coefficient.

    Attributes:
      eval_fn: the evaluation function.
      params: the minimum.
      batches: the data.
      truth: the expectation at beta = 1 / log n and gamma = 1.
    """

    eval_fn: Callable[..., dict[str, Any]]
    params: Any
    batches: list[Any]
    truth: float


def regression(num_weights: int = 10, num_examples: int = 1000, num_batches: int = 10) -> Case:
    """Linear regression with unit noise: half the sum of n beta h / (n beta h + 1)."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((num_examples, num_weights))
    targets = inputs.sum(axis=1) + rng.standard_normal(num_examples)
    fit = np.linalg.lstsq(inputs, targets, rcond=None)[0]
    stiffness = np.linalg.eigvalsh(inputs.T @ inputs) / np.log(num_examples)
    pairs = zip(np.split(inputs, num_batches), np.split(targets, num_batches), strict=True)

    def eval_fn(params, batch):
        x, y = batch
        return {"loss": 0.5 * jnp.sum((x @ params - y) ** 2), "count": len(y)}

    batches = [(jnp.array(x, jnp.float32), jnp.array(y, jnp.float32)) for x, y in pairs]
    truth = 0.5 * np.sum(stiffness / (stiffness + 1))
    return Case(eval_fn, jnp.array(fit, jnp.float32), batches, truth)


def crossing(num_examples: int = 1000) -> Case:
    r"""The normal crossing :math:`w_1^2 w_2^2` at 0: coefficient 1/2, multiplicity 2.

    The integral over the second weight is Gaussian. With :math:`s = 2 n \beta w_1^2 + 1`, the mean
    of :math:`n \beta w_1^2 / s` under :math:`s^{-1/2} e^{-w_1^2 / 2}` remains.
    """
    w, n_beta = np.linspace(0, 8, 100_001), num_examples / np.log(num_examples)
    s = 2 * n_beta * w**2 + 1
    weight = np.exp(-(w**2) / 2) / np.sqrt(s)
    truth = np.sum(weight * n_beta * w**2 / s) / np.sum(weight)

    def eval_fn(params, batch):
        return {"loss": num_examples * jnp.prod(params**2), "count": jnp.array(num_examples)}

    return Case(eval_fn, jnp.zeros(2), [jnp.zeros(1)], truth)


CASES = {"regression": regression, "crossing": crossing}


@dataclasses.dataclass(frozen=True)
class Coverage:
    """Repeat the estimate, and count the intervals that hold the true value.

    Example: python -m experiments.benchmarks.coefficient_coverage --calls 20
    """

    cases: tuple[str, ...] = tuple(CASES)
    """Losses: regression (steps on minibatches) and crossing (exact steps on all data)."""
    calls: int = 100
    """Number of calls for each case."""
    level: float = 0.95
    """Probability content of the intervals."""
    out: pathlib.Path | None = RESULTS / "benchmarks" / "coefficient_coverage.json"
    """JSON file for the result."""

    def run(self) -> None:
        """Counts, prints and writes the result."""
        found = {name: self.measure(CASES[name]()) for name in self.cases}
        for name, row in found.items():
            print(name, ", ".join(f"{key} {value:.4g}" for key, value in row.items()))
        if self.out is not None:
            command = "python -m experiments.benchmarks.coefficient_coverage"
            head = {"command": command, "calls": self.calls, "level": self.level}
            write_json(
                self.out.absolute(), head | {"machine": describe_machine()} | {"found": found}
            )

    def measure(self, case: Case) -> dict[str, float]:
        """Measures one case: its true value, and means over the calls."""
        measure = flatness.learning_coefficient(case.eval_fn)
        calls = [measure(case.params, case.batches, seed) for seed in range(self.calls)]
        means = np.array([one.mean for one in calls])
        intervals = np.array([one.interval(self.level) for one in calls])
        covered = (intervals[:, 0] <= case.truth) & (case.truth <= intervals[:, 1])
        return {
            "truth": case.truth,
            "mean": float(means.mean()),
            "spread between calls": float(means.std(ddof=1)),
            "mean reported sem": float(np.mean([one.sem for one in calls])),
            "covered": int(covered.sum()),
            "converged": sum(one.converged for one in calls),
        }


if __name__ == "__main__":
    sys.exit(console.run(Coverage, "python -m experiments.benchmarks.coefficient_coverage"))
