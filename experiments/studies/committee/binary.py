"""How many random patterns message passing stores in weights of +-1.

    python -m experiments committee --weights binary

compares them with published thresholds. It writes simulations to binary.jsonl (existing ones are
not repeated), a table to binary.md and a figure to binary.png.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from experiments.report import plots, store
from experiments.report.tables import markdown_table
from experiments.studies.simulations import Point, read_simulations, simulate_points
from flatjax.committee import (
    BinarySolution,
    binary_bp,
    binary_focusing_bp,
    binary_reinforced_bp,
    pseudo_reinforcement,
)

ITERATIONS = 1000
# (K, N): patterns per weight, P / (K N), to simulate.
GRIDS: Mapping[tuple[int, int], Sequence[float]] = {
    (1, 1001): (0.5, 0.6, 0.66, 0.7, 0.72, 0.74, 0.76, 0.78, 0.8),
    (3, 335): (0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75),
}
# For the perceptron at large N: where solutions cease to exist [Krauth and Mezard, 1989], and the
# range up to which the best algorithms find them [Stojnic, 2025, arXiv:2506.19276].
CAPACITY = 0.833
BEST_KNOWN = (0.75, 0.77)


def _pseudo_focusing(x, y, key, **sizes) -> BinarySolution:
    gamma, num_replicas = pseudo_reinforcement(ITERATIONS)
    return binary_focusing_bp(x, y, key, gamma=gamma, num_replicas=num_replicas, **sizes)


# Label: solver, its name in the palette, and its marker.
SOLVERS: Mapping[str, tuple[Callable[..., BinarySolution], str, str]] = {
    "BP, clipped": (functools.partial(binary_bp, tolerance=0.0), "bp", "x"),
    "reinforced BP": (binary_reinforced_bp, "reinforced bp", "s"),
    "focusing BP, y = 7": (binary_focusing_bp, "focusing bp", "o"),
    "focusing BP, y rises": (_pseudo_focusing, "focusing bp, y rises", "^"),
}


def points(seeds: int) -> list[Point]:
    """Makes the points: all solvers on the same random patterns and labels of +-1."""
    return [
        Point(
            curve=_name(num_units, num_inputs),
            x=alpha,
            params={"K": num_units, "N": num_inputs, "alpha": alpha, "iterations": ITERATIONS},
            theory={},
            simulate=functools.partial(
                solve_all, num_units=num_units, num_inputs=num_inputs, alpha=alpha
            ),
            seeds=seeds,
        )
        for (num_units, num_inputs), alphas in GRIDS.items()
        for alpha in alphas
    ]


def _name(num_units, num_inputs):
    machine = "perceptron" if num_units == 1 else f"committee of {num_units}"
    return f"{machine}, N = {num_inputs}"


def solve_all(
    key: chex.PRNGKey, *, num_units: int, num_inputs: int, alpha: float
) -> dict[str, float]:
    """Runs every solver on one sample of patterns: solver and quantity -> value."""
    x_key, y_key, solver_key = jax.random.split(key, 3)
    num_patterns = round(alpha * num_units * num_inputs)
    x = jax.random.rademacher(x_key, (num_patterns, num_inputs), jnp.float32)
    y = jax.random.rademacher(y_key, (num_patterns,), jnp.float32)
    values = {}
    for label, (solver, _, _) in SOLVERS.items():
        found = solver(x, y, solver_key, num_units=num_units, max_iterations=ITERATIONS)
        values[f"{label}: solved"] = float(found.solved)
        values[f"{label}: errors"] = float(found.num_errors)
        values[f"{label}: iterations"] = float(found.iterations)
    return values


def tabulate(simulations: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Makes a row for each machine, alpha and solver: the share of solved samples."""
    rows = []
    for point in points(seeds=1):
        runs = [run["values"] for run in simulations.get(point.name, [])]
        for label in SOLVERS if runs else ():
            solved = int(sum(run[f"{label}: solved"] for run in runs))
            interval = scipy.stats.binomtest(solved, len(runs)).proportion_ci(method="wilson")
            iterations = [run[f"{label}: iterations"] for run in runs if run[f"{label}: solved"]]
            rows.append(
                {
                    "machine": point.curve,
                    "alpha": point.x,
                    "solver": label,
                    "samples": len(runs),
                    "solved": solved / len(runs),
                    "interval": (interval.low, interval.high),
                    "errors": float(np.median([run[f"{label}: errors"] for run in runs])),
                    "iterations": float(np.median(iterations)) if iterations else float("nan"),
                }
            )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the rows as Markdown."""
    names = ["machine", "P / (K N)", "solver", "solved (95%)", "median errors", "iterations"]
    lines = [[*names, "samples"]]
    for row in rows:
        low, high = row["interval"]
        iterations = f"{row['iterations']:.0f}" if row["solved"] > 0 else ""
        lines.append(
            [
                row["machine"],
                f"{row['alpha']:g}",
                row["solver"],
                f"{row['solved']:.0%} ({low:.0%}-{high:.0%})",
                f"{row['errors']:g}",
                iterations,
                str(row["samples"]),
            ]
        )
    return markdown_table(lines)


def draw(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
    """Draws the share of solved samples against patterns per weight."""
    machines = list(dict.fromkeys(row["machine"] for row in rows))
    options = {"height": 3.9, "sharey": True, "squeeze": False}
    with plots.drawing(path, 1, len(machines), **options) as (figure, panels):
        for panel, machine in zip(panels[0], machines, strict=True):
            chosen = [row for row in rows if row["machine"] == machine]
            for shift, label in enumerate(SOLVERS):
                own = [row for row in chosen if row["solver"] == label]
                _draw_solver(panel, own, label, 0.004 * (shift - 1.5))
            panel.set_title(f"{machine}, {chosen[0]['samples']} samples")
            panel.set(xlabel="patterns per weight, α = P/(KN)", ylim=(-0.03, 1.03))
            if machine.startswith("perceptron"):
                panel.axvspan(*BEST_KNOWN, color="0.9", lw=0, label="best known (Stojnic 2025)")
                label = "capacity (Krauth, Mézard 1989)"
                panel.axvline(CAPACITY, color="0.4", lw=1, ls="--", label=label)
        panels[0][0].set_ylabel("share of samples solved")
        handles, labels = panels[0][0].get_legend_handles_labels()
        plots.legend_below(figure, handles, labels, 3)


def _draw_solver(panel, rows, label, shift):
    """Draws a curve with 95% intervals, shifted a little so that points stay apart."""
    _, name, marker = SOLVERS[label]
    alpha = np.array([row["alpha"] for row in rows]) + shift
    low, high = np.array([row["interval"] for row in rows]).T
    color = plots.COLORS[name]
    panel.vlines(alpha, low, high, color=color, alpha=0.25, lw=1)
    solved = [row["solved"] for row in rows]
    panel.plot(alpha, solved, color=color, marker=marker, ms=4, lw=1.4, label=label)


def run_binary(
    out: pathlib.Path, *, seeds: int = 16, simulate: bool = True, progress: bool = True
) -> str:
    """Simulates, tabulates and draws.

    Args:
      out: directory of the files.
      seeds: samples of the patterns at each point.
      simulate: whether to make simulations, or only report existing ones.
      progress: show a progress bar.

    Returns:
      The table.

    Raises:
      ValueError: there is nothing to report.
    """
    path = out / "binary.jsonl"
    if not simulate and not path.exists():
        raise ValueError(f"out ({out}) holds no simulations of binary weights yet.")
    out.mkdir(parents=True, exist_ok=True)
    if simulate:
        simulations = simulate_points(points(seeds), path, progress=progress)
    else:
        simulations = read_simulations(path)
    rows = tabulate(simulations)
    draw(rows, out / "binary.png")
    text = table(rows)
    store.write_text(out / "binary.md", text + "\n")
    return text
