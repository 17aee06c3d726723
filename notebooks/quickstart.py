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
# # Two minima, four algorithms
#
# Which minimum does an algorithm find: a sharp one or a wide one? Here the loss depends on two
# weights. It has a sharp minimum, which is deeper, and a wide minimum. SGD, SAM, Entropy-SGD and
# Replicated-SGD start from the same random points and use the same number of gradients.

# %%
import functools
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import flatjax
from flatjax import flatness

REDUCED = os.environ.get("FLATJAX_NOTEBOOK_REDUCED") == "1"
NUM_STARTS, GRADIENTS = (20, 84) if REDUCED else (1000, 630)
plt.rcParams.update({"figure.dpi": 90, "font.size": 10, "savefig.bbox": "tight"})

# %% [markdown]
# The wide minimum has a flat bottom of radius 1. The sharp minimum has a width of 0.3. Noise on the
# gradient plays the role of random batches.

# %%
SHARP, WIDE = jnp.array([-1.0, 0.0]), jnp.array([1.2, 0.0])
NOISE = 0.5


def landscape(w):
    """Returns the loss."""
    from_sharp, from_wide = jnp.sum((w - SHARP) ** 2), jnp.sum((w - WIDE) ** 2)
    sharp = -1.2 * jnp.exp(-from_sharp / (2 * 0.3**2))
    wide = -jnp.exp(-((from_wide / 1.1**2) ** 2))
    return sharp + wide + 0.1 * jnp.sum(w**2)


def noisy_gradient(w, xi):
    """Returns the gradient of a batch; xi is its noise."""
    return jax.grad(landscape)(w) + NOISE * xi


@jax.jit
def settle(w):
    """Descends from w without noise; returns the minimum."""
    return jax.lax.fori_loop(0, 300, lambda _, w: w - 0.05 * jax.grad(landscape)(w), w)


minima = {"sharp": settle(SHARP), "wide": settle(WIDE)}
eval_fn = lambda w, batch: {"loss": landscape(w), "count": 1}
measure = flatness.local_energy(eval_fn, sigmas=[0.1, 0.3, 0.5], noise="additive", num_samples=1000)
for name, w in minima.items():
    found = measure(w, [None], jax.random.key(0))
    rises = ", ".join(f"{rise:.3f}" for rise in found.mean["loss"])
    print(f"{name:5s} minimum {w[0]:.2f}: loss {landscape(w):.3f}, local energy {rises}")

# %% [markdown]
# ## The algorithms
#
# SAM and Entropy-SGD look at the surroundings of a point. SAM moves along the gradient by a length
# ρ. Entropy-SGD explores by noise of scale ε in its inner loop. Replicated-SGD has three or seven
# replicas with independent starts.
#
# All algorithms spend the same number of gradients. SAM takes two gradients a step, so it makes
# half of the steps. With y replicas, each replica makes 1 / y of the steps.


# %%
def learning_rate(steps):
    """Returns a schedule that falls to 0 in this number of steps."""
    return optax.cosine_decay_schedule(0.1, steps)


def sgd():
    """Returns plain SGD and its number of steps."""
    return optax.sgd(learning_rate(GRADIENTS)), GRADIENTS


