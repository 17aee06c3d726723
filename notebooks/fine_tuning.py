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
# # Fine-tuning and merging
#
# A network knows five of ten digits. How do you teach it the others with low-rank changes (LoRA),
# and how do you average several such runs? The mean of the factors is not the mean of the
# networks. This notebook shows when that matters, and what to do.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import flatjax
from flatjax import data, flatness, lora, models

REDUCED = os.environ.get("FLATJAX_NOTEBOOK_REDUCED") == "1"
STEPS, POINTS = (40, 2) if REDUCED else (400, 20)
Y, RATE, RANK = 3, 5e-3, 4
plt.rcParams.update({"figure.dpi": 90, "font.size": 10, "savefig.bbox": "tight"})

# %% [markdown]
# ## Pretraining on half of the classes
#
# The old classes are the digits 0 to 4. Each task has its own last layer, a *head*; what
# fine-tuning can lose of the old task is then what it changes in the hidden layers.

# %%
digits = data.load("digits")
normalization = data.Normalization.from_images(digits.train.image)
parts = {"old": range(5), "new": range(5, 10)}
train = {name: data.choose_classes(digits.train, own) for name, own in parts.items()}
train["new"], kept = data.split_validation(train["new"], 300, seed=0)
train["new"] = data.subset(train["new"], 100, seed=0)
test = {
    name: data.eval_batches(data.choose_classes(digits.test, own), normalization, 300)
    for name, own in parts.items()
}
net = models.MLP(hidden=(64, 64, 64), num_classes=5)
HEAD = "Dense_3"
eval_fn = flatness.classification(net)


def init(seed):
    """Returns initial weights."""
    return net.init(jax.random.key(seed), jnp.zeros((1, 8, 8, 1)), train=False)["params"]


def loss(params, batch):
    """Returns the mean cross-entropy."""
    logits = net.apply({"params": params}, batch["image"], train=True)
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return losses.mean()


def error(params, task):
    """Returns the test error in % among the classes of one task, with its own head."""
    params = params | ({HEAD: pretrained[HEAD]} if task == "old" else {})
    return 100 * float(flatjax.evaluate(eval_fn, params, test[task])["error"])


