# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A solvable model: theory against simulation
#
# Do flat minima test better? In this model the question has an exact answer.
#
# The data are two Gaussian clouds around $\pm v / \sqrt{N}$ in N dimensions. A linear classifier
# learns to tell them apart from $\alpha N$ patterns. For large N theory gives the test error of
# every minimum, the test error of the Bayes-optimal classifier, and the local entropy around each
# classifier. In the pictures, curves are the theory ($N = \infty$). Points are simulations.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from flatjax import gaussian_mixture as gm
from flatjax.gaussian_mixture import losses, sampling, simulate

REDUCED = os.environ.get("FLATJAX_NOTEBOOK_REDUCED") == "1"
NUM_FEATURES, SAMPLES = (40, 2) if REDUCED else (200, 4)
plt.rcParams.update({"figure.dpi": 90, "font.size": 10, "savefig.bbox": "tight"})
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"]
MIXTURE = {"alpha": 1.0, "delta": 1.0}

# %% [markdown]
# ## Regularisation
#
# The classifier minimises $\sum_\mu l(\sigma^\mu h^\mu) + \frac{\lambda}{2} \lVert w \rVert^2$.
# Here l is the cross-entropy, $\sigma^\mu$ the label of pattern $\mu$, $h^\mu$ the output for it,
# and $\lambda$ the ridge.
#
# - **Balanced classes** ($\rho = 0.5$): a larger ridge is better. The minimum tends to the Hebb
#   rule, which is Bayes-optimal.
# - **One rare class** ($\rho = 0.2$): the best ridge is finite, and no ridge reaches the
#   Bayes-optimal test error.

# %%
LOGISTIC = losses.logistic()
ridges = np.geomspace(1e-2, 1e2, 2 if REDUCED else 40)
simulated_ridges = np.geomspace(1e-2, 1e2, 2 if REDUCED else 5)


def simulate_minimum(lam, rho):
    """Returns the mean test error of minima over samples, and its standard error."""
    errors = []
    for seed in range(SAMPLES):
        patterns = gm.sample(jax.random.key(seed), NUM_FEATURES, rho=rho, **MIXTURE)
        found = simulate.minimise(patterns, LOGISTIC, lam=float(lam), fit_bias=rho != 0.5)
        m, q = gm.overlaps(found.weights, patterns.signal)
        errors.append(gm.generalization_error(m, q, found.bias, delta=MIXTURE["delta"], rho=rho))
    return np.mean(errors), np.std(errors, ddof=1) / SAMPLES**0.5


figure, axes = plt.subplots(1, 2, figsize=(10, 3.7), layout="constrained")
for ax, rho in zip(axes, [0.5, 0.2], strict=True):
    theory = gm.erm(LOGISTIC, lam=ridges, rho=rho, **MIXTURE)
    bayes = float(gm.bayes_optimal(rho=rho, **MIXTURE).test_error)
    points = np.array([simulate_minimum(lam, rho) for lam in simulated_ridges])
    ax.semilogx(ridges, theory.test_error, color=COLORS[0], label="theory")
    mean, sem = points.T
    label = f"N = {NUM_FEATURES}, {SAMPLES} samples"
    ax.errorbar(simulated_ridges, mean, sem, fmt="o", color=COLORS[1], capsize=3, label=label)
    ax.axhline(bayes, color="black", linestyle="--", label="Bayes")
    ax.set(title=f"ρ = {rho}", xlabel="ridge λ", ylabel="test error")
    ax.legend()
    best = int(np.argmin(theory.test_error))
    expected = gm.erm(LOGISTIC, lam=simulated_ridges, rho=rho, **MIXTURE).test_error
    print(f"ρ = {rho}: Bayes {bayes:.4f}, best minimum {theory.test_error[best]:.4f}", end=" ")
    print(f"at λ = {ridges[best]:.2g}; simulations off by {np.round(mean - expected, 4)}", end=", ")
    print(f"standard errors {np.round(sem, 4)}")
plt.show()

# %% [markdown]
# ## Local entropy
#
# How many classifiers at a distance d from a reference make few errors on the training patterns?
# The distance is $d = (1 - o) / 2$, where o is the cosine of the angle to the reference. Each
# training error has the weight $e^{-\beta}$ with β = 1.
#
# The simulated points come from Hamiltonian Monte Carlo. Its trajectories are refracted where a
# pattern changes to the other side of the classifier. An integral over β gives the local entropy φ.

