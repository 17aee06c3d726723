"""One iteration of message passing for a committee, compared with NumPy.

Both start at a teacher's overlap and make the same iterations in float64. The baseline counts votes
unit by unit, with probabilities scaled by the larger of each pair. It finds multipliers by Newton's
method, starting from the previous ones. The parts are also timed separately, to show where the time
goes. On a busy machine the OpenBLAS threads of NumPy wait for each other: set
OPENBLAS_NUM_THREADS=1 for a fair comparison.
"""

import dataclasses
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from experiments.benchmarks.machine import describe_machine
from experiments.benchmarks.race import Clock, race
from experiments.engine import console
from experiments.report.store import write_json
from experiments.report.tables import markdown_table
from flatjax.committee._amp import amp, majority_in_chunks, to_patterns, to_weights
from flatjax.committee._constraints import constrained

OVERLAP, DAMPING = 0.8, 0.8
REPEATS = 5  # calls in each timing of a part


@dataclasses.dataclass(frozen=True)
class AmpBenchmark:
    """Time local entropy around a teacher: random patterns, K units with N inputs.

    Example: python -m experiments.benchmarks.committee
    """

    num_inputs: int = 784
    num_units: int = 9
    num_patterns: tuple[int, ...] = (500, 5000)
    iterations: int = 20
    """Timed iterations. The time of one iteration is subtracted, to exclude work done once."""
    rounds: int = 11
    """Number of rounds. Each round times everything once, in turn; medians count."""
    clock: Clock = "wall"
    """wall, or cpu: time of this process on all cores, for a busy machine. With cpu set one thread:
    OPENBLAS_NUM_THREADS=1 XLA_FLAGS=--xla_cpu_multi_thread_eigen=false."""
    out: pathlib.Path | None = None
    """JSON file for the result."""

    def run(self) -> None:
        """Times both sides and their parts, and prints milliseconds per iteration."""
        print(f"{describe_machine()}\n")
        rows = []
        for num in self.num_patterns:
            x, y, teacher = self._patterns(num)
            row = {"patterns": num} | self._iterations(x, y, teacher)
            print(*(f"{name}: {value:.3g}" for name, value in row.items()), sep=", ")
            parts = self._parts(x, y, teacher)
            table = [["part", "ms", "share", "NumPy: ms"]]
            total = sum(part["ms"] for part in parts.values())
            for name, part in parts.items():
                share = f"{part['ms'] / total:.0%}"
                table.append([name, f"{part['ms']:.2f}", share, f"{part['NumPy: ms']:.2f}"])
            print(f"\n{markdown_table(table)}\n")
            rows.append(row | {"parts": parts})
        if self.out is not None:
            write_json(self.out.absolute(), {"machine": describe_machine(), "rows": rows})

    def _patterns(self, num_patterns):
        rng = np.random.default_rng(0)
        x = rng.standard_normal((num_patterns, self.num_inputs))
        teacher = rng.standard_normal((self.num_units, self.num_inputs))
        return x, np.sign(np.sign(x @ teacher.T).sum(axis=1)), teacher

    def _iterations(self, x, y, teacher):
        def ours(iterations):
            around = {"reference": teacher, "overlap": OVERLAP, "damping": DAMPING}
            return amp(x, y, **around, max_iterations=iterations, tolerance=1e-300).mean

        baseline = lambda iterations: amp_in_numpy(x, y, teacher, OVERLAP, DAMPING, iterations)
        ours(1)  # compiles
        more = self.iterations + 1
        calls = {(f, n): functools.partial(f, n) for f in (ours, baseline) for n in (more, 1)}
        times = race(calls, self.rounds, self.clock)
        per_iteration = lambda f: (times[f, more] - times[f, 1]) / self.iterations
        mean, baseline_mean = ours(more), baseline(more)
        return {
            "ms": 1e3 * np.median(per_iteration(ours)),
            "NumPy: ms": 1e3 * np.median(per_iteration(baseline)),
            "speed-up": np.median(per_iteration(baseline)) / np.median(per_iteration(ours)),
            "largest difference of the means": float(np.abs(mean - baseline_mean).max()),
        }

    def _parts(self, x, y, teacher):
        """Returns median milliseconds of each part alone, with its last arguments."""
        u = y[:, None] * x / np.sqrt(self.num_inputs)
        reference = teacher / np.sqrt(np.mean(teacher**2, axis=1, keepdims=True))
        m, v = OVERLAP * reference, np.full(reference.shape, 1 - OVERLAP**2)
        cavity, variance = u @ m.T, u**2 @ v.T
        g, gamma = channel_in_numpy(cavity, variance)
        a, b = gamma.T @ u**2, g.T @ u
        start = constrained_in_numpy(a, b, reference, OVERLAP, np.zeros(len(m)))[2] + 0.01
        ours = {
            "U m, U² v": (to_patterns, u, u**2, m, v),
            "channel": (majority_in_chunks, cavity.T, variance.T),
            "Uᵀ g, U²ᵀ Γ": (to_weights, u, u**2, m, g.T, gamma.T),
            "multipliers": (constrained, a, b, reference, OVERLAP, start),
        }
        squares = u**2
        baseline = {
            "U m, U² v": lambda: (u @ m.T, squares @ v.T),
            "channel": lambda: channel_in_numpy(cavity, variance),
            "Uᵀ g, U²ᵀ Γ": lambda: (g.T @ u, gamma.T @ squares),
            "multipliers": lambda: constrained_in_numpy(a, b, reference, OVERLAP, start),
        }
        with jax.enable_x64(True):
            calls = {("ms", name): _compiled(*part) for name, part in ours.items()}
            calls |= {("NumPy: ms", name): _repeated(part) for name, part in baseline.items()}
            times = race(calls, self.rounds, self.clock)
        ms = lambda kind, name: 1e3 * float(np.median(times[kind, name])) / REPEATS
        kinds = ("ms", "NumPy: ms")
        return {name: {kind: ms(kind, name) for kind in kinds} for name in ours}


def _compiled(function, *args):
    compiled, args = jax.jit(function), jax.tree.map(jnp.asarray, args)
    return lambda: jax.block_until_ready([compiled(*args) for _ in range(REPEATS)])


def _repeated(function):
    return lambda: [function() for _ in range(REPEATS)]


def amp_in_numpy(x, y, reference, overlap, damping, iterations):
    """Returns mean weights after the given number of iterations, shape (K, N)."""
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
    """Returns G and Gamma, shape (P, K)."""
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
    """Returns means and variances of the weights, (K, N), and log multipliers."""
    num = a.shape[1]
    above = a - a.min(axis=1, keepdims=True)
    for _ in range(50):
        excess = np.exp(log_excess)
        v = 1 / (above + excess[:, None])
        missing, weight = overlap * num - np.sum(reference * b * v, axis=1), reference**2 * v
        gamma = missing / weight.sum(axis=1)
        m = v * (b + gamma[:, None] * reference)
        # Derivatives by lambda: that of v is -v^2; the overlap is constant.
        slope = (np.sum(reference * m * v, axis=1) / weight.sum(axis=1))[:, None]
        dm = v * (slope * reference - m)
        square = np.mean(v + m**2, axis=1)
        change = np.log(square) * square / np.mean(2 * m * dm - v**2, axis=1) / excess
        log_excess = log_excess - change
        if np.abs(change).max() < 1e-8:
            break
    return m, v, log_excess


if __name__ == "__main__":
    sys.exit(console.run(AmpBenchmark, "python -m experiments.benchmarks.committee"))