def trained(stack, tx, loss, split, seed=0):
    """Trains a stack of replicas; returns it at `POINTS` moments."""
    examples, y = data.to_device(split), len(jax.tree.leaves(stack)[0])

    def step(carry, key):
        stack, state = carry
        batch = data.take_batch(
            examples, jax.random.randint(key, (y, 32), 0, len(split)), normalization
        )
        grads = flatjax.map_replicas(jax.grad(loss))(stack, batch)
        updates, state = tx.update(grads, state, stack)
        return (optax.apply_updates(stack, updates), state), None

    def part(carry, keys):
        carry, _ = jax.lax.scan(step, carry, keys)
        return carry, carry[0]

    @jax.jit
    def run(stack):
        keys = jax.random.split(jax.random.key(seed), (POINTS, STEPS // POINTS))
        return jax.lax.scan(part, (stack, tx.init(stack)), keys)[1]

    history = run(stack)
    return [jax.tree.map(lambda w, i=i: w[i], history) for i in range(POINTS)]


def pretrained_from(seed):
    """Returns a network of the old classes."""
    start = jax.tree.map(lambda w: w[None], init(seed))
    final = trained(start, optax.adam(2e-3), loss, train["old"], seed)[-1]
    return flatjax.unstack_replicas(final)[0]


pretrained = pretrained_from(0)
print(f"old classes, before fine-tuning: {error(pretrained, 'old'):.1f} % test error")

# %% [markdown]
# ## Three low-rank replicas
#
# All weights of the hidden layers stay, and get a change of rank 4. The new head is trained as a
# whole. Each replica draws its own factor A. "Independent" replicas never see each other; coupled
# replicas are pulled to their mean, more and more strongly.

# %%
body = {name: layer for name, layer in pretrained.items() if name != HEAD}


def start(key):
    """Returns what one replica trains: factors of the body, and a new head."""
    return {"factors": lora.init(key, body, rank=RANK), "head": init(1)[HEAD]}


def network(weights):
    """Returns the weights of the network of one replica."""
    return lora.merged(body, weights["factors"]) | {HEAD: weights["head"]}


def mean_of_products(stack):
    """Returns the mean of the networks of all replicas."""
    head = flatjax.replica_center(stack["head"], replica_axis=0)
    return lora.center(body, stack["factors"]) | {HEAD: head}


def mean_of_factors(stack):
    """Returns the network of the mean factors: the trap."""
    return network(flatjax.replica_center(stack, replica_axis=0))


keys = jax.random.split(jax.random.key(2), Y)
stack = flatjax.stack_replicas(start, keys)
adapted = lambda weights, batch: loss(network(weights), batch)
pull = flatjax.schedules.scoping(1e-3, STEPS, factor=1e3)
optimizers = {
    "independent": optax.adam(RATE),
    "coupled": optax.chain(optax.adam(RATE), flatjax.pull_to_center(pull, 1.0, replica_axis=0)),
}
history = {name: trained(stack, tx, adapted, train["new"]) for name, tx in optimizers.items()}

# %% [markdown]
# ## The trap
#
# The picture shows the error of two means along training. The mean of the products is the network
# whose weights are the mean of the replicas' weights.

# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
steps = STEPS * np.arange(1, POINTS + 1) / POINTS
means = {"mean of the products": mean_of_products, "mean of the factors": mean_of_factors}
for panel, (name, stacks) in zip(panels, history.items(), strict=True):
    for (label, mean), color in zip(means.items(), ("#0072B2", "#D55E00"), strict=True):
        errors = [error(mean(stack), "new") for stack in stacks]
        panel.plot(steps, errors, "o-", ms=4, color=color, label=label)
    panel.set(title=f"{name} replicas", xlabel="steps")
panels[0].set(ylabel="test error of the new classes, %")
panels[0].legend(frameon=False)
plt.show()

# %%
for name, stacks in history.items():
    alone = np.mean([error(network(one), "new") for one in flatjax.unstack_replicas(stacks[-1])])
    product, factors = (error(mean(stacks[-1]), "new") for mean in means.values())
    lost = error(mean_of_products(stacks[-1]), "old")
    print(f"{name:12} a replica {alone:4.1f} %, mean of products {product:4.1f} %, ", end="")
    print(f"mean of factors {factors:4.1f} %; old classes {lost:4.1f} %")

# %% [markdown]
# The mean of three products has rank 12. `lora.compressed` finds the best factors of rank 4 for
# it, to be served like those of one run.

# %%
final = history["independent"][-1]
small = lora.compressed(final["factors"], RANK)
served = network({"factors": small, "head": mean_of_products(final)[HEAD]})
print(f"compressed to rank {RANK}: {error(served, 'new'):.1f} %")

# %% [markdown]
# ## The barrier
#
# Networks can be averaged if the loss does not rise between them. Two of the fine-tuned replicas
# share the pretrained network. The stranger was pretrained from other initial weights.

# %%
replicas = [network(one) for one in flatjax.unstack_replicas(final)]
stranger = pretrained_from(5)
measure = flatness.barrier(eval_fn, num_points=5 if REDUCED else 21)
between = {
    "two fine-tuned replicas, new classes": measure(*replicas[:2], test["new"]),
    "two pretrained networks, old classes": measure(pretrained, stranger, test["old"]),
}
figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for panel, (name, found) in zip(panels, between.items(), strict=True):
    found.plot("loss", ax=panel)
    panel.set(title=name, ylim=(0, 1.5 * found.values["loss"].max()))
    print(f"{name}: barrier {100 * found.height['error']:.1f} points of error")
plt.show()

# %% [markdown]
# ## The soup
#
# `flatness.soup` averages networks, and measures the mean. A greedy soup leaves out a network that
# makes the mean worse; choose by examples that are used for neither training nor testing.

# %%
validation = data.eval_batches(kept, normalization, 300)
soup = flatness.soup(eval_fn, greedy="error")(replicas, validation)
print(f"greedy soup of {soup.members}: {error(soup.params, 'new'):.1f} % test error")

# %% [markdown]
# ## What you see
#
# - **Average products, not factors.** Independent replicas have different factors for similar
#   changes. Their mean factors make a far worse network than the mean of their products.
# - **Coupled replicas need no care at the end.** Once they have met, both means are the same. In
#   this run they also lost less of the old classes, but one run does not decide: see the study of
#   fine-tuning in the results.
# - **The common start makes averaging possible.** Between two fine-tuned replicas there is hardly a
#   barrier. Between two networks of different origin the barrier is high.
