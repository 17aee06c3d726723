"""Simulates the chapter's points, compares with the theory, draws figures."""

import pathlib
from typing import Any

import numpy as np

from experiments.report import store
from experiments.report.tables import markdown_table
from experiments.studies.gaussian_mixture import algorithms, entropy, figures, minima, replicas
from experiments.studies.gaussian_mixture.description import Chapter
from experiments.studies.simulations import compare, read_simulations, simulate_points

# For each part of the chapter, the function that makes its points, and its figures.
PARTS = {
    "minima": (minima, ("erm", "phase_diagrams")),
    "algorithms": (algorithms, ()),
    "replicas": (replicas, ("replicas",)),
    "entropy": (entropy, ("local_entropy",)),
}


def run_chapter(
    chapter: Chapter, out: pathlib.Path, *, simulate: bool = True, progress: bool = True
) -> str:
    """Simulates what `out` does not hold yet, and reports.

    Args:
      chapter: the chapter.
      out: directory of the files.
      simulate: whether to make simulations, or only report existing ones.
      progress: show a progress bar.

    Returns:
      The table, and the agreement of theory and simulation.

    Raises:
      ValueError: there is nothing to report.
    """
    path = out / "simulations.jsonl"
    if not simulate and not path.exists():
        raise ValueError(f"out ({out}) holds no simulations of this chapter yet.")
    out.mkdir(parents=True, exist_ok=True)
    size = (chapter.num_features, chapter.seeds)
    points = [point for part in chapter.parts for point in PARTS[part][0].points(*size)]
    if simulate:
        simulations = simulate_points(points, path, progress=progress)
    else:
        simulations = read_simulations(path)
    rows = compare(points, simulations)
    names = [name for part in chapter.parts for name in PARTS[part][1]]
    paths = figures.draw(list(dict.fromkeys([*names, *chapter.theory])), rows, out)
    text = f"{table(rows)}\n\n{agreement(rows)}"
    store.write_json(out / "comparison.json", {"rows": rows})
    store.write_text(out / "comparison.md", text + "\n")
    written = ", ".join(path.name for path in paths)
    return f"{text}\n\nwritten: {out}/comparison.json, comparison.md, {written}"


def table(rows: list[dict[str, Any]]) -> str:
    """Tabulates theory and simulation as Markdown."""
    lines = [["curve", "at", "quantity", "theory", "simulation", "z", "samples"]]
    lines += [
        [
            row["curve"],
            f"{row['x']:g}",
            row["quantity"].replace("_", " "),
            f"{row['theory']:.5f}",
            f"{row['mean']:.5f} ± {row['sem']:.5f}",
            f"{row['z']:+.1f}" if np.isfinite(row["z"]) else "",
            str(row["seeds"]),
        ]
        for row in rows
    ]
    return markdown_table(lines)


def agreement(rows: list[dict[str, Any]]) -> str:
    """Counts the test errors that are within three standard errors of the theory."""
    errors = [row for row in rows if row["quantity"].endswith("test_error")]
    if not errors:
        return "no simulations yet"
    z = np.array([row["z"] for row in errors])
    sem = max(row["sem"] for row in errors)
    return (
        f"{len(errors)} test errors: {np.mean(np.abs(z) <= 3):.0%} within 3 standard errors of the "
        f"theory, root mean square z {np.sqrt(np.mean(z**2)):.2f}, largest standard error {sem:.4f}"
    )
