"""Networks of a configuration: options, modules of the user's own, parts of a batch."""

import dataclasses
import sys

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run_helpers import changed, started

from experiments.engine.algorithms import decay_mask, learning_rate_schedule
from experiments.engine.config import TrainConfig
from experiments.engine.objective import Objective
from experiments.engine.plan import hyper_of, make_plan
from experiments.engine.task import make_task
from experiments.engine.train import train
from flatjax.models._network import make_network, parse_option

SHAPE = (8, 8, 1)
SMALL = TrainConfig.of(
    train_size=120,
    batch_size=40,
    epochs=2,
    replicas=2,
    gamma=0.01,
    sigmas=(0.1,),
    local_energy_samples=2,
    local_energy_examples=100,
)


class Linear(nn.Module):
    """Logistic regression that drops pixels; its mode is called as flax's own layers call it."""

    num_classes: int
    rate: float = 0.0

    @nn.compact
    def __call__(self, images, deterministic):
        """Logits."""
        pixels = images.reshape(len(images), -1)
        return nn.Dense(self.num_classes)(nn.Dropout(self.rate)(pixels, deterministic))


class Plain(nn.Module):
    """Nothing to say of its mode, and ten classes whatever is asked."""

    @nn.compact
    def __call__(self, images):
        """Logits."""
        return nn.Dense(10)(images.reshape(len(images), -1))


class Greedy(nn.Module):
    """Wants more than images."""

    @nn.compact
    def __call__(self, images, labels):
        """Logits."""


INSTANCE = Plain()
NOT_A_MODULE = "linear"


@pytest.mark.slow
def test_networks_of_the_users_own_train():
    config = SMALL.changed(
        model=f"{__name__}:Linear",
        model_options=("rate=0.5",),
        algorithm="rsgd",
        epochs=20,
    )
    result = train(config, progress=False)
    assert result["test_error"] < 40  # chance is 90


@pytest.mark.parametrize("name", ["Plain", "INSTANCE"])
def test_modules_without_a_mode_and_instances_are_taken(name):
    network = make_network(f"{__name__}:{name}", (), 10, SHAPE)
    variables = network.init(jax.random.key(0), jnp.ones((1, *SHAPE)))
    assert network.logits(variables, jnp.ones((3, *SHAPE))).shape == (3, 10)


def test_dropout_acts_in_training_only_and_by_the_key():
    network = make_network(f"{__name__}:Linear", ("rate=0.5",), 10, SHAPE)
    images = jnp.ones((3, *SHAPE))
    variables = network.init(jax.random.key(0), images) | {"batch_stats": {}}
    expected = network.logits(variables, images)
    draws = [network.train_logits(variables, images, jax.random.key(i))[0] for i in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.allclose(draws[0], draws[2])
    assert not np.allclose(draws[0], expected)


def test_replicas_and_steps_draw_their_own_noise():
    config = SMALL.changed(algorithm="rsgd", micro_batches=2)
    task = make_task(config)
    examples = jax.tree.map(lambda leaf: leaf[jnp.zeros((2, 40), int)], task.device_train)
    draw = task.objective.batch
    keys = [draw(examples, jax.random.key(i))["key"] for i in (0, 1)]
    data = np.concatenate([np.asarray(jax.random.key_data(key)).reshape(4, -1) for key in keys])
    assert len(np.unique(data, axis=0)) == 8


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        ("perceptron", (), ValueError, "mlp"),
        ("nowhere:Net", (), ValueError, "model must be .* 'nowhere:Net'"),
        (f"{__name__}:Nothing", (), ValueError, "Nothing"),
        (f"{__name__}:NOT_A_MODULE", (), TypeError, "model"),
        (f"{__name__}:Greedy", (), ValueError, "labels"),
        (f"{__name__}:Linear", ("depth=3",), TypeError, "depth"),
        (f"{__name__}:INSTANCE", ("depth=3",), TypeError, "model_options"),
        ("mlp", ("hidden",), ValueError, "model_options must be written name=value"),
        ("mlp", ("depth=3",), TypeError, "depth"),
    ],
)
def test_mistakes_are_explained(model, options, error, message):
    with pytest.raises(error, match=message):
        make_network(model, options, 10, SHAPE)


def test_a_network_with_another_number_of_classes_is_refused():
    with pytest.raises(ValueError, match=r"\(B, 7\), got \(2, 10\)"):
        make_network(f"{__name__}:Plain", (), 7, SHAPE)


@pytest.mark.parametrize(
    ("option", "value"), [("hidden=(3, 4)", (3, 4)), ("dtype=bfloat16", "bfloat16"), ("a=1", 1)]
)
def test_options_are_python_literals_or_text(option, value):
    assert parse_option(option)[1] == value


class Scaled(nn.Module):
    """Linear; the scales have no hash."""

    scales: np.ndarray = dataclasses.field(default_factory=lambda: np.ones(10))

    @nn.compact
    def __call__(self, images):
        """Logits."""
        return self.scales * nn.Dense(10)(images.reshape(len(images), -1))


