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
# # Flatness of several solutions
#
# Which measure of flatness ranks networks in the same order as the test error? Small networks are
# trained on scikit-learn's digits with several learning rates, weight decays and seeds. Half of
# them learn clean labels. The other half learn labels of which 20% are wrong.

# %%
import itertools
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

from flatjax import flatness, models

REDUCED = os.environ.get("FLATJAX_NOTEBOOK_REDUCED") == "1"
STEPS, SEEDS = (20, 1) if REDUCED else (600, 2)
plt.rcParams.update({"figure.dpi": 90, "font.size": 10, "savefig.bbox": "tight"})

images, labels = load_digits(return_X_y=True)
images, labels = jnp.asarray(images.reshape(-1, 8, 8, 1) / 8 - 1, jnp.float32), jnp.asarray(labels)
train_x, clean_y, test_x, test_y = images[:600], labels[:600], images[600:], labels[600:]
wrong = jax.random.bernoulli(jax.random.key(0), 0.2, clean_y.shape)
shift = jax.random.randint(jax.random.key(1), clean_y.shape, 1, 10)
noisy_y = jnp.where(wrong, (clean_y + shift) % 10, clean_y)
model = models.create("mlp", 10, hidden=(32,))

# %% [markdown]
# ## Solutions
#
# All networks are trained at once: the training is vmapped over their settings.

# %%
LEARNING_RATES, WEIGHT_DECAYS = [0.01, 0.05, 0.2], [0.0, 3e-3, 2e-2]
grid = np.array(list(itertools.product(LEARNING_RATES, WEIGHT_DECAYS, range(SEEDS))))


def loss(params, x, y):
    """Returns the mean cross-entropy."""
    logits = model.apply({"params": params}, x, train=True)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def train(setting, labels):
    """Trains one solution by SGD with Nesterov momentum and a falling learning rate."""
    learning_rate, weight_decay, seed = setting
    key = jax.random.key(seed.astype(int))
    tx = optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(1.0, momentum=0.9, nesterov=True)
    )
    cooling = optax.cosine_decay_schedule(1.0, STEPS)
    params = model.init(key, train_x[:1], train=False)["params"]

    def step(carry, t):
        params, state = carry
        rows = jax.random.randint(jax.random.fold_in(key, t), (64,), 0, len(train_x))
        grads = jax.grad(loss)(params, train_x[rows], labels[rows])
        updates, state = tx.update(grads, state, params)
        updates = optax.tree.scale(learning_rate * cooling(t), updates)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(STEPS))[0][0]


train_all = jax.jit(jax.vmap(train, in_axes=(0, None)))
LABELS = {"clean": clean_y, "20% wrong": noisy_y}
solutions = {name: train_all(jnp.asarray(grid), y) for name, y in LABELS.items()}

# %% [markdown]
# ## Measures
#
# Every measure gets an evaluation function that sums over a batch. It is then called with
# parameters and batches. The local energy measures stacked solutions together. The other measures
# take one solution at a time, and compile only once.


# %%
def eval_fn(params, batch):
    """Returns sums over the batch, and its size."""
    logits = model.apply({"params": params}, batch["image"], train=False)
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    error = 100.0 * (logits.argmax(-1) != batch["label"]).sum()
    return {"error": error, "loss": losses.sum(), "count": len(batch["label"])}


SIGMA = 0.3
hessian = flatness.hessian_operator(eval_fn)
options = {"sigmas": [0.1, SIGMA], "num_samples": 4 if REDUCED else 40, "antithetic": True}
local_energy = flatness.local_energy(eval_fn, stacked=True, **options)
sam = flatness.sam_sharpness(eval_fn, rho=0.05)
adaptive_sam = flatness.sam_sharpness(eval_fn, rho=0.5, adaptive=True)
top_eigenvalue = flatness.top_eigenvalues(hessian, num_matvecs=5 if REDUCED else 15)
trace = flatness.trace(hessian, num_samples=2 if REDUCED else 20)
key = jax.random.key(0)
ONE_BY_ONE = {
    "SAM, ρ = 0.05": lambda params, batches: sam(params, batches).rise["loss"],
    "adaptive SAM, ρ = 0.5": lambda params, batches: adaptive_sam(params, batches).rise["loss"],
    "largest eigenvalue": lambda params, batches: top_eigenvalue(params, batches, key).values[0],
    "trace": lambda params, batches: trace(params, batches, key).mean,
    "norm of the weights": lambda params, _: optax.tree.norm(params),
}
test_batch = {"image": test_x, "label": test_y}
test_errors, train_errors, measures = {}, {}, {}
for name, stack in solutions.items():
    batches = [{"image": train_x, "label": LABELS[name]}]
    energy = local_energy(stack, batches, key)
    train_errors[name] = np.asarray(energy.reference["error"])
    measures[name] = {f"local energy, σ = {SIGMA}": np.asarray(energy.mean["error"][:, -1])}
    each = [jax.tree.map(lambda leaf, m=m: leaf[m], stack) for m in range(len(grid))]
    for measure, fn in ONE_BY_ONE.items():
        measures[name][measure] = np.array([float(fn(params, batches)) for params in each])
    sums = jax.vmap(eval_fn, in_axes=(0, None))(stack, test_batch)
    test_errors[name] = np.asarray(sums["error"]) / len(test_y)
    for kind, errors in [("training", train_errors[name]), ("test", test_errors[name])]:
        print(f"{name}: {kind} error {errors.min():.1f} to {errors.max():.1f} %")

