"""Pictures of studies."""

import pathlib
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from experiments.configs import Study
from experiments.report.statistics import standard_error

STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}

# Okabe and Ito's palette: told apart by everyone. One algorithm keeps its colour in all pictures;
# its longer run is dashed.
COLORS = {
    "sgd": "#000000",
    "sam": "#E69F00",
    "swa": "#999999",
    "ema": "#999999",
    "esgd": "#009E73",
    "rsgd": "#D55E00",
    "rsam": "#CC79A7",
    "esam": "#56B4E9",
    "parle": "#0072B2",
}


def comparison(results: dict[str, list[dict[str, Any]]], study: Study, path: pathlib.Path) -> None:
    """Training curves, local energy against noise, and test error against local energy."""
    with plt.rc_context(STYLE):
        figure, (curves, energies, scatter) = plt.subplots(1, 3, figsize=(12, 3.8))
        colors = _colors(results)
        for label, runs in results.items():
            if runs:
                style = _style(label, runs[0]) | {"color": colors[label]}
                _draw_curves(curves, runs, style)
                _draw_energies(energies, runs, style)
                _draw_scatter(scatter, runs, study.sigma, style)
        where = study.base.evaluate_on
        curves.set(xlabel="gradient evaluations", ylabel=f"{where} error (%)")
        _logarithmic(curves)
        curves.set_title("training", loc="left", fontweight="bold")
        energies.set(xlabel="noise σ (multiplicative)", ylabel="rise of training error (%)")
        energies.set_title("local energy", loc="left", fontweight="bold")
        scatter.set(xlabel=f"local energy at σ = {study.sigma:g} (%)", ylabel=f"{where} error (%)")
        scatter.set_title("flatness and generalisation", loc="left", fontweight="bold")
        handles, labels = energies.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(len(labels), 9), frameon=False
        )
        figure.suptitle(
            f"{study.base.dataset}, {study.base.model}, {_seeds(results)}",
            x=0.01,
            ha="left",
        )
        figure.tight_layout(rect=(0, 0.07, 1, 1))
        figure.savefig(path, dpi=150)
        plt.close(figure)


def _logarithmic(axes):
    """A logarithmic axis of errors, with labels at 1, 2, 5, 10, ..."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:.0e}"[0] in "25" else "")


def _seeds(results):
    counts = sorted({len(runs) for runs in results.values() if runs})
    return f"{' or '.join(map(str, counts))} seed{'' if counts == [1] else 's'}"


def _colors(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Colours of the algorithms; variants of a single one are told apart by other colours."""
    algorithms = {label: runs[0]["config"]["algorithm"] for label, runs in results.items() if runs}
    if len(algorithms) > 1 and len(set(algorithms.values())) == 1:
        shades = plt.cm.viridis(np.linspace(0, 0.9, len(algorithms)))
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


def batch_statistics(results: dict[str, list[dict[str, Any]]], path: pathlib.Path) -> None:
    """Error during training with re-estimated and with averaged batch statistics, side by side."""
    shown = {label: runs for label, runs in results.items() if runs}
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            1, len(shown), figsize=(1 + 2.2 * len(shown), 2.8), sharey=True, squeeze=False
        )
        for panel, (label, runs) in zip(panels[0], shown.items(), strict=True):
            histories = [run["history"] for run in runs]
            gradients = [record["gradients"] for record in histories[0]]
            for field, line, name in (
                ("test_error", "-", "re-estimated"),
                ("test_error_averaged_statistics", ":", "averaged"),
            ):
                errors = np.mean([[row[field] for row in history] for history in histories], axis=0)
                color = COLORS[runs[0]["config"]["algorithm"]]
                panel.plot(gradients, errors, line, color=color, label=name)
            panel.set_title(label, loc="left", fontweight="bold")
            panel.set(xlabel="gradient evaluations")
            _logarithmic(panel)
            panel.legend(frameon=False, title="batch statistics")
        panels[0, 0].set_ylabel("error (%)")
        figure.tight_layout()
        figure.savefig(path, dpi=150)
        plt.close(figure)


_DIVERGED = 20.0  # points above SGD that only runs reach that did not learn


