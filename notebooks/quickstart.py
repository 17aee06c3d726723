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
# A landscape in two dimensions with a sharp minimum, which is the deeper one, and a wide one. SGD,
# SAM, Entropy-SGD and Replicated-SGD start from the same random points and use the same number of
# gradients. Which minimum do they choose?

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
# The wide minimum has a flat bottom of radius 1, the sharp one a width of 0.3. A batch adds noise
# to the gradient.

# %%
SHARP, WIDE = jnp.array([-1.0, 0.0]), jnp.array([1.2, 0.0])
NOISE = 0.5


def landscape(w):
    """The loss."""
    from_sharp, from_wide = jnp.sum((w - SHARP) ** 2), jnp.sum((w - WIDE) ** 2)
    sharp = -1.2 * jnp.exp(-from_sharp / (2 * 0.3**2))
    wide = -jnp.exp(-((from_wide / 1.1**2) ** 2))
    return sharp + wide + 0.1 * jnp.sum(w**2)


def noisy_gradient(w, xi):
    """The gradient of a batch, which is told by xi."""
    return jax.grad(landscape)(w) + NOISE * xi


@jax.jit
def settle(w):
    """The minimum below w: gradient descent without noise."""
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
# Both SAM and Entropy-SGD look around: SAM along the gradient to a radius ρ, Entropy-SGD by the
# noise ε of its inner loop. Replicated-SGD has three or seven replicas that start independently. A
# replica of y makes a y-th of the steps, SAM half of them: all spend the same number of gradients.


# %%
def learning_rate(steps):
    """Falls to 0 in so many steps."""
    return optax.cosine_decay_schedule(0.1, steps)


def sgd():
    """Plain."""
    return optax.sgd(learning_rate(GRADIENTS)), GRADIENTS


