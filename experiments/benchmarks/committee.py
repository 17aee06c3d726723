"""An iteration of message passing for a committee, beside the same arithmetic in NumPy.

Both start at a teacher's overlap and make the same iterations in float64; the baseline counts votes
unit by unit, with probabilities scaled by the larger of a pair, and finds multipliers by Newton's
method from where they were. On a busy machine the threads of OpenBLAS, which NumPy uses, wait for
each other: set OPENBLAS_NUM_THREADS=1 for a fair comparison.
"""

import dataclasses
import pathlib
import time

import numpy as np
import scipy.special
import tyro

from experiments.benchmarks.machine import describe_machine
from experiments.run_directory import write_json
from flatjax.committee.amp import amp

OVERLAP, DAMPING = 0.8, 0.8


@dataclasses.dataclass(frozen=True)
class AmpBenchmark:
    """Local entropy around a teacher: random patterns, K units of N inputs.

    Example: python -m experiments.benchmarks.committee
    """

    num_inputs: int = 784
    num_units: int = 9
    num_patterns: tuple[int, ...] = (500, 5000)
    iterations: int = 20
    """Timed; the time of one iteration is subtracted, and so is all that is done once."""
    repeats: int = 5
    """The best of these counts."""
    out: pathlib.Path | None = None
    """JSON file for the result."""

    def run(self) -> None:
        """Times both and prints milliseconds for an iteration, and how far means are apart."""
        print(f"{describe_machine()}\n")
        rows = [self._measure(num) for num in self.num_patterns]
        for row in rows:
            print(*(f"{name}: {value:.3g}" for name, value in row.items()), sep=", ")
        if self.out is not None:
            write_json(self.out.absolute(), {"machine": describe_machine(), "rows": rows})

    def _measure(self, num_patterns):
        rng = np.random.default_rng(0)
        x = rng.standard_normal((num_patterns, self.num_inputs))
        teacher = rng.standard_normal((self.num_units, self.num_inputs))
        y = np.sign(np.sign(x @ teacher.T).sum(axis=1))

        def ours(iterations):
            around = {"reference": teacher, "overlap": OVERLAP, "damping": DAMPING}
            return amp(x, y, **around, max_iterations=iterations, tolerance=1e-300).mean

        baseline = lambda iterations: amp_in_numpy(x, y, teacher, OVERLAP, DAMPING, iterations)
        ours(1)  # compiles
        seconds, mean = self._per_iteration(ours)
        baseline_seconds, baseline_mean = self._per_iteration(baseline)
        return {
            "patterns": num_patterns,
            "ms": 1e3 * seconds,
            "NumPy: ms": 1e3 * baseline_seconds,
            "speed-up": baseline_seconds / seconds,
            "largest difference of the means": float(np.abs(mean - baseline_mean).max()),
        }

    def _per_iteration(self, solve):
        least = lambda iterations: min(_timed(solve, iterations) for _ in range(self.repeats))
        return (least(self.iterations + 1) - least(1)) / self.iterations, solve(self.iterations)


def _timed(solve, iterations):
    start = time.perf_counter()
    solve(iterations)
    return time.perf_counter() - start


def amp_in_numpy(x, y, reference, overlap, damping, iterations):
    """Mean weights after so many iterations, shape (K, N)."""
    num = x.shape[1]
    u = y[:, None] * x / np.sqrt(num)
    u2 = u**2
    reference = reference / np.sqrt(np.mean(reference**2, axis=1, keepdims=True))
    m, v = overlap * reference, np.full(reference.shape, 1 - overlap**2)
    g = gamma = np.zeros((len(x), len(reference)))
    log_excess = np.zeros(len(reference))
    mix = lambda old, new: damping * old + (1 - damping) * new
    for _ in range(iterations):
        variance = u2 @ v.T
        cavity = u @ m.T - variance * g
        new_g, new_gamma = channel_in_numpy(cavity, variance)
        g, gamma = mix(g, new_g), mix(gamma, new_gamma)
        a = gamma.T @ u2
        b = g.T @ u + m * a
        new_m, new_v, log_excess = constrained_in_numpy(a, b, reference, overlap, log_excess)
        m, v = mix(m, new_m), mix(v, new_v)
    return m


def channel_in_numpy(cavity, variance):
    """G and Gamma, shape (P, K)."""
    num, units = cavity.shape
    deviation = np.sqrt(variance)
    s = np.clip(cavity / deviation, -30, 30)
    yes, no = scipy.special.ndtr(s), scipy.special.ndtr(-s)
    scale = np.maximum(yes, no)
    yes, no = yes / scale, no / scale
    needed = (units + 1) // 2
    before = np.zeros((units + 1, units + 1, num))
    after = np.zeros_like(before)
    before[0, 0] = after[units, 0] = 1
    for k in range(units):
        before[k + 1] = before[k] * no[:, k]
        before[k + 1, 1:] += before[k, :-1] * yes[:, k]
    for k in reversed(range(units)):
        after[k] = after[k + 1] * no[:, k]
        after[k, 1:] += after[k + 1, :-1] * yes[:, k]
    pivotal = np.empty((num, units))
    for k in range(units):
        pivotal[:, k] = np.sum(before[k, :needed] * after[k + 1, needed - 1 :: -1], axis=0)
    z = before[units, needed:].sum(axis=0)[:, None]
    density = np.exp(-(s**2) / 2) / np.sqrt(2 * np.pi)
    g = pivotal * density / (z * scale * deviation)
    return g, g * (g + cavity / variance)


def constrained_in_numpy(a, b, reference, overlap, log_excess):
    """Means and variances of the weights, shape (K, N), and the multipliers' logarithms."""
    num = a.shape[1]
    above = a - a.min(axis=1, keepdims=True)
    for _ in range(50):
        excess = np.exp(log_excess)
        v = 1 / (above + excess[:, None])
        missing, weight = overlap * num - np.sum(reference * b * v, axis=1), reference**2 * v
        gamma = missing / weight.sum(axis=1)
        m = v * (b + gamma[:, None] * reference)
        # Derivatives by lambda: of v it is -v^2, and the overlap stays as it is.
        slope = (np.sum(reference * m * v, axis=1) / weight.sum(axis=1))[:, None]
        dm = v * (slope * reference - m)
        square = np.mean(v + m**2, axis=1)
        change = np.log(square) * square / np.mean(2 * m * dm - v**2, axis=1) / excess
        log_excess = log_excess - change
        if np.abs(change).max() < 1e-8:
            break
    return m, v, log_excess


if __name__ == "__main__":
    tyro.cli(AmpBenchmark).run()