def contest(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Paired differences to SGD with their intervals, a panel for each setting."""
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    labels = list(dict.fromkeys(row["algorithm"] for row in rows if "p" in row))
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            1,
            len(settings),
            figsize=(1.8 + 2.4 * len(settings), 1.2 + 0.32 * len(labels)),
            sharey=True,
            squeeze=False,
        )
        for panel, setting in zip(panels[0], settings, strict=True):
            for row in rows:
                if row["setting"] != setting or "p" not in row:
                    continue
                height, color = labels.index(row["algorithm"]), COLORS[row["base"]]
                if row["difference"] > _DIVERGED:  # would squeeze the others
                    note = f"{row['difference']:+.0f}, diverged"
                    side = panel.get_yaxis_transform()
                    panel.text(0.03, height, note, va="center", transform=side)
                    continue
                panel.plot(row["interval"], [height] * 2, color=color, lw=2, alpha=0.6)
                panel.plot(row["difference"], height, "o", color=color)
            panel.axvline(0, color=COLORS["sgd"], lw=0.8)
            (sgd,) = (row for row in rows if row["setting"] == setting and "p" not in row)
            panel.set_title(setting, loc="left", fontweight="bold")
            panel.set_xlabel("SGD {:.2f} ± {:.2f}".format(*sgd["test_error"]))
            panel.set_yticks(range(len(labels)), labels)
            panel.set_ylim(len(labels) - 0.5, -0.5)
        figure.suptitle("test error minus that of SGD (%)", x=0.01, ha="left")
        figure.tight_layout()
        figure.savefig(path, dpi=150)
        plt.close(figure)


def flatness_curves(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Local energy against noise, a curve for each run, and test error against local energy."""
    with plt.rc_context(STYLE):
        figure, (curves, scatter) = plt.subplots(1, 2, figsize=(9, 3.8))
        labelled = set()
        for row in rows:
            color, curve = COLORS[row["algorithm"]], row["curve"]
            label = None if row["algorithm"] in labelled else row["algorithm"]
            labelled.add(row["algorithm"])
            curves.errorbar(
                curve["sigma"], curve["error"], curve["error_sem"], color=color, label=label
            )
            scatter.plot(row["local_energy"], row["test_error"], "o", color=color)
        curves.set(xlabel="noise σ (multiplicative)", ylabel="rise of training error (%)")
        curves.set_title("local energy", loc="left", fontweight="bold")
        curves.legend(frameon=False)
        scatter.set(xlabel="local energy (%)", ylabel="test error (%)")
        scatter.set_title("flatness and generalisation", loc="left", fontweight="bold")
        figure.tight_layout()
        figure.savefig(path, dpi=150)
        plt.close(figure)


STUDY_STYLES = {
    "SGD": "sgd",
    "SAM": "sam",
    "SWA": "swa",
    "eSGD": "esgd",
    "rSGD": "rsgd",
    "rSGD x 3": "rsgd",
    "Parle": "parle",
}


def flatness_study(solutions: dict[str, list[dict[str, Any]]], path: pathlib.Path) -> None:
    """For each task: mean local energy curves above, test error against local energy below."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            2, len(solutions), figsize=(1 + 3.6 * len(solutions), 6.4), squeeze=False
        )
        for (task, rows), curves, scatter in zip(
            solutions.items(), panels[0], panels[1], strict=True
        ):
            rows = [row for row in rows if not row.get("diverged")]
            for algorithm in dict.fromkeys(row["factors"]["algorithm"] for row in rows):
                own = [row for row in rows if row["factors"]["algorithm"] == algorithm]
                color = COLORS[STUDY_STYLES[algorithm]]
                is_longer = algorithm.endswith("x 3")
                energies = np.array([row["curve"]["error"] for row in own])
                sigma = own[0]["curve"]["sigma"]
                curves.errorbar(
                    sigma,
                    energies.mean(axis=0),
                    standard_error(energies),
                    color=color,
                    ls="--" if is_longer else "-",
                    label=algorithm,
                )
                x, y = ([row[name] for row in own] for name in ("local_energy", "test_error"))
                face = "none" if is_longer else color
                scatter.scatter(x, y, s=14, facecolors=face, edgecolors=color, alpha=0.8)
            curves.set_title(task, loc="left", fontweight="bold")
            curves.set(xlabel="noise σ (multiplicative)", ylabel="rise of training error (%)")
            scatter.set(xlabel="local energy (%)", ylabel="test error (%)", xscale="log")
            _logarithmic(scatter)  # networks that collapsed would squeeze the others
        panels[0][0].legend(frameon=False, fontsize=8)
        figure.tight_layout()
        figure.savefig(path, dpi=150)
        plt.close(figure)
