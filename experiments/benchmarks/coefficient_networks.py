r"""The local learning coefficient of linear networks, small and large.

For infinite n the coefficient is known [Aoyagi, 2024]. For finite n, Gibbs sampling finds the
expectation, because each layer is Gaussian if the others are given.
"""

import dataclasses
import functools
import itertools
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.machine import describe_machine
from experiments.engine import console
from experiments.report.store import RESULTS, write_json
from experiments.report.tables import markdown_table
from flatjax import flatness


class Size(NamedTuple):
    """A network and the settings of its measurement.

    Attributes:
      dims: widths, from inputs to outputs.
      rank: rank of the learned function.
      localization: gamma.
    """

    dims: tuple[int, ...]
    rank: int
    localization: float


SIZES = {
    "24 weights": Size((4, 3, 4), 1, 10.0),
    "200 weights, weak spring": Size((10, 10, 10), 3, 1.0),
    "200 weights": Size((10, 10, 10), 3, 10.0),
    "300 weights, deep": Size((10, 10, 10, 10), 3, 30.0),
    "2048 weights": Size((32, 32, 32), 8, 30.0),
    "9800 weights": Size((70, 70, 70), 20, 100.0),
}


class LinearNetwork(NamedTuple):
    """A linear network at its most singular solution: weights are 0 if possible.

    Attributes:
      eval_fn: the sum of squares over n examples with inputs of unit covariance.
      params: the weights of the layers.
      batches: one batch with all data.
    """

    eval_fn: Callable[..., dict[str, Any]]
    params: list[jax.Array]
    batches: list[Any]


def linear_network(dims: tuple[int, ...], rank: int, num_examples: float) -> LinearNetwork:
    """Makes a network; its loss is half the squared distance of the matrix products."""
    params = [jnp.eye(i, o) * (jnp.arange(o) < rank) for i, o in itertools.pairwise(dims)]
    product = functools.partial(functools.reduce, jnp.matmul)
    target, count = product(params), float(num_examples)

    def eval_fn(params, batch):
        loss = count / 2 * jnp.sum((product(params) - target) ** 2)
        return {"loss": loss, "count": jnp.array(count)}

    return LinearNetwork(eval_fn, params, [0])


def aoyagi(dims: tuple[int, ...], rank: int) -> tuple[float, int]:
    """Computes coefficient and multiplicity [Aoyagi, 2024, theorem 1]."""
    excess, layers = [width - rank for width in dims], range(len(dims))
    for size in range(2, len(dims) + 1):
        for chosen in itertools.combinations(layers, size):
            own = [excess[s] for s in chosen]
            rest = min((excess[s] for s in layers if s not in chosen), default=np.inf)
            total, last = sum(own), size - 1
            if max(own) < rest and last * max(own) <= total < last * rest:
                a = total - (int(np.ceil(total / last)) - 1) * last
                pairs = sum(x * y for x, y in itertools.combinations(own, 2))
                regular = rank * (dims[0] + dims[-1] - rank) / 2
                singular = a * (last - a) / (4 * last) - (last - 1) / (4 * last) * total**2
                return regular + singular + pairs / 2, a * (last - a) + 1
    raise ValueError(f"dims must allow a singular set of layers, got {dims}.")