def sam(rho=0.7):
    """Returns SAM, which takes two gradients a step, and its number of steps."""
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(rho))
    tx = optax.contrib.sam(
        optax.sgd(learning_rate(GRADIENTS // 2)), ascent, sync_period=2, opaque_mode=True
    )
    return tx, GRADIENTS // 2


def esgd(noise_scale=0.6, gamma=0.1, inner_steps=10):
    """Returns Entropy-SGD; its coupling to the anchor grows by a factor of 100."""
    tx = flatjax.esgd(
        learning_rate(GRADIENTS),
        flatjax.schedules.scoping(gamma, GRADIENTS // inner_steps, factor=100),
        momentum=None,
        weight_decay=0.0,
        inner_steps=inner_steps,
        noise_scale=noise_scale,
        decoupled=True,
    )
    return tx, GRADIENTS


def rsgd(y, gamma=0.02):
    """Returns Replicated-SGD; its coupling grows by 10,000 until replicas have met."""
    steps = GRADIENTS // y
    tx = flatjax.replicated_sgd(
        learning_rate(steps),
        flatjax.schedules.scoping(gamma, steps),
        momentum=None,
        replica_axis=0,
        decoupled=True,
    )
    return tx, steps


def solution(state, w):
    """Returns the model of an algorithm: the anchor, the center or the weights."""
    if isinstance(state, flatjax.EntropySGDState):
        return flatjax.eval_params(state, w)
    return flatjax.replica_center(w, replica_axis=0) if w.ndim == 2 else w


def train(tx, steps, start, key):
    """Trains; returns the path of the iterates and the path of the solution."""
    gradient = jax.vmap(noisy_gradient) if start.ndim == 2 else noisy_gradient

    def step(carry, key):
        w, state = carry
        xi = jax.random.normal(key, w.shape)
        grad_fn = lambda w, _: gradient(w, xi)  # SAM takes the same batch twice
        updates, state = tx.update(gradient(w, xi), state, w, grad_fn=grad_fn)
        w = optax.apply_updates(w, updates)
        return (w, state), (w, solution(state, w))

    return jax.lax.scan(step, (start, tx.init(start)), jax.random.split(key, steps))[1]


def random_start(key, y=None):
    """Draws a start in the square; each replica has its own."""
    return jax.random.uniform(key, (2,) if y is None else (y, 2), minval=-2.5, maxval=2.5)


def choices(tx, steps, y=None, num_starts=NUM_STARTS):
    """Returns which of many starts end in the wide minimum, and paths of the first."""
    keys = jax.random.split(jax.random.key(0), num_starts)
    starts = jax.vmap(lambda key: random_start(key, y))(
        jax.random.split(jax.random.key(1), num_starts)
    )
    # All algorithms share the first start; in Replicated-SGD the first replica has it.
    starts = starts.at[(0,) if y is None else (0, 0)].set(FIRST_START)
    paths = jax.vmap(functools.partial(train, tx, steps))(starts, keys)
    ends = jax.vmap(settle)(paths[1][:, -1])
    is_wide = jnp.linalg.norm(ends - minima["wide"], axis=1) < 0.1
    return is_wide, (starts[0], *(path[0] for path in paths))


FIRST_START = jnp.array([-1.7, 1.0])
ALGORITHMS = {
    "SGD": (*sgd(), None),
    "SAM": (*sam(), None),
    "Entropy-SGD": (*esgd(), None),
    "Replicated-SGD, 3": (*rsgd(3), 3),
    "Replicated-SGD, 7": (*rsgd(7), 7),
}
shares, paths = {}, {}
for name, algorithm in ALGORITHMS.items():
    is_wide, paths[name] = jax.jit(choices, static_argnums=(0, 1, 2))(*algorithm)
    share = float(is_wide.mean())
    shares[name] = share, (share * (1 - share) / NUM_STARTS) ** 0.5
    print(f"{name:18s} wide in {share:.1%} ± {shares[name][1]:.1%} of {NUM_STARTS} starts")

# %% [markdown]
# ## One start
#
# Crosses are starts and dots are ends. The coloured line of Entropy-SGD is its anchor, and the grey
# line is its inner iterate, which explores. The coloured line of Replicated-SGD is the center, and
# the grey lines are the replicas.

# %%
COLORS = dict(zip(ALGORITHMS, ["#000000", "#E69F00", "#009E73", "#D55E00", "#F0A35E"], strict=True))
grid = jnp.linspace(-2.7, 2.7, 120)
heights = jax.vmap(jax.vmap(lambda x, y: landscape(jnp.array([x, y])), (0, None)), (None, 0))(
    grid, grid
)
shown = ["SGD", "SAM", "Entropy-SGD", "Replicated-SGD, 3"]
figure, axes = plt.subplots(1, 4, figsize=(9.5, 3.0), sharey=True, layout="constrained")
for ax, name in zip(axes, shown, strict=True):
    start, iterates, path = paths[name]
    ax.contour(grid, grid, heights, levels=18, cmap="Greys_r", linewidths=0.7, alpha=0.6)
    for moving in jnp.moveaxis(iterates.reshape(len(iterates), -1, 2), 1, 0):
        ax.plot(*moving.T, color="0.55", linewidth=0.6)
    ax.plot(*path.T, color=COLORS[name], linewidth=1.8)
    ax.plot(*path[-1], "o", color=COLORS[name], markersize=9, markeredgecolor="white")
    ax.plot(*jnp.atleast_2d(start).T, "x", color="black", markersize=7)
    ax.annotate("sharp", SHARP, (-1.0, -2.5), ha="center")
    ax.annotate("wide", WIDE, (1.2, -2.5), ha="center")
    ax.set(title=name, xlabel="$w_1$", xlim=(-2.7, 2.7), ylim=(-2.7, 2.7), aspect="equal")
axes[0].set_ylabel("$w_2$")
plt.show()

# %% [markdown]
# ## How far do they look?
#
# SAM and Entropy-SGD each have a length: the radius ρ, and the scale ε of the noise. The right
# picture varies this length. (Hyperparameters may be traced, so one compiled program computes a
# whole curve.)

# %%
lengths = jnp.linspace(0.05, 1.2, 4 if REDUCED else 14)
num_starts = NUM_STARTS // 4


def curve(make):
    """Returns the share of starts that end in the wide minimum, at each length."""
    run = lambda length: choices(*make(length), num_starts=num_starts)[0].mean()
    return jax.jit(jax.vmap(run))(lengths)


curves = {"SAM": curve(sam), "Entropy-SGD": curve(esgd)}
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
means, errors = zip(*shares.values(), strict=True)
left.barh(list(shares), means, xerr=errors, color=list(COLORS.values()), ecolor="0.5", capsize=4)
left.set(xlabel="share of starts that end in the wide minimum", xlim=(0, 1.05))
left.invert_yaxis()
for name, marker in [("SAM", "s"), ("Entropy-SGD", "o")]:
    right.plot(lengths, curves[name], marker + "-", color=COLORS[name], label=name)
right.axhline(shares["SGD"][0], color=COLORS["SGD"], linestyle="--", label="SGD")
right.set(xlabel="ρ of SAM, ε of Entropy-SGD", ylabel="share in the wide minimum", ylim=(0, 1.05))
right.legend()
plt.show()

# %% [markdown]
# ## What you see
#
# - **SGD** descends into the basin in which it starts. It ends in the wide minimum from 62% of the
#   starts.
# - **SAM and Entropy-SGD** end in the wide minimum from every start, *if* their length is large
#   enough to leave the sharp minimum. Here Entropy-SGD needs a length of about 0.5, and SAM of
#   about 0.7. At lengths below 0.4 they choose the sharp minimum more often than SGD. SAM stops
#   next to a minimum, as the picture shows. The table counts the minimum into which gradient
#   descent leads from there.
# - **Replicated-SGD** works like a vote. Most replicas start in the larger basin, so the wide
#   minimum wins more often: from 68% of the starts with three replicas, and from 70% with seven.
#   The gain is small, because a sharp minimum holds its replicas with strong forces. In the
#   picture, two replicas in the sharp minimum outvote the third one.
# - **Limits.** No algorithm was told where the minima are. But ρ and ε were chosen with knowledge
#   of the widths. Networks have many basins, and their noise comes from the data, so this picture
#   need not hold for them. `experiments/RESULTS.md` has measurements on networks.