# %% [markdown]
# ## Do they rank?
#
# Kendall's τ compares two rankings of the solutions: by the measure and by the test error. It is 1
# if the orders agree, 0 if they are unrelated, and -1 if they are reversed. Brackets are 95%
# bootstrap intervals. The `granulated` τ compares solutions only within groups that differ in one
# setting.

# %%
factors = {"learning rate": grid[:, 0], "weight decay": grid[:, 1]}
rankings = {}
for name in LABELS:
    print(f"{name:26s}    τ                     granulated")
    for measure, values in measures[name].items():
        found = flatness.rank_solutions(values, test_errors[name], factors)
        rankings[name, measure] = found
        low, high = found.interval
        print(
            f"  {measure:24s} {found.tau:+.2f} [{low:+.2f}, {high:+.2f}]   {found.granulated:+.2f}"
        )

# %%
COLORS = {"clean": "#0072B2", "20% wrong": "#D55E00"}
figure, panels = plt.subplot_mosaic("LM;RM", figsize=(9.5, 7), layout="constrained")
left, middle, right = (panels[name] for name in "LMR")
first = f"local energy, σ = {SIGMA}"
for (name, color), marker in zip(COLORS.items(), "os", strict=True):
    for decay, fill in zip(WEIGHT_DECAYS, ["none", color + "80", color], strict=True):
        chosen = grid[:, 1] == decay
        left.scatter(
            measures[name][first][chosen],
            test_errors[name][chosen],
            marker=marker,
            edgecolor=color,
            facecolor=fill,
            label=f"{name}, decay {decay:g}",
        )
left.set(xlabel=f"rise of the training error at σ = {SIGMA}, points", ylabel="test error, %")
left.legend(fontsize=9)
names = list(measures["clean"])
for offset, (name, color) in zip([0.15, -0.15], COLORS.items(), strict=True):
    found = [rankings[name, measure] for measure in names]
    tau = np.array([ranking.tau for ranking in found])
    spread = np.abs(np.array([ranking.interval for ranking in found]).T - tau)
    middle.errorbar(
        tau,
        np.arange(len(names)) + offset,
        xerr=spread,
        fmt="o",
        color=color,
        capsize=3,
        label=name,
    )
middle.axvline(0, color="0.6", linewidth=0.8)
middle.set(yticks=range(len(names)), yticklabels=names, xlim=(-1.05, 1.05))
middle.set(xlabel="Kendall's τ with the test error")
middle.invert_yaxis()
middle.legend(loc="upper left")

# Slices of the flattest and the sharpest solution on wrong labels.
stack, energies = solutions["20% wrong"], measures["20% wrong"][first]
batches = [{"image": train_x, "label": noisy_y}]
slice_1d = flatness.slice_1d(eval_fn, np.linspace(-1, 1, 5 if REDUCED else 41))
ends = [
    ("flattest", "#009E73", "-", energies.argmin()),
    ("sharpest", "#CC79A7", "--", energies.argmax()),
]
for name, color, style, m in ends:
    params = jax.tree.map(lambda leaf, m=m: leaf[m], stack)
    direction = flatness.random_direction(params, jax.random.key(2))
    found = slice_1d(params, direction, batches)
    decay, rate = grid[m, 1], grid[m, 0]
    label = f"{name}: decay {decay:g}, rate {rate:g}"
    flatness.plot_slice(found, "error", ax=right, color=color, linestyle=style, label=label)
right.set(xlabel="along a random direction, in norms of the filters", ylabel="training error, %")
right.legend()
plt.show()

# %% [markdown]
# ## What you see
#
# - **Wrong labels.** The local energy (τ = 0.82) and the norm of the weights (0.86) rank the
#   solutions almost as the test error does. Both are large for networks that have memorised wrong
#   labels. Sharpness at a small radius ranks in the wrong order (-0.33), and the Hessian does not
#   rank.
# - **Clean labels.** All measures rank more weakly. The local energy is among the strongest (0.45).
#   The norm of the weights does not rank.
# - **Limits.** There are only eighteen solutions of one small network for each kind of labels, so
#   the intervals are wide. `python -m experiments flatness-study` compares more measures on 334
#   networks.
