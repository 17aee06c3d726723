"""How a network is fine-tuned: which weights are trained, and by which optimizer.

Every run trains a stack of y replicas (y = 1 for most methods), so that one loop serves all.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

import flatjax
from experiments.studies.fine_tuning.description import LAST_LAYERS, FineTuning
from experiments.studies.fine_tuning.task import Tasks
from flatjax import data, lora

GROWTH = 1e3  # of couplings, from the first step to the last


class Mode(NamedTuple):
    """Which weights are trained; the new task's head always is.

    Attributes:
      start: (key, pretrained, y) -> stack of y equal starts.
      network: (pretrained, weights of one replica) -> weights of its network.
      transformation: makes the optimizer of the stack from the one of the trained weights.
      center: (pretrained, stack) -> the network whose weights are the mean over replicas.
    """

    start: Callable[..., chex.ArrayTree]
    network: Callable[..., chex.ArrayTree]
    transformation: Callable[..., optax.GradientTransformation]
    center: Callable[..., chex.ArrayTree]


def last_layers(tasks: Tasks) -> Mode:
    """Trains the last two layers; `optax.partition` freezes the others."""

    def start(key, pretrained, y):
        params = pretrained | {tasks.head: tasks.init(key)[tasks.head]}
        return jax.tree.map(lambda w: jnp.stack([w] * y), params)

    def transformation(tx):
        def labels(params):
            last = sorted(params)[-2:]
            return {name: "train" if name in last else "freeze" for name in params}

        return optax.partition({"train": tx, "freeze": optax.set_to_zero()}, labels)

    center = lambda pretrained, stack: flatjax.replica_center(stack, replica_axis=0)
    return Mode(start, lambda pretrained, params: params, transformation, center)


def low_rank(tasks: Tasks, rank: int, *, common: bool) -> Mode:
    """Trains low-rank changes of the hidden layers, and the head.

    Args:
      tasks: the tasks.
      rank: rank of the changes.
      common: whether all replicas start with the same factors A; B is 0.
    """

    def start(key, pretrained, y):
        body = {name: layer for name, layer in pretrained.items() if name != tasks.head}
        keys = jax.random.split(jax.random.fold_in(key, 1), y)
        keys = jnp.stack([keys[0]] * y) if common else keys
        head = tasks.init(key)[tasks.head]
        return {
            "factors": flatjax.stack_replicas(lambda k: lora.init(k, body, rank), keys),
            "head": jax.tree.map(lambda w: jnp.stack([w] * y), head),
        }

    def network(pretrained, weights):
        body = {name: layer for name, layer in pretrained.items() if name != tasks.head}
        return lora.merged(body, weights["factors"]) | {tasks.head: weights["head"]}

    def center(pretrained, stack):
        body = {name: layer for name, layer in pretrained.items() if name != tasks.head}
        head = flatjax.replica_center(stack["head"], replica_axis=0)
        return lora.center(body, stack["factors"]) | {tasks.head: head}

    return Mode(start, network, lambda tx: tx, center)


def mode_of(study: FineTuning, tasks: Tasks, mode: str, fixed: Mapping[str, Any]) -> Mode:
    """Returns the mode with this label."""
    if mode == LAST_LAYERS:
        return last_layers(tasks)
    return low_rank(tasks, study.rank, common=fixed.get("common", True))


def optimizer(
    fixed: Mapping[str, Any], settings: Mapping[str, Any], steps: int
) -> optax.GradientTransformation:
    """Makes the optimizer of the trained weights of all replicas.

    Args:
      fixed: the method and its whole numbers.
      settings: its tuned numbers, possibly traced.
      steps: gradients of one replica.
    """
    method = fixed["method"]
    # The second gradient of a pair moves the weights.
    moves = steps // 2 if method == "sam" else steps
    rate = optax.cosine_decay_schedule(settings["learning_rate"], moves)
    decay = optax.add_decayed_weights(settings["weight_decay"])
    adam = optax.chain(optax.scale_by_adam(), decay)
    adamw = optax.chain(adam, optax.scale_by_learning_rate(rate))
    if method == "sgd":
        return optax.chain(decay, optax.sgd(rate, momentum=0.9, nesterov=True))
    if method == "sam":
        return flatjax.sam(adamw, settings["sam_rho"], replica_axis=0)
    if method == "rsgd":
        # The pull has no learning rate: replicas also meet while it decays.
        pull = flatjax.schedules.scoping(settings["pull"], steps, GROWTH)
        return optax.chain(adamw, flatjax.pull_to_center(pull, 1.0, replica_axis=0))
    if method == "esgd":
        loops = steps // fixed["inner_steps"]
        return flatjax.entropy_sgd(
            optax.sgd(1.0),
            adam,
            flatjax.schedules.scoping(settings["gamma"], loops, GROWTH),
            inner_learning_rate=rate,
            inner_steps=fixed["inner_steps"],
            noise_scale=0.0,
            reset_inner=False,
            replica_axis=0,
        )
    return adamw


def make_run(
    study: FineTuning, tasks: Tasks, mode: str, fixed: Mapping[str, Any], gradients: int
) -> Callable[..., chex.ArrayTree]:
    """Makes the program of a run.

    It maps settings, key, pretrained weights and training examples to the stack of replicas.
    """
    own, y = mode_of(study, tasks, mode, fixed), fixed.get("replicas", 1)
    steps = gradients // y
    repeats = 2 if fixed["method"] == "sam" else 1

    @jax.jit
    def run(settings, key, pretrained, train):
        tx = own.transformation(optimizer(fixed, settings, steps))
        loss = lambda weights, batch: tasks.loss(own.network(pretrained, weights), batch)
        gradient = flatjax.map_replicas(jax.grad(loss))

        def step(carry, key):
            stack, state = carry
            indices = jax.random.randint(key, (y, study.batch_size), 0, len(train.label))
            batch = data.take_batch(train, indices, tasks.normalization)
            for _ in range(repeats):
                updates, state = tx.update(gradient(stack, batch), state, stack)
                stack = optax.apply_updates(stack, updates)
            return (stack, state), None

        stack = own.start(key, pretrained, y)
        keys = jax.random.split(jax.random.fold_in(key, 2), steps // repeats)
        (stack, state), _ = jax.lax.scan(step, (stack, tx.init(stack)), keys)
        return flatjax.eval_params(state, stack)

    return run
