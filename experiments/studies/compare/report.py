"""The report of a comparison: a table, JSON and pictures."""

import pathlib
import textwrap
from typing import Any

import numpy as np

from experiments.report import plots, store
from experiments.report.meeting import meeting_of, not_met
from experiments.report.plots import COLORS
from experiments.report.statistics import mean_and_sem, standard_error, with_error
from experiments.report.tables import markdown_table
from experiments.studies.compare.description import Comparison

Results = dict[str, list[dict[str, Any]]]


def report(study: Comparison, results: Results, out: pathlib.Path) -> str:
    """Writes comparison.json, comparison.md and pictures; returns the text."""
    rows = summarize(results, study.sigma)
    settings = {"base": study.base.to_json(), "runs": study.runs}
    store.write_json(out / "comparison.json", settings | {"summary": rows})
    text = table(rows, study.sigma)
    store.write_text(out / "comparison.md", text + "\n")
    draw(study, results, out / "comparison.png")
    if has_batch_statistics([run for runs in results.values() for run in runs]):
        draw_batch_statistics(results, out / "batch_statistics.png")
    base = study.base
    where = f"{base.data.dataset}, {base.network.model}, {base.data.evaluate_on}"
    paragraphs = [
        f"\n{where}: errors in %. {_caption(rows)}",
        text,
        conclusion(study, results),
        f"written: {out / 'comparison.json'}, comparison.md, comparison.png",
    ]
    return "\n\n".join(filter(None, paragraphs))


def conclusion(study: Comparison, results: Results) -> str:
    """Says what the table shows, and in which runs replicas have not met."""
    warnings = {
        label: not_met([meeting_of(run) for run in runs]) for label, runs in results.items()
    }
    found = [f"{label}: {warning}" for label, warning in warnings.items() if warning is not None]
    paragraphs = [study.conclusion, *(f"warning: {warning}" for warning in found)]
    return "\n".join(textwrap.fill(one, 100) for one in paragraphs if one)


def _caption(rows: dict[str, dict[str, Any]]) -> str:
    """Explains the error after ±, and the columns."""
    counts = sorted({row["seeds"] for row in rows.values()})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    text = f"Mean ± standard error over {seeds} seeds."
    if counts == [1]:
        text = "One seed each, so that no error is known."
    if all("averaged_statistics_error" in row for row in rows.values()):
        text += '\n"averaged" is the test error with averaged batch statistics.'
    return text


def summarize(results: Results, sigma: float) -> dict[str, dict[str, Any]]:
    """Computes means and standard errors over seeds, one row for each label."""
    rows = {}
    for label, runs in results.items():
        if not runs:
            continue
        energies = [run["local_energy"] for run in runs]
        at = energies[0]["sigma"].index(sigma)
        rows[label] = {
            "algorithm": runs[0]["config"]["algorithm"],
            "seeds": len(runs),
            "gradient_evaluations": runs[0]["gradient_evaluations"],
            "test_error": mean_and_sem([run["test_error"] for run in runs]),
            "train_error": mean_and_sem([run["train_error"] for run in runs]),
            "replica_error": mean_and_sem([np.mean(run["replica_test_errors"]) for run in runs]),
            "ensemble_error": mean_and_sem([run["ensemble_test_error"] for run in runs]),
            "local_energy": mean_and_sem([energy["error"][at] for energy in energies]),
            "seconds": mean_and_sem([run["seconds"] for run in runs]),
        }
        if has_batch_statistics(runs):
            errors = [run["test_error_averaged_statistics"] for run in runs]
            rows[label]["averaged_statistics_error"] = mean_and_sem(errors)
    return rows


def has_batch_statistics(runs: list[dict[str, Any]]) -> bool:
    """Whether the network has batch norm, and so two kinds of statistics."""
    return all("test_error_averaged_statistics" in run for run in runs)


def table(rows: dict[str, dict[str, Any]], sigma: float) -> str:
    """Formats the summary as a Markdown table."""
    header = ["algorithm", "test error", "replicas", "ensemble", "training"]
    header += [f"energy σ={sigma:g}", "gradients", "seconds"]
    with_statistics = all("averaged_statistics_error" in row for row in rows.values())
    if with_statistics:  # this replaces the ensemble, so that a line fits 100 columns
        header[3] = "averaged"
    lines = [header]
    for label, row in rows.items():
        pair = lambda name, row=row: with_error(*row[name], row["seeds"])
        third = "averaged_statistics_error" if with_statistics else "ensemble_error"
        lines.append(
            [
                label,
                pair("test_error"),
                f"{row['replica_error'][0]:.2f}",
                f"{row[third][0]:.2f}",
                f"{row['train_error'][0]:.2f}",
                pair("local_energy"),
                f"{row['gradient_evaluations']:,}",
                f"{row['seconds'][0]:.1f}",
            ]
        )
    return markdown_table(lines)


