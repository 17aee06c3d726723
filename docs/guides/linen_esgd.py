"""Trains a convolutional network on scikit-learn's digits with flax's linen."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state
from sklearn.datasets import load_digits

import flatjax

num_epochs, batch_size, learning_rate = 25, 96, 0.1


class CNN(nn.Module):
    """A convolution and two dense layers."""

    @nn.compact
    def __call__(self, x):
        """Logits, (B, 10)."""
        x = nn.avg_pool(nn.relu(nn.Conv(16, kernel_size=(3, 3))(x)), (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


@jax.jit
def apply_model(state, images, labels):
    """Gradients, loss and accuracy of a batch."""

    def loss_fn(params):
        logits = state.apply_fn({"params": params}, images)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), logits

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, logits), grads = grad_fn(state.params)
    return grads, loss, jnp.mean(logits.argmax(-1) == labels)


@jax.jit
def update_model(state, grads):
    """One update."""
    return state.apply_gradients(grads=grads)


def train_epoch(state, train, rng):
    """One pass over the training examples; also the mean loss."""
    num_steps = len(train["label"]) // batch_size
    rows = rng.permutation(len(train["label"]))[: num_steps * batch_size]
    losses = []
    for batch in rows.reshape(num_steps, batch_size):
        grads, loss, _ = apply_model(state, train["image"][batch], train["label"][batch])
        state = update_model(state, grads)
        losses.append(loss)
    return state, np.mean(losses)


def create_train_state(key, num_steps):
    """The state before the first step."""
    cnn = CNN()
    params = cnn.init(key, jnp.ones([1, 8, 8, 1]))["params"]
    rate = optax.cosine_decay_schedule(learning_rate, num_steps)
    tx = flatjax.esgd(rate, steps=num_steps)
    return train_state.TrainState.create(apply_fn=cnn.apply, params=params, tx=tx)


x, y = load_digits(return_X_y=True)
data = {"image": np.float32(x.reshape(-1, 8, 8, 1) / 8 - 1), "label": np.int32(y)}
train = {name: array[:1297] for name, array in data.items()}
test = {name: array[1297:] for name, array in data.items()}
rng = np.random.default_rng(0)
state = create_train_state(jax.random.key(0), num_epochs * (1297 // batch_size))
for epoch in range(1, num_epochs + 1):
    state, loss = train_epoch(state, train, rng)
    anchor = flatjax.eval_params(state.opt_state, state.params)
    *_, accuracy = apply_model(state.replace(params=anchor), test["image"], test["label"])
    print(f"epoch {epoch}: training loss {loss:.3f}, test accuracy {accuracy:.3f}")
