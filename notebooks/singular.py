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
# # How singular is my minimum?
#
# Around a minimum, the weights whose loss is within ε of it have a volume of order
# $\epsilon^\lambda$. The exponent λ is the local learning coefficient. It is d/2 at a regular
# minimum of d weights, and less where there are flat valleys or crossings. This notebook measures
# λ where it is known, and then for a trained network.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

from flatjax import data, flatness, models

REDUCED = os.environ.get("FLATJAX_NOTEBOOK_REDUCED") == "1"
WIDTHS = (3, 10) if REDUCED else (3, 5, 7, 10)
NUM_STEPS = 200 if REDUCED else 2000
plt.rcParams.update({"figure.dpi": 90, "font.size": 10, "savefig.bbox": "tight"})

# %% [markdown]
# ## Powers and crossings
#
# Each loss is the mean over a million examples. The print-out shows the estimate, its interval,
# and a diagnosis of the chains.


# %%
def measure(loss, params, num_examples=1e6, **options):
    """The coefficient of a loss that needs no data."""

    def eval_fn(params, batch):
        return {"loss": num_examples * loss(params), "count": jnp.array(num_examples)}

    function = flatness.learning_coefficient(eval_fn, num_steps=NUM_STEPS, **options)
    return function(params, [0], jax.random.key(0))


print(measure(lambda w: w[0] ** 2 + w[1] ** 2, jnp.zeros(2)), "\n(regular: 2/2)\n")
print(measure(lambda w: w[0] ** 2 + w[1] ** 4, jnp.zeros(2)), "\n(a flat valley: 1/2 + 1/4)")

# %% [markdown]
# ## Hidden units that are not needed
#
# A linear network with 10 inputs, h hidden units and 10 outputs has learned a function of rank 3.
# Its coefficient is known (Aoyagi and Watanabe, 2005). Hidden units beyond the third add 20
# weights each to d, but much less to λ. The estimate has γ = 10 and a finite n, and lies a little
# below the formula.


# %%
def linear_network(hidden, rank=3, size=10):
    """Estimate at the most singular solution: all that is not needed is 0."""
    params = [jnp.eye(size, hidden) * (jnp.arange(hidden) < rank)]
    params.append(jnp.eye(hidden, size) * (jnp.arange(size) < rank))
    target = params[0] @ params[1]
    return measure(
        lambda w: jnp.sum((w[0] @ w[1] - target) ** 2) / 2, params, 1e5, localization=10.0
    )


formula = [(40 * (h + 3) - (h + 3) ** 2 + (h + 3) % 2) / 8 for h in WIDTHS]
found = [linear_network(h) for h in WIDTHS]

_, ax = plt.subplots(figsize=(5, 3.2))
ax.plot(WIDTHS, [10 * h for h in WIDTHS], "k:", label="d/2")
ax.plot(WIDTHS, formula, "k-", label="λ of the formula")
ax.errorbar(WIDTHS, [f.mean for f in found], [2 * f.sem for f in found], fmt="o", label="estimate")
ax.set(xlabel="h, hidden units", ylabel="λ", ylim=(0, None))
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# ## A trained network
#
# A perceptron is trained on 1,000 handwritten digits, and measured on minibatches of 100. Its λ
# is far below d/2. The picture shows the running mean of each chain, and the 95 % interval.

# %%
train = data.load("digits").train
images, labels = jnp.asarray(train.image / 255, jnp.float32)[:1000], jnp.asarray(train.label)[:1000]
network = models.create("mlp", 10, hidden=(16,))
eval_fn = flatness.classification(network)
params = network.init(jax.random.key(0), images[:1], train=False)["params"]
tx = optax.adam(optax.cosine_decay_schedule(1e-2, 500))


@jax.jit
def step(params, opt_state):
    """One step of Adam on all data."""

    def loss(params):
        return eval_fn(params, (images, labels))["loss"] / len(labels)

    updates, opt_state = tx.update(jax.grad(loss)(params), opt_state)
    return optax.apply_updates(params, updates), opt_state


opt_state = tx.init(params)
for _ in range(500):
    params, opt_state = step(params, opt_state)

batches = [(images[i : i + 100], labels[i : i + 100]) for i in range(0, 1000, 100)]
function = flatness.learning_coefficient(eval_fn, localization=100.0, num_steps=NUM_STEPS)
trained = function(params, batches, jax.random.key(1))
print(trained)
trained.plot()
plt.show()

# %% [markdown]
# ## What you see
#
# λ counts the directions that the data determine. Superfluous hidden units hardly raise it, and
# the trained network has a λ far below d/2. Read the line "converged" first: an estimate whose
# chains have not converged comes with the reason and a remedy.
