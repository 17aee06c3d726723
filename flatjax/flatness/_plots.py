"""Pictures of single results, with symbols, units and legends."""

from typing import Any

import numpy as np

from flatjax.flatness import _optional

BLUE, GREY = "#0072B2", "#8c8c8c"


def plot_local_energy(found: Any, name: str, ax: Any, style: dict[str, Any]) -> Any:
    """Draws the picture of `LocalEnergy.plot`."""
    if name not in found.mean:
        raise ValueError(f"name must be one of {sorted(found.mean)}, got {name!r}.")
    ax = _optional.new_axes("LocalEnergy.plot", ax)
    mean, sem = (np.atleast_2d(values[name]) for values in (found.mean, found.sem))
    label = style.pop("label", name)
    for m, (values, errors) in enumerate(zip(mean, sem, strict=True)):
        one = label if len(mean) == 1 else f"{label}, solution {m}"
        options = {"marker": "o", "markersize": 3, "capsize": 2, "label": one} | style
        ax.errorbar(found.sigma, values, errors, **options)
    ax.set(xlabel="σ, strength of the noise", ylabel=f"δE(σ), rise of the {name}, ± s.e.")
    ax.legend(frameon=False)
    return ax


def plot_local_entropy(found: Any, ax: Any, style: dict[str, Any]) -> Any:
    """Draws the picture of `LocalEntropy.plot`."""
    ax = _optional.new_axes("LocalEntropy.plot", ax)
    per_weight = found.log_volume[:, 1:] / found.num_weights
    errors = found.log_volume_sem[:, 1:] / found.num_weights
    label = style.pop("label", "")
    for beta, values, sems in zip(found.beta[1:], per_weight.T, errors.T, strict=True):
        one = f"{label}, β = {beta:g}".removeprefix(", ")
        options = {"marker": "o", "markersize": 3, "capsize": 2, "label": one} | style
        ax.errorbar(found.distance, values, sems, **options)
    doubtful = ~np.atleast_1d(found.converged)
    if doubtful.any():
        at = np.broadcast_to(found.distance[doubtful, None], per_weight[doubtful].shape)
        marks = {"marker": "x", "linestyle": "", "color": "black", "label": "not converged"}
        ax.plot(at.ravel(), per_weight[doubtful].ravel(), **marks)
    ax.set(xlabel="d, distance (unit of the prior)", ylabel="F(β), nats per weight, ± s.e.")
    ax.legend(frameon=False)
    return ax


def plot_spectral_density(found: Any, ax: Any, style: dict[str, Any]) -> Any:
    """Draws the picture of `SpectralDensity.plot`."""
    ax = _optional.new_axes("SpectralDensity.plot", ax)
    (curve,) = ax.plot(found.grid, found.density, **{"color": BLUE, "label": "density"} | style)
    # The contribution of one eigenvalue at its place; densities below it are only tails.
    one = 1 / (found.dimension * found.width * np.sqrt(2 * np.pi))
    low, high = (np.maximum(found.density + s * found.sem, one / 30) for s in (-1, 1))
    ax.fill_between(
        found.grid, low, high, color=curve.get_color(), alpha=0.25, linewidth=0, label="± s.e."
    )
    ax.axhline(one, color=GREY, linestyle="--", linewidth=1, label="one eigenvalue")
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.set(xlabel="λ, eigenvalue (loss per weight²)", ylabel="ρ(λ), share of eigenvalues per λ")
    ax.set(yscale="log", ylim=(one / 10, 3 * np.max(found.density)))
    ax.legend(frameon=False)
    return ax
