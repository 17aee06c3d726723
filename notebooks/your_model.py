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
# # Replicated-SGD in your own script
#
# How do I turn my training script into Replicated-SGD? This script trains a network with batch
# norm, written in linen, by optax. Five lines change. Batch norm needs one more function.

# %%
import difflib
import inspect
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from sklearn.datasets import load_digits

import flatjax

REDUCED = os.environ.get("FLATJAX_NOTEBOOK_REDUCED") == "1"
GRADIENTS = 60 if REDUCED else 900
plt.rcParams.update({"figure.dpi": 90, "font.size": 10, "savefig.bbox": "tight"})

# %% [markdown]
# ## What you have
#
# The script has data, a network, a loss, and a function that trains.

# %%
x, y = load_digits(return_X_y=True)
x = jnp.asarray(x / 8 - 1, jnp.float32)
train_x, train_y, test_x, test_y = x[:1000], y[:1000], x[1000:], y[1000:]


class Network(nn.Module):
    """A network with two hidden layers and batch norm."""

    @nn.compact
    def __call__(self, x, train):
        """Returns logits of shape (B, 10)."""
        for _ in range(2):
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(64)(x)))
        return nn.Dense(10)(x)


model = Network()


def init(key):
    """Returns parameters and batch statistics."""
    return model.init(key, train_x[:1], train=False)


def loss(params, stats, batch):
    """Returns the loss of a batch, and the new statistics."""
    variables = {"params": params, "batch_stats": stats}
    logits, new = model.apply(variables, batch["x"], train=True, mutable=["batch_stats"])
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    return losses.mean(), new["batch_stats"]


def draw_batches(key, *shape):
    """Yields random batches; the first number of the shape says how many."""
    for rows in jax.random.randint(key, shape, 0, len(train_x)):
        yield {"x": train_x[rows], "y": train_y[rows]}


def learning_rate(steps):
    """Returns a schedule that falls to 0 in this number of steps."""
    return optax.cosine_decay_schedule(0.1, steps)


@jax.jit
def test_error(params, stats):
    """Returns the test error in per cent."""
    logits = model.apply({"params": params, "batch_stats": stats}, test_x, train=False)
    return 100 * jnp.mean(logits.argmax(-1) != test_y)


def train_sgd(key, look=lambda *_: None):
    """Trains by SGD: the script before the change."""
    variables = init(key)
    params, stats = variables["params"], variables["batch_stats"]
    tx = optax.sgd(learning_rate(GRADIENTS), momentum=0.9, nesterov=True)
    gradient = jax.grad(loss, has_aux=True)
    batches = draw_batches(jax.random.key(1), GRADIENTS, 64)

    @jax.jit
    def step(params, stats, state, batch):
        grads, stats = gradient(params, stats, batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), stats, state

    state = tx.init(params)
    for i, batch in enumerate(batches):
        params, stats, state = step(params, stats, state, batch)
        look(i, params, stats)
    return params, stats


# %% [markdown]
# ## What batch norm needs
#
# The replicas are averaged at the end. Their average is a network that training has never visited,
# so its batch statistics have to be measured. `reestimate` needs a forward pass in training mode,
# and a few dozen batches.


# %%
@jax.jit
def update_stats(params, stats, batch):
    """Returns the statistics after one more batch."""
    return loss(params, stats, batch)[1]


def with_statistics(params):
    """Returns the parameters and their own statistics."""
    any_stats = init(jax.random.key(0))["batch_stats"]  # only their shapes are used
    batches = draw_batches(jax.random.key(2), 30, 64)
    return params, flatjax.batch_stats.reestimate(update_stats, params, any_stats, batches)


# %% [markdown]
# ## The five lines
#
# Three replicas share the gradients: each makes a third of the steps, on its own batches. From the
# number of steps, `replicated_sgd` chooses a coupling that needs no tuning: the replicas are free
# at first and meet by the end.


# %%
def train_rsgd(key, look=lambda *_: None):
    """Trains by Replicated-SGD: the script after the change."""
    variables = flatjax.stack_replicas(init, jax.random.split(key, 3))
    params, stats = variables["params"], variables["batch_stats"]
    tx = flatjax.replicated_sgd(learning_rate(STEPS), steps=STEPS, replica_axis=0)
    gradient = flatjax.map_replicas(jax.grad(loss, has_aux=True))
    batches = draw_batches(jax.random.key(1), STEPS, 3, 64)

    @jax.jit
    def step(params, stats, state, batch):
        grads, stats = gradient(params, stats, batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), stats, state

    state = tx.init(params)
    for i, batch in enumerate(batches):
        params, stats, state = step(params, stats, state, batch)
        look(i, params, stats)
    return with_statistics(flatjax.replica_center(params, replica_axis=0))


STEPS = GRADIENTS // 3

before, after = (inspect.getsource(fn).splitlines()[2:] for fn in (train_sgd, train_rsgd))
changes = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
print("\n".join(changes))
print(sum(line[0] == "+" for line in changes), "lines")

# %%
print(f"SGD   {test_error(*train_sgd(jax.random.key(0))):.2f} % test error")
print(f"rSGD  {test_error(*train_rsgd(jax.random.key(0))):.2f} %")

# %% [markdown]
# Both scripts learn. With one seed each, the two numbers do not say which is better. (One test
# image is 0.13%.)
#
# ## Why the statistics are measured
#
# During training, the center is a network far from every replica. The left picture compares two
# kinds of batch statistics for it: averaged over the replicas, and measured for the center.

# %%
EVERY = 5 if REDUCED else 15
history = []


def look(i, params, stats):
    """Evaluates the center with both kinds of statistics."""
    if i % EVERY == 0:
        center = flatjax.replica_center(params, replica_axis=0)
        averaged = flatjax.batch_stats.average(stats, replica_axis=0)
        distance = flatjax.replica_distance(params, replica_axis=0)
        errors = test_error(*with_statistics(center)), test_error(center, averaged)
        history.append((i, *map(float, errors), float(distance)))


train_rsgd(jax.random.key(0), look)
steps, measured, averaged, distance = zip(*history, strict=True)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.plot(steps, averaged, "s--", color="#D55E00", markersize=4, label="averaged over replicas")
left.plot(steps, measured, "o-", color="#0072B2", markersize=4, label="measured")
left.set(xlabel="steps", ylabel="test error of the center, %", yscale="log")
left.legend(title="batch statistics")
right.semilogy(steps, distance, "o-", color="#009E73", markersize=4)
right.set(xlabel="steps", ylabel="mean squared distance to the center")
plt.show()

# %% [markdown]
# ## What you see
#
# - **Five lines** turn the script into Replicated-SGD. The center is one network, with the size of
#   the original.
# - **Measure the statistics of the center.** With averaged statistics its error is higher until the
#   end. The two kinds come close after the replicas have met, at about two thirds of the steps. A
#   difference of about one point remains, because running averages lag behind the weights.
#
# The guides in `docs/guides` make the same change in NNX, Equinox and Haiku.