# %%
BETA = 1.0
references = {
    "Hebb rule (Bayes)": (None, gm.hebb_reference(**MIXTURE)),
    "cross-entropy, λ = 1": (1.0, gm.erm_reference(LOGISTIC, lam=1.0, **MIXTURE)),
    "cross-entropy, λ = 0.01": (0.01, gm.erm_reference(LOGISTIC, lam=0.01, **MIXTURE)),
}
overlaps = np.linspace(0.2, 0.98, 6 if REDUCED else 30)
simulated_overlaps = np.array([0.7]) if REDUCED else np.array([0.5, 0.7, 0.9])
MONTE_CARLO_FEATURES = 30 if REDUCED else 80


def simulate_entropy(lam):
    """Samples φ around a minimum or the Hebb rule: means and standard errors."""
    rows = []
    for seed in range(2 if REDUCED else 3):
        patterns = gm.sample(jax.random.key(100 + seed), MONTE_CARLO_FEATURES, **MIXTURE)
        weights = patterns.label @ patterns.x
        if lam is not None:
            weights = simulate.minimise(patterns, LOGISTIC, lam=lam).weights
        found = sampling.sample_local_entropy(
            jax.random.key(seed),
            patterns,
            jnp.asarray(weights, jnp.float32),
            overlap=simulated_overlaps,
            beta=BETA,
            num_nodes=4,
            num_samples=10 if REDUCED else 40,
            burn_in=5 if REDUCED else 15,
        )
        rows.append(np.asarray(found.phi))
    return np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1) / len(rows) ** 0.5


simulated = {name: simulate_entropy(lam) for name, (lam, _) in references.items()}
for name, (mean, sem) in simulated.items():
    print(
        f"{name:24s} test error {float(references[name][1].test_error):.4f}", end=", simulated φ "
    )
    print(", ".join(f"{a:.3f} ± {b:.3f}" for a, b in zip(mean, sem, strict=True)))

# %% [markdown]
# Is the flatter minimum the better one? The right picture shows the minima for all ridges, at three
# distances.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.9), layout="constrained")
for (name, (_, reference)), color, marker in zip(references.items(), COLORS, "osD", strict=False):
    found = gm.local_entropy(reference, overlap=overlaps, beta=BETA)
    left.plot((1 - overlaps) / 2, found.phi, color=color, label=name)
    mean, sem = simulated[name]
    left.errorbar((1 - simulated_overlaps) / 2, mean, sem, fmt=marker, color=color, capsize=3)
left.set(xlabel="distance d", ylabel="local entropy φ at β = 1")
left.legend(title=f"points: N = {MONTE_CARLO_FEATURES}")

lams = np.geomspace(1e-2, 1e1, 4 if REDUCED else 20)
regularised = gm.erm_reference(LOGISTIC, lam=lams, **MIXTURE)
for distance, color, style in zip([0.02, 0.15, 0.35], COLORS, ["-", "--", "-."], strict=False):
    found = gm.local_entropy(regularised, overlap=1 - 2 * distance, beta=BETA)
    # Subtract the maximum, because only the order matters.
    relative = found.phi - np.max(found.phi)
    right.plot(relative, regularised.test_error, style, color=color, label=f"d = {distance}")
    correlation = np.corrcoef(found.phi, regularised.test_error)[0, 1]
    print(f"d = {distance}: correlation of local entropy and test error {correlation:+.2f}")
right.set(xlabel="local entropy φ, less its maximum", ylabel="test error")
right.legend(title="minima, λ = 0.01 to 10")
plt.show()

# %% [markdown]
# ## What you see
#
# - **Theory and simulation agree.** The simulated test errors are within two standard errors of the
#   theory.
# - **The flatter minima test worse here.** At each of the three distances, local entropy and test
#   error are positively correlated (0.93, 0.68 and 1.00). At d = 0.15 the relation is not even
#   monotone: the flattest minimum lies between the best and the worst.
# - **The answer depends on how flatness is counted.** Here training errors are allowed (β = 1). If
#   only error-free classifiers are counted, the flatter solutions test better at large distances:
#   see the chapter on mixtures in `docs/results`.