def test_tasks_that_are_made_again_share_an_objective_and_its_programs():
    config = SMALL.changed(augment=("crop",))
    objective = make_task(config).objective
    assert make_task(config.changed(seed=1, algorithm="sgd")).objective is objective
    others = {"augment": ()}, {"label_smoothing": 0.1}, {"sigmas": (0.2,)}, {"train_size": 80}
    for changes in ({"model_options": ("hidden=(4,)",)}, *others):
        assert make_task(config.changed(**changes)).objective is not objective


def test_networks_that_are_not_known_to_be_equal_share_nothing(monkeypatch):
    """One has no hash; one is defined again, as in a notebook, under the same name."""
    scaled = SMALL.changed(model=f"{__name__}:Scaled")
    plans = [make_plan(scaled, make_task(scaled)) for _ in range(2)]
    assert len(set(plans)) == 2
    plain = SMALL.changed(model=f"{__name__}:Plain")
    objective = make_task(plain).objective
    monkeypatch.setattr(sys.modules[__name__], "Plain", type("Plain", (Plain,), {}))
    assert make_task(plain).objective is not objective


def test_gradients_of_parts_are_added_in_float32(monkeypatch):
    """And rounded once: in bfloat16, 1 + 2^-8 is 1."""
    loss = lambda self, params, stats, batch: (jnp.sum(params["w"] * batch["image"]), stats)
    monkeypatch.setattr(Objective, "loss", loss)
    objective = make_task(SMALL.changed(algorithm="rsgd", micro_batches=4)).objective
    batch = {"image": jnp.array([1.0, 2**-8, 2**-8, 2**-8], jnp.bfloat16)}
    _, grads = objective.value_and_grad({"w": jnp.zeros([], jnp.bfloat16)}, {}, batch)
    assert grads["w"] == jnp.bfloat16((1 + 3 * 2**-8) / 4)


@pytest.mark.slow
def test_parts_of_a_batch_make_the_gradient_of_the_whole():
    states = []
    for parts in (1, 4):
        run = started(SMALL.changed(algorithm="rsgd", micro_batches=parts))
        losses = run.take_steps(2)
        states.append((run.state.params, losses))
    chex.assert_trees_all_close(*states, rtol=1e-7, atol=1e-6)


@pytest.mark.slow
def test_half_precision_keeps_weights_and_center_in_float32():
    config = SMALL.changed(algorithm="rsgd", model_options=("dtype=bfloat16",))
    run = started(config)
    assert run.task.objective.network.module.dtype == jnp.bfloat16
    run.take_steps(2)
    assert {leaf.dtype for leaf in jax.tree.leaves(run.state.params)} == {jnp.dtype("float32")}
    assert train(config, run.task, progress=False)["test_loss"] < 3


@pytest.mark.slow
def test_smoothed_labels():
    task = make_task(SMALL.changed(label_smoothing=0.1))
    objective = task.objective
    batch = jax.tree.map(lambda leaf: leaf[:5], task.train_batches[0])
    params = objective.network.init(jax.random.key(0), batch["image"])["params"]
    log_p = jax.nn.log_softmax(objective.logits(params, {}, batch))
    truth = np.take_along_axis(np.asarray(log_p), np.asarray(batch["label"])[:, None], 1)[:, 0]
    expected = -np.mean(0.9 * truth + 0.1 * np.mean(log_p, axis=1))
    np.testing.assert_allclose(objective.loss(params, {}, batch)[0], expected, rtol=1e-5)


def test_learning_rates_warm_up_and_fall_at_milestones():
    config = SMALL.changed(
        algorithm="sgd",
        learning_rate=0.2,
        schedule="milestones",
        milestones=(0.6, 0.8),
        milestone_factor=0.1,
        warmup=0.1,
        warmup_start=0.5,
    )
    schedule = learning_rate_schedule(config, hyper_of(config), 100)
    found = [float(schedule(step)) for step in (0, 5, 10, 59, 60, 80)]
    np.testing.assert_allclose(found, [0.1, 0.15, 0.2, 0.2, 0.02, 0.002], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sgd", "rsgd", "esgd", "parle"])
def test_biases_are_left_out_of_weight_decay(algorithm):
    own = {"replicas": 2, "noise_scale": 0.0, "gamma": 0.0, "replica_gamma": 0.0}
    options = {"weight_decay": 0.5, "epochs": 4, "decay_matrices_only": True}
    config = changed(SMALL, own, algorithm=algorithm, **options)
    run = started(config)
    params = jax.tree.map(jnp.ones_like, run.state.params)
    optimizer = run.plan.optimizer(hyper_of(config))
    opt_state = optimizer.init(params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, opt_state, params, value=jnp.ones(()))
    for leaf, decays in zip(
        *map(jax.tree.leaves, (updates, decay_mask(config.optimizer)(params))), strict=True
    ):
        assert bool(jnp.all(leaf < 0)) == decays


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schedule": "milestones", "milestones": (0.8, 0.6)}, "milestones must be growing"),
        ({"schedule": "milestones", "milestones": (0.5, 1.0)}, "milestones must be growing"),
        ({"micro_batches": 3}, "micro_batches"),
        ({"warmup": 1.0}, "warmup"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
        ({"epochs": None}, "epochs"),
    ],
)
def test_impossible_settings_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        SMALL.changed(**changes)