def gibbs(
    dims: tuple[int, ...], rank: int, n_beta: float, gamma: float, sweeps: int, seed: int = 0
) -> tuple[float, float]:
    """Computes the expectation by Gibbs sampling, and its standard error.

    Let L and R be the products of the layers before and after a layer W. Its energy is
    n beta |L W R - target|^2 / 2 + gamma |W - W*|^2 / 2. In the bases in which L^T L and R R^T are
    diagonal, the entries of W are therefore independent and normal.
    """
    rng = np.random.default_rng(seed)
    solution = [np.eye(i, o) * (np.arange(o) < rank) for i, o in itertools.pairwise(dims)]
    product = lambda layers, size: functools.reduce(np.matmul, layers, np.eye(size))
    target, layers, energies = product(solution, dims[0]), list(solution), []
    for _ in range(sweeps):
        for k, center in enumerate(solution):
            before = product(layers[:k], dims[0])
            after = product(layers[k + 1 :], dims[k + 1])
            left, u = np.linalg.eigh(before.T @ before)
            right, v = np.linalg.eigh(after @ after.T)
            precision = n_beta * np.outer(left, right) + gamma
            force = u.T @ (n_beta * before.T @ target @ after.T + gamma * center) @ v
            noise = rng.standard_normal(force.shape)
            layers[k] = u @ (force / precision + noise / np.sqrt(precision)) @ v.T
        energies.append(n_beta / 2 * np.sum((product(layers, dims[0]) - target) ** 2))
    means = np.array([e.mean() for e in np.array_split(np.array(energies[sweeps // 5 :]), 10)])
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means)))


def table(found: dict[str, dict[str, Any]]) -> str:
    """Formats the rows of the measured networks as Markdown."""
    heads: tuple[str, ...] = (
        "widths",
        "rank",
        "γ",
        "d/2",
        "λ of the formula",
        "expectation at this n and γ",
    )
    heads += ("estimate (95 % interval)", "temperature", "converged", "CPU s")
    rows: list[tuple[str, ...]] = [heads]
    for row in found.values():
        places = 2 if row["weights"] < 1000 else 1
        expected = [f"{row[name]:.{places}f}" for name in ("expectation", "expectation sem")]
        low, high = [f"{end:.{places}f}" for end in row["interval"]]
        rows.append(
            (
                " × ".join(map(str, row["widths"])),
                str(row["rank"]),
                f"{row['localization']:g}",
                f"{row['weights'] / 2:g}",
                f"{row['formula']:g}",
                " ± ".join(expected),
                f"{row['mean']:.{places}f} ({low} to {high})",
                f"{row['temperature']:.2f}",
                "yes" if row["converged"] else "no",
                f"{row['cpu seconds']:.0f}",
            )
        )
    return markdown_table(rows)


@dataclasses.dataclass(frozen=True)
class Networks:
    """Estimate the coefficient of linear networks of several sizes.

    Example: python -m experiments.benchmarks.coefficient_networks --sizes "24 weights"
    """

    sizes: tuple[str, ...] = tuple(SIZES)
    """Names of SIZES."""
    examples: int = 100_000
    """n."""
    sweeps: int = 2000
    """Sweeps of Gibbs sampling."""
    out: pathlib.Path | None = RESULTS / "benchmarks" / "coefficient_networks.json"
    """JSON file for the result."""

    def run(self) -> None:
        """Measures, prints and writes."""
        found = {}
        for name in self.sizes:
            found[name] = self.measure(SIZES[name])
            row = ", ".join(f"{key} {value}" for key, value in found[name].items())
            print(f"{name}: {row}", flush=True)
        if self.out is not None:
            command = "python -m experiments.benchmarks.coefficient_networks"
            head = {"command": command, "examples": self.examples, "sweeps": self.sweeps}
            write_json(
                self.out.absolute(), head | {"machine": describe_machine()} | {"found": found}
            )

    def measure(self, size: Size) -> dict[str, Any]:
        """Measures one network: formula, expectation, estimate and CPU seconds."""
        network = linear_network(size.dims, size.rank, self.examples)
        measure = flatness.learning_coefficient(network.eval_fn, localization=size.localization)
        start = time.process_time()
        found = measure(network.params, network.batches, 0)
        seconds = time.process_time() - start
        n_beta = self.examples * found.beta
        expectation, error = gibbs(*size[:2], n_beta, size.localization, self.sweeps)
        return {
            "widths": list(size.dims),
            "rank": size.rank,
            "localization": size.localization,
            "weights": found.num_weights,
            "formula": aoyagi(size.dims, size.rank)[0],
            "expectation": expectation,
            "expectation sem": error,
            "mean": found.mean,
            "sem": found.sem,
            "interval": list(found.interval()),
            "temperature": found.temperature,
            "ess": found.ess,
            "r_hat": found.r_hat,
            "converged": found.converged,
            "problems": list(found.problems),
            "cpu seconds": seconds,
        }


if __name__ == "__main__":
    sys.exit(console.run(Networks, "python -m experiments.benchmarks.coefficient_networks"))
