"""Trains a convolutional network on scikit-learn's digits with flax's NNX."""

import jax
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

steps, batch_size, learning_rate = 200, 96, 0.1
x, y = load_digits(return_X_y=True)
data = {"image": np.float32(x.reshape(-1, 8, 8, 1) / 16), "label": np.int32(y)}
train = {name: array[:1297] for name, array in data.items()}
test = {name: array[1297:] for name, array in data.items()}


class CNN(nnx.Module):
    """A convolution with batch norm, dropout, and a linear layer."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 16, kernel_size=(3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.dropout = nnx.Dropout(rate=0.1, rngs=rngs)
        self.linear = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, x):
        """Logits, (B, 10)."""
        x = nnx.avg_pool(nnx.relu(self.norm(self.conv(x))), (2, 2), (2, 2))
        return self.linear(self.dropout(x.reshape(len(x), -1)))


def loss_fn(model, batch):
    """Mean loss and logits of a batch."""
    logits = model(batch["image"])
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return losses.mean(), logits


@nnx.jit
def train_step(model, optimizer, metrics, batch):
    """One update."""
    grad_fn = nnx.value_and_grad(loss_fn, has_aux=True)
    (loss, logits), grads = grad_fn(model, batch)
    metrics.update(loss=loss, logits=logits, labels=batch["label"])
    optimizer.update(model, grads)


@nnx.jit
def eval_step(model, metrics, batch):
    """Adds a batch to the metrics."""
    loss, logits = loss_fn(model, batch)
    metrics.update(loss=loss, logits=logits, labels=batch["label"])


def draw_batch(rng):
    """Random examples."""
    rows = rng.integers(len(train["label"]), size=batch_size)
    return jax.tree.map(lambda array: array[rows], train)


model = CNN(nnx.Rngs(0))
rate = optax.cosine_decay_schedule(learning_rate, steps)
tx = optax.sgd(rate, momentum=0.9, nesterov=True)
optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))
rng = np.random.default_rng(0)

for step in range(1, steps + 1):
    model.train()
    train_step(model, optimizer, metrics, draw_batch(rng))
    if step % 100 == 0:
        print(f"step {step}: training loss {metrics.compute()['loss']:.3f}", end=", ")
        metrics.reset()
        model.eval()
        eval_step(model, metrics, test)
        print(f"test accuracy {metrics.compute()['accuracy']:.3f}")
        metrics.reset()