def sam(rho=0.7):
    """Two gradients a step."""
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(rho))
    tx = optax.contrib.sam(
        optax.sgd(learning_rate(GRADIENTS // 2)), ascent, sync_period=2, opaque_mode=True
    )
    return tx, GRADIENTS // 2


def esgd(noise_scale=0.6, gamma=0.1, inner_steps=10):
    """The coupling to the anchor grows by a factor of 100."""
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
    """That of y replicas to their center by 10,000, until they have met."""
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
    """What each algorithm says that its model is."""
    if isinstance(state, flatjax.EntropySGDState):
        return flatjax.eval_params(state, w)
    return flatjax.replica_center(w, replica_axis=0) if w.ndim == 2 else w


def train(tx, steps, start, key):
    """The path of the iterates, and that of the solution."""
    gradient = jax.vmap(noisy_gradient) if start.ndim == 2 else noisy_gradient

    def step(carry, key):
        w, state = carry
        xi = jax.random.normal(key, w.shape)
        grad_fn = lambda w, _: gradient(w, xi)  # for SAM: the same batch once more
        updates, state = tx.update(gradient(w, xi), state, w, grad_fn=grad_fn)
        w = optax.apply_updates(w, updates)
        return (w, state), (w, solution(state, w))

    return jax.lax.scan(step, (start, tx.init(start)), jax.random.split(key, steps))[1]


def random_start(key, y=None):
    """Anywhere in the square; each replica on its own."""
    return jax.random.uniform(key, (2,) if y is None else (y, 2), minval=-2.5, maxval=2.5)


def choices(tx, steps, y=None, num_starts=NUM_STARTS):
    """Who ends above the wide minimum, of many starts; and the paths of the first."""
    keys = jax.random.split(jax.random.key(0), num_starts)
    starts = jax.vmap(lambda key: random_start(key, y))(
        jax.random.split(jax.random.key(1), num_starts)
    )
    # All algorithms have the first start in common, Replicated-SGD for its first replica.
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
# The dots are the ends. Entropy-SGD's anchor is drawn, and behind it, in grey, the inner iterate
# which explores; of Replicated-SGD the center, and in grey the replicas.

# %%
COLORS = dict(zip(ALGORITHMS, ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00"], strict=True))
grid = jnp.linspace(-2.7, 2.7, 120)
heights = jax.vmap(jax.vmap(lambda x, y: landscape(jnp.array([x, y])), (0, None)), (None, 0))(
    grid, grid
)
shown = ["SGD", "SAM", "Entropy-SGD", "Replicated-SGD, 3"]
figure, axes = plt.subplots(1, 4, figsize=(13, 3.7), sharey=True, layout="constrained")
for ax, name in zip(axes, shown, strict=True):
    start, iterates, path = paths[name]
    ax.contour(grid, grid, heights, levels=18, cmap="Greys_r", linewidths=0.7, alpha=0.6)
    for moving in jnp.moveaxis(iterates.reshape(len(iterates), -1, 2), 1, 0):
        ax.plot(*moving.T, color="0.55", linewidth=0.6)
    ax.plot(*path.T, color=COLORS[name], linewidth=1.8)
    ax.plot(*path[-1], "o", color=COLORS[name], markersize=9, markeredgecolor="black")
    ax.plot(*jnp.atleast_2d(start).T, "x", color="black", markersize=7)
    ax.annotate("sharp", SHARP, (-1.0, -0.9), ha="center", fontsize=9)
    ax.annotate("wide", WIDE, (1.2, -1.6), ha="center", fontsize=9)
    ax.set(title=name, xlabel="$w_1$", xlim=(-2.7, 2.7), ylim=(-2.7, 2.7), aspect="equal")
axes[0].set_ylabel("$w_2$")
plt.show()

# %% [markdown]
# ## How far do they look?
#
# Both SAM and Entropy-SGD have a length: the radius ρ, and the scale ε of the noise of the inner
# loop. (Hyperparameters may be traced: one compiled program draws the curve.)

# %%
lengths = jnp.linspace(0.05, 1.2, 4 if REDUCED else 14)
num_starts = NUM_STARTS // 4


def curve(make):
    """The share of wide minima at each length."""
    run = lambda length: choices(*make(length), num_starts=num_starts)[0].mean()
    return jax.jit(jax.vmap(run))(lengths)


curves = {"SAM": curve(sam), "Entropy-SGD": curve(esgd)}
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
means, errors = zip(*shares.values(), strict=True)
left.barh(list(shares), means, xerr=errors, color=list(COLORS.values()), capsize=4)
left.set(xlabel="share of starts that end in the wide minimum", xlim=(0, 1.05))
left.invert_yaxis()
for name, marker in [("SAM", "s"), ("Entropy-SGD", "o")]:
    right.plot(lengths, curves[name], marker + "-", color=COLORS[name], label=name)
right.axhline(shares["SGD"][0], color=COLORS["SGD"], linestyle="--", label="SGD")
right.set(xlabel="ρ of SAM, ε of Entropy-SGD", ylabel="share in the wide minimum", ylim=(0, 1.05))
right.legend()
plt.show()

# %% [markdown]
# ## What is seen
#
# - **SGD** goes down from where it starts.
# - **SAM and Entropy-SGD** choose the wide minimum from everywhere *if* they look further than the
#   sharp one is wide, about 0.5 here. If they do not, they choose the sharp one more often than
#   SGD does. In the picture SAM stops beside the minimum, not in it: what is counted is the
#   minimum below its end.
# - **Replicated-SGD** lets the replicas vote, and most of them start in the larger basin; in the
#   picture two in the sharp one outvote one in the wide one. A gain, and a small one: the slopes
#   of a sharp minimum hold their replicas well.
# - Nobody had to know where the minima are. But ρ and ε were chosen knowing how wide they are.
#
# What is a picture here need not be true of networks, where basins are many and noise comes from
# the data: `experiments/RESULTS.md` has what was measured there.
