"""The chapter's figures: curves of the theory, simulated points with error bars."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.report import plots
from experiments.studies.gaussian_mixture.minima import BALANCED, LOSSES, UNBALANCED
from flatjax import gaussian_mixture as gm

Rows = Sequence[dict[str, Any]]

DISTANCES = 60  # at which a curve of the local entropy is computed
SHADES = ("#F0A35E", "#D55E00", "#7A2E00")  # of the cross-entropy: its ridge, large to small
BLUES = ("#56B4E9", "#0072B2", "#023e8a")
COLORS = {"square": "#0072B2", "logistic": "#D55E00", "hinge": "#009E73", "Hebb": "#000000"}


def draw(names: Sequence[str], rows: Rows, directory: pathlib.Path) -> list[pathlib.Path]:
    """Draws figures of `FIGURES` into a directory; returns the files."""
    paths = [directory / f"{name}.png" for name in names]
    for name, path in zip(names, paths, strict=True):
        FIGURES[name](rows, path)
    return paths


def erm(rows: Rows, path: pathlib.Path) -> None:
    """Draws the test error of minima against ridge (balanced, unbalanced) and norm."""
    with plots.drawing(path, 1, 3, height=3.0) as (figure, panels):
        for panel, mixture in zip(panels, (BALANCED, UNBALANCED), strict=False):
            lam = np.geomspace(1e-3, 30, 80)
            for name, loss in LOSSES.items():
                found = gm.erm(loss, lam=lam, **mixture)
                panel.plot(lam, found.test_error, color=COLORS[name], label=name)
                curve = f"ridge: {name}, rho={mixture['rho']:g}"
                _points(panel, rows, curve, "test_error", color=COLORS[name])
            _bayes(panel, mixture)
            title = "ridge, α={alpha:g}, Δ={delta:g}, ρ={rho:g}".format(**mixture)
            panel.set(xscale="log", xlabel="ridge λ", ylabel="test error")
            panel.set_title(title)
        norm = np.geomspace(0.03, 300, 80)
        for name, loss in LOSSES.items():
            found = gm.erm(loss, norm=norm, **BALANCED)
            panels[2].plot(norm, found.test_error, color=COLORS[name])
            _points(panels[2], rows, f"norm: {name}", "test_error", color=COLORS[name])
        _bayes(panels[2], BALANCED)
        limit = gm.max_margin(**BALANCED).test_error
        panels[2].axhline(limit, color="0.6", lw=0.8)
        panels[2].annotate("largest margin", (300, limit), va="bottom", ha="right", color="0.4")
        panels[2].set(xscale="log", xlabel="norm |w|²/N", ylabel="test error", ylim=(0.23, 0.4))
        panels[2].set_title("norm, α=1, Δ=1, ρ=0.5")
        _legend(figure, panels[0])


def local_entropy(rows: Rows, path: pathlib.Path) -> None:
    """Draws local entropy against distance: no errors, finite beta, noisy Hebb."""
    with plots.drawing(path, 1, 3, height=3.2) as (figure, panels):
        distance = np.linspace(0.005, 0.45, DISTANCES)
        params = {"alpha": 1.0, "delta": 1.0}
        logistic = LOSSES["logistic"]
        references = {
            "Hebb (Bayes)": (gm.hebb_reference(**params), COLORS["Hebb"]),
            "cross-entropy, λ=1": (gm.erm_reference(logistic, lam=1.0, **params), SHADES[0]),
            "cross-entropy, λ=0.1": (gm.erm_reference(logistic, lam=0.1, **params), SHADES[1]),
            "cross-entropy, λ=0.01": (gm.erm_reference(logistic, lam=0.01, **params), SHADES[2]),
        }
        for panel, beta in zip(panels, (np.inf, 1.0), strict=False):
            for label, (reference, color) in references.items():
                found = gm.local_entropy(reference, overlap=1 - 2 * distance, beta=beta)
                panel.plot(distance, found.phi, color=color, label=label)
                curve = f"local entropy, beta={beta:g}: {label}"
                _points(panel, rows, curve, "phi", color=color)
            kind = "no training errors" if np.isinf(beta) else f"errors at β={beta:g}"
            panel.set(xlabel="distance d = (1 - o) / 2", ylabel="local entropy φ")
            panel.set_title(kind)
        panels[0].set(ylim=(-1.1, 0.02))
        for overlap, color in zip((1.0, 0.9, 0.7, 0.5), ("#000000", *BLUES), strict=True):
            reference = gm.noisy_hebb_reference(overlap=overlap, **params)
            found = gm.local_entropy(reference, overlap=1 - 2 * distance)
            error = float(reference.test_error)
            panels[2].plot(
                distance, found.phi, color=color, label=f"c={overlap:g}, error {error:.3f}"
            )
            name = "Hebb (Bayes)" if overlap == 1 else f"noisy Hebb, c={overlap:g}"
            _points(panels[2], rows, f"local entropy, beta=inf: {name}", "phi", color=color)
        panels[2].set(
            xlabel="distance d = (1 - o) / 2", ylabel="local entropy φ", ylim=(-1.3, 0.02)
        )
        panels[2].set_title("copies of the Hebb rule")
        _legend(figure, *panels[1:], columns=4)


def replicas(rows: Rows, path: pathlib.Path) -> None:
    """Draws the barycenter against q1 and y, and the mean against temperature."""
    with plots.drawing(path, 1, 3, height=3.0) as (figure, panels):
        params = {"alpha": 1.0, "delta": 1.0}
        q1 = np.linspace(0.475, 0.99, 25)
        colors = dict(zip((2, 3, 7, np.inf), (*BLUES, "#000000"), strict=True))
        for y, color in colors.items():
            found = gm.replicated_sphere(y=y, q1=q1, **params)
            label = "y=∞" if np.isinf(y) else f"y={y}"
            panels[0].plot(q1, found.center_test_error, color=color, label=label)
            _points(panels[0], rows, f"barycenter: y={y:g}", "barycenter_test_error", color=color)
        _bayes(panels[0], params)
        panels[0].set(xlabel="overlap of replicas q₁", ylabel="test error of the center")
        panels[0].set_title("mean of y replicas, β=∞")

        beta = np.geomspace(0.05, 8, 40)
        counting = gm.replicated_sphere(y=1.0, beta=beta, **params)
        smooth = gm.replicated(LOSSES["logistic"], y=1.0, beta=beta, lam=0.1, **params)
        titles = ("error counting", "cross-entropy, λ=0.1")
        for panel, found, title in zip(panels[1:], (counting, smooth), titles, strict=True):
            panel.plot(beta, found.thermal_mean_test_error, color="#000000", label="thermal mean")
            panel.plot(beta, found.test_error, color="#D55E00", label="one sample")
            curve = f"temperature: {title}"
            _points(panel, rows, curve, "thermal_mean_test_error", color="#000000")
            _points(panel, rows, curve, "test_error", color="#D55E00")
            _bayes(panel, params)
            panel.set(xscale="log", xlabel="inverse temperature β", ylabel="test error")
            panel.set_title(title)
        minimum = float(gm.erm(LOSSES["logistic"], lam=0.1, **params).test_error)
        panels[2].axhline(minimum, color="0.6", lw=0.8)
        panels[2].annotate("minimum", (0.05, minimum), va="bottom", color="0.4")
        _legend(figure, *panels[:2])


def phase_diagrams(rows: Rows, path: pathlib.Path) -> None:
    """Draws cross-entropy's excess over Bayes as two phase diagrams."""
    with plots.drawing(path, 1, 2, height=3.2) as (figure, panels):
        loss = LOSSES["logistic"]
        alpha, delta = np.geomspace(0.1, 10, 60), np.geomspace(0.1, 10, 60)[:, None]
        found = gm.erm(loss, alpha=alpha, delta=delta, lam=0.01).test_error
        excess = found - gm.bayes_optimal(alpha=alpha, delta=delta).test_error
        _heat(figure, panels[0], alpha, delta[:, 0], excess)
        threshold = gm.separability_threshold(delta=delta[:, 0])
        panels[0].plot(threshold, delta[:, 0], color="white", label="separable to the left")
        panels[0].legend(loc="lower left", labelcolor="white")
        panels[0].set(xlabel="patterns per feature α", ylabel="noise Δ", xlim=(0.1, 10))
        panels[0].set_title("cross-entropy, λ=0.01")

        lam, unbalanced = np.geomspace(0.01, 10, 60)[:, None], {"delta": 1.0, "rho": 0.2}
        found = gm.erm(loss, alpha=alpha, lam=lam, **unbalanced).test_error
        excess = found - gm.bayes_optimal(alpha=alpha, **unbalanced).test_error
        _heat(figure, panels[1], alpha, lam[:, 0], excess)
        panels[1].plot(alpha, lam[found.argmin(axis=0), 0], color="white", label="best λ")
        panels[1].set(xlabel="patterns per feature α", ylabel="ridge λ")
        panels[1].set_title("cross-entropy, Δ=1, ρ=0.2")
        panels[1].legend(loc="upper left", labelcolor="white")


def _points(panel, rows, curve, quantity, color):
    chosen = [row for row in rows if row["curve"] == curve and row["quantity"] == quantity]
    if chosen:
        x, mean, sem = ([row[name] for row in chosen] for name in ("x", "mean", "sem"))
        panel.errorbar(x, mean, sem, fmt="o", ms=3.5, color=color, elinewidth=1)


def _legend(figure, *panels, columns=8):
    """Puts one legend for all panels below them."""
    entries = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    plots.legend_below(figure, entries.values(), entries, min(columns, len(entries)))


def _bayes(panel, mixture):
    panel.axhline(gm.bayes_optimal(**mixture).test_error, color="black", ls=":", label="Bayes")


def _heat(figure, panel, x, y, excess):
    image = panel.pcolormesh(x, y, excess, cmap="viridis", shading="nearest", rasterized=True)
    panel.set(xscale="log", yscale="log")
    figure.colorbar(image, ax=panel, label="test error above Bayes")


FIGURES = {
    "erm": erm,
    "phase_diagrams": phase_diagrams,
    "replicas": replicas,
    "local_entropy": local_entropy,
}
