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
# # A language model with few messages
#
# Four workers train one small transformer on Python code. Data-parallel training exchanges
# gradients at every step. What is lost if the workers exchange weights every 16 steps only? Two
# algorithms do this: Replicated-SGD, whose replicas are pulled to their center, and DiLoCo, whose
# replicas continue from a center that takes outer steps.

# %%
import os
import pathlib
import sysconfig

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import flatjax
from flatjax import data, flatness, models

REDUCED = os.environ.get("FLATJAX_NOTEBOOK_REDUCED") == "1"
STEPS = 32 if REDUCED else 512  # of each worker
SIZES = {"width": 16 if REDUCED else 64, "depth": 1}
WORKERS, PERIOD, BATCH, CONTEXT = 4, 16, 8, 48
plt.rcParams.update({"figure.dpi": 90, "font.size": 10, "savefig.bbox": "tight"})

# %% [markdown]
# ## The text
#
# The text is a part of Python's standard library, as bytes. A tenth of the files is held out.

# %%
library = pathlib.Path(sysconfig.get_paths()["stdlib"])
files = sorted(path.name for path in library.glob("*.py"))[: 20 if REDUCED else 150]
text = data.from_text(library, files=files, context=CONTEXT)
train = data.to_device(text.train)
chosen = np.random.default_rng(0).permutation(len(text.test))[: 64 if REDUCED else 256]
held_out = data.eval_batches(text.test[chosen], None, 64)
print(f"{len(files)} files, {text.train.tokens.size / 1e6:.1f} million bytes for training")

# %% [markdown]
# ## The network and one loop for all algorithms
#
# The network is a decoder-only transformer. The loop trains a stack of replicas, which start from
# the same weights and draw their own batches. The final model is the center of the replicas.

# %%
net = models.Transformer(context=CONTEXT, heads=4, **SIZES)
initial = net.init(jax.random.key(0), jnp.zeros((1, CONTEXT), jnp.int32), train=False)["params"]
eval_fn = flatness.language_model(net)
print(sum(w.size for w in jax.tree.leaves(initial)), "weights")


def loss(params, batch):
    """Returns the mean cross-entropy of the next byte."""
    logits = net.apply({"params": params}, batch["tokens"], train=True)
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
    return losses.mean()


def bits(params):
    """Returns held-out bits per byte."""
    return float(flatjax.evaluate(eval_fn, params, held_out)["loss"]) / np.log(2)


def trained(tx, workers, steps, points=8):
    """Returns the center, and held-out bits along training."""
    gradient = flatjax.map_replicas(jax.grad(loss))

    def step(carry, key):
        stack, state = carry
        indices = jax.random.randint(key, (workers, BATCH), 0, len(text.train))
        updates, state = tx.update(gradient(stack, data.take_batch(train, indices)), state, stack)
        return (optax.apply_updates(stack, updates), state), None

    part = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys)[0])
    stack = jax.tree.map(lambda w: jnp.stack([w] * workers), initial)
    carry, curve = (stack, jax.jit(tx.init)(stack)), []
    for keys in jax.random.split(jax.random.key(1), (points, steps // points)):
        carry = part(carry, keys)
        center = flatjax.replica_center(carry[0], replica_axis=0)
        curve.append(bits(center))
    return center, np.array(curve)


# %% [markdown]
# ## Three ways to spend the same tokens
#
# One worker trains four times as long as four workers. Of four workers, each sends 32 messages of
# all weights. With an exchange at every step it would send 512.


# %%
def adamw(steps):
    """Returns AdamW with a learning rate that rises and falls."""
    peak, warmup = 3e-3, steps // 16
    rate = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps)
    return optax.adamw(rate, weight_decay=0.1)


pull = flatjax.schedules.scoping(1e-3, STEPS, factor=1e3)  # of a step; grows to 63%
outer = optax.sgd(0.7, momentum=0.9, nesterov=True)
arms = {
    "AdamW": (adamw(4 * STEPS), 1, 4 * STEPS),
    "DiLoCo": (flatjax.diloco(adamw(STEPS), outer, PERIOD, replica_axis=0), WORKERS, STEPS),
    "rSGD": (
        optax.chain(adamw(STEPS), flatjax.pull_to_center(pull, 1.0, period=PERIOD, replica_axis=0)),
        WORKERS,
        STEPS,
    ),
}
if REDUCED:
    del arms["DiLoCo"]
found = {name: trained(*arm) for name, arm in arms.items()}
for name, (_, curve) in found.items():
    sent = STEPS // PERIOD if arms[name][1] > 1 else 0
    print(f"{name:6} {curve[-1]:.3f} bits per byte, messages of a worker: {sent}")

# %%
colors = {"AdamW": "#000000", "DiLoCo": "#0072B2", "rSGD": "#D55E00"}
figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
for name, (_, curve) in found.items():
    _, workers, steps = arms[name]
    done = steps * np.arange(1, len(curve) + 1) / len(curve)
    panels[0].plot(done * workers * BATCH * CONTEXT / 1e3, curve, "o-", ms=4, color=colors[name])
    panels[1].plot(done, curve, "o-", ms=4, color=colors[name], label=name)
panels[0].set(xlabel="thousand tokens", ylabel="held-out bits per byte")
panels[1].set(xlabel="sequential steps")
panels[1].legend(frameon=False)
plt.show()

# %% [markdown]
# ## Samples
#
# Each model continues the same held-out code, one byte after another, at temperature 0.5.


# %%
@jax.jit
def continued(params, prompt, key):
    """Returns bytes after a prompt of `CONTEXT` bytes."""

    def one(window, key):
        logits = net.apply({"params": params}, window[None], train=False)[0, -1]
        token = jax.random.categorical(key, logits / 0.5).astype(window.dtype)
        return jnp.append(window[1:], token), token

    return jax.lax.scan(one, prompt, jax.random.split(key, 160))[1]


as_text = lambda tokens: bytes(np.asarray(tokens, np.uint8)).decode(errors="replace")
prompt = next(row for row in held_out[0]["tokens"] if "def " in as_text(row))
print("prompt:", repr(as_text(prompt)))
for name, (center, _) in found.items():
    print(f"\n--- {name}\n{as_text(continued(center, prompt, jax.random.key(4)))}")

# %% [markdown]
# ## Flatness
#
# The local energy is the rise of the training loss under noise on the weights. A flat minimum has
# a low curve.

# %%
some = data.eval_batches(text.train[: 32 if REDUCED else 64], None, 32)
measure = flatness.local_energy(
    eval_fn, sigmas=(0.1, 0.2, 0.3, 0.4), num_samples=2 if REDUCED else 8
)
_, ax = plt.subplots(figsize=(5, 3.2))
for name, (center, _) in found.items():
    energy = measure(center, some, jax.random.key(0))
    energy.plot("loss", ax=ax, label=name, color=colors[name])
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# ## What you see
#
# - **Few messages are not free here.** At equal tokens, one worker with four times the steps is far
#   ahead of four workers. In so short a training, steps count for more than tokens.
# - **At equal sequential steps**, rSGD is level with AdamW on one worker, and DiLoCo is behind. It
#   takes 32 outer steps only. Nothing was tuned, so these numbers rank no algorithms.
# - **The centers are flatter** than AdamW's solution. But they also have a larger loss, and
#   solutions of different loss are hard to compare.
#
# `python -m experiments language` makes the comparison with a larger network, three seeds, and
# messages every 1, 16 or 64 steps.
