"""A grid of solutions of the ERM equations, compared with SciPy.

Both integrate on the same nodes and stop at the same residual. The baseline uses NumPy inside
`scipy.optimize.root`.
"""

import dataclasses
import pathlib
import sys
import time

import numpy as np
import scipy.optimize
import scipy.special

from experiments.benchmarks.machine import describe_machine
from experiments.engine import console
from experiments.report.store import write_json
from flatjax.gaussian_mixture import erm, losses
from flatjax.gaussian_mixture._quadrature import gaussian_grid

TOLERANCE = 1e-8


@dataclasses.dataclass(frozen=True)
class GridBenchmark:
    """Time logistic ERM on a grid: alpha in [0.1, 10], lambda in [0.01, 10].

    Example: python -m experiments.benchmarks.gaussian_mixture
    """

    size: int = 50
    """Points on each axis."""
    baseline_points: int = 100
    """Random points of the grid that SciPy solves; its total time is extrapolated."""
    out: pathlib.Path | None = None
    """JSON file for the result."""

    def run(self) -> None:
        """Solves the grid both ways and prints times and accuracies."""
        alpha = np.geomspace(0.1, 10, self.size)[:, None]
        lam = np.geomspace(0.01, 10, self.size)
        solve = lambda: erm(losses.logistic(), alpha=alpha, delta=1.0, lam=lam, tolerance=TOLERANCE)
        first, _ = _timed(solve)
        best, found = min((_timed(solve) for _ in range(3)), key=lambda timed: timed[0])

        chosen = np.random.default_rng(0).permutation(self.size**2)[: self.baseline_points]
        rows, columns = np.unravel_index(chosen, (self.size, self.size))
        point_by_point = lambda: [
            solve_with_scipy(alpha[i, 0], 1.0, lam[j]) for i, j in zip(rows, columns, strict=True)
        ]
        seconds, baseline = _timed(point_by_point)
        baseline_seconds = seconds * self.size**2 / len(chosen)
        solved = np.array([residual <= TOLERANCE for _, residual in baseline])
        overlaps = np.array([overlap for overlap, _ in baseline])
        ours = (found.m / np.sqrt(found.q))[rows, columns]
        result = {
            "points": self.size**2,
            "seconds": round(best, 3),
            "seconds with compilation": round(first, 2),
            "not converged": int((~found.converged).sum()),
            "largest residual": float(found.residual.max()),
            "SciPy: seconds for all points (extrapolated)": round(baseline_seconds, 1),
            "SciPy: not converged, of those solved": int((~solved).sum()),
            "largest difference of the overlap where both converged": float(
                np.abs(ours - overlaps)[solved].max()
            ),
            "speed-up": round(baseline_seconds / best, 1),
            "speed-up with compilation": round(baseline_seconds / first, 1),
        }
        print(f"{describe_machine()}\n")
        for name, value in result.items():
            print(f"{name:<56} {value:.3g}" if isinstance(value, float) else f"{name:<56} {value}")
        if self.out is not None:
            write_json(self.out.absolute(), {"machine": describe_machine()} | result)


def solve_with_scipy(alpha: float, delta: float, lam: float) -> tuple[float, float]:
    """Solves logistic regression: overlap m / sqrt(q), and residual."""
    nodes, weights = gaussian_grid()

    def prox(omega, c):
        u = np.zeros_like(omega)  # from the inflection point, Newton's method always converges
        for _ in range(60):
            sigma = scipy.special.expit(-u)
            step = (u - omega - c * sigma) / (1 + c * sigma * (1 - sigma))
            u = u - step
            if np.abs(step).max() < 1e-12:
                break
        return u

    def equations(x):
        overlap, v, q = x[0], np.exp(x[1]), np.exp(x[2])
        scale, c = np.sqrt(delta * q), delta * v
        omega = overlap * np.sqrt(q) + scale * nodes
        f = (prox(omega, c) - omega) / c
        m_hat, q_hat = alpha * weights @ f, alpha * delta * weights @ f**2
        v_hat = -alpha * delta * weights @ (f * nodes) / scale
        length, new_v = np.hypot(m_hat, np.sqrt(q_hat)), 1 / (lam + v_hat)
        return x - [m_hat / length, np.log(new_v), 2 * np.log(new_v * length)]

    x = np.array([0.42, -np.log(lam + 0.1 * alpha * delta), np.log(0.5)])
    for _ in range(4):  # our solver starts with the same damped steps
        x = x - 0.5 * equations(x)
    found = scipy.optimize.root(equations, x, tol=1e-10)
    return float(found.x[0]), float(np.abs(found.fun).max())


def _timed(fn):
    start = time.perf_counter()
    result = fn()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    sys.exit(console.run(GridBenchmark, "python -m experiments.benchmarks.gaussian_mixture"))