# --- pictures ----------------------------------------------------------------------------------


def draw(study: Comparison, results: Results, path: pathlib.Path) -> None:
    """Draws training curves, local energy against noise, and test error against it."""
    with plots.drawing(path, 1, 3, height=3.1) as (figure, panels):
        curves, energies, scatter = panels
        colors = _colors(results)
        for label, runs in results.items():
            if runs:
                style = _style(label, runs[0]) | {"color": colors[label]}
                _draw_curves(curves, runs, style)
                _draw_energies(energies, runs, style)
                _draw_scatter(scatter, runs, study.sigma, style)
        where = study.base.data.evaluate_on
        curves.set(xlabel="gradient evaluations", ylabel=f"{where} error (%)")
        plots.logarithmic(curves)
        curves.set_title("training")
        energies.set(xlabel="noise σ (multiplicative)", ylabel="rise of training error (%)")
        energies.set_title("local energy")
        scatter.set(xlabel=f"rise at σ = {study.sigma:g} (%)", ylabel=f"{where} error (%)")
        scatter.set_title("flatness and test error")
        handles, labels = energies.get_legend_handles_labels()
        plots.legend_below(figure, handles, labels, min(len(labels), 6))
        title = f"{study.base.data.dataset}, {study.base.network.model}, {_seeds(results)}"
        figure.suptitle(title, x=0.01, ha="left")


def _seeds(results):
    counts = sorted({len(runs) for runs in results.values() if runs})
    return f"{' or '.join(map(str, counts))} seed{'' if counts == [1] else 's'}"


def _colors(results: Results) -> dict[str, Any]:
    """Returns colours of the algorithms; variants of a single one get other colours."""
    algorithms = {label: runs[0]["config"]["algorithm"] for label, runs in results.items() if runs}
    if len(algorithms) > 1 and len(set(algorithms.values())) == 1:
        shades = plots.shades(len(algorithms))
        return dict(zip(algorithms, shades, strict=True))
    return {label: COLORS[algorithm] for label, algorithm in algorithms.items()}


def _style(label: str, run: dict[str, Any]) -> dict[str, Any]:
    line = "--" if " x " in label or run["config"]["algorithm"] == "ema" else "-"
    return {"label": label, "linestyle": line}


def _draw_curves(axes, runs, style):
    histories = [run["history"] for run in runs]
    gradients = [record["gradients"] for record in histories[0]]
    errors = np.array([[record["test_error"] for record in history] for history in histories])
    axes.plot(gradients, errors.mean(axis=0), **style)


def _draw_energies(axes, runs, style):
    sigma = runs[0]["local_energy"]["sigma"]
    rises = np.array([run["local_energy"]["error"] for run in runs])
    spread = standard_error(rises)
    axes.plot(sigma, rises.mean(axis=0), **style)
    axes.fill_between(
        sigma,
        rises.mean(axis=0) - spread,
        rises.mean(axis=0) + spread,
        color=style["color"],
        alpha=0.15,
        linewidth=0,
    )


def _draw_scatter(axes, runs, sigma, style):
    at = runs[0]["local_energy"]["sigma"].index(sigma)
    x = np.array([run["local_energy"]["error"][at] for run in runs])
    y = np.array([run["test_error"] for run in runs])
    is_longer = style["linestyle"] == "--"
    face = "white" if is_longer else style["color"]
    axes.scatter(x, y, s=10, color=style["color"], alpha=0.3, linewidths=0)
    axes.errorbar(
        x.mean(),
        y.mean(),
        xerr=standard_error(x),
        yerr=standard_error(y),
        fmt="o",
        color=style["color"],
        markerfacecolor=face,
        markersize=7,
    )


def draw_batch_statistics(results: Results, path: pathlib.Path) -> None:
    """Draws the training error with re-estimated and with averaged batch statistics."""
    shown = {label: runs for label, runs in results.items() if runs}
    options = {"height": 2.8, "sharey": True, "squeeze": False}
    with plots.drawing(path, 1, len(shown), **options) as (_, grid):
        for panel, (label, runs) in zip(grid[0], shown.items(), strict=True):
            histories = [run["history"] for run in runs]
            gradients = [record["gradients"] for record in histories[0]]
            for field, line, name in (
                ("test_error", "-", "re-estimated"),
                ("test_error_averaged_statistics", ":", "averaged"),
            ):
                errors = np.mean([[row[field] for row in history] for history in histories], axis=0)
                color = COLORS[runs[0]["config"]["algorithm"]]
                panel.plot(gradients, errors, line, color=color, label=name)
            panel.set_title(label)
            panel.set(xlabel="gradient evaluations")
            plots.logarithmic(panel)
            panel.legend(title="batch statistics")
        grid[0, 0].set_ylabel("error (%)")
