"""Runs on a mesh of devices: the same result as on one, resumed across meshes, clear refusals."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from experiments import __main__ as command_line
from experiments.config import TrainConfig
from experiments.mesh import make_mesh
from experiments.train import Trainer

SMALL = TrainConfig(
    train_size=160,
    held_out_size=100,
    batch_size=40,
    epochs=4,
    replicas=2,
    inner_steps=2,
    replica_gamma=0.01,
    gamma=0.01,
    noise_scale=1e-2,
    model="test_mesh:Network",
    sigmas=(0.1,),
    local_energy_samples=2,
    local_energy_examples=40,
)


class Network(nn.Module):
    """A convolution, batch norm and dropout: what depends on the batch, and on chance."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, images, *, train):
        """Logits."""
        x = nn.Conv(4, (3, 3), strides=2)(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x))
        x = nn.Dropout(0.1, deterministic=not train)(x)
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))


def replace(config=SMALL, **changes):
    return dataclasses.replace(config, **changes)


def trained(config, mesh, steps=4):
    """The state after one epoch and its losses."""
    trainer = Trainer(config, mesh=None if mesh is None else make_mesh(mesh, config))
    return trainer.train_epoch(trainer.start(3), 3, steps)


MESHES = {"rsgd": ["replica=2", "replica=2,data=2"], "esgd": ["data=2"], "parle": ["data=4"]}


@pytest.mark.parametrize("algorithm", MESHES)
def test_devices_change_nothing(algorithm):
    """Weights, statistics, optimizer state and losses, with noise, dropout and augmentation."""
    config = replace(algorithm=algorithm, augment=("crop",))
    expected = trained(config, None)
    for mesh in MESHES[algorithm]:
        state, losses = trained(config, mesh)
        for found, wanted in zip(*map(jax.tree.leaves, (state, expected[0])), strict=True):
            np.testing.assert_allclose(*map(_raw, (found, wanted)), rtol=1e-4, atol=1e-5)
            spec = P("replica") if found.ndim else P()
            sharding = jax.NamedSharding(make_mesh(mesh, config), spec)
            assert found.sharding.is_equivalent_to(sharding, found.ndim)
        np.testing.assert_allclose(losses, expected[1], rtol=1e-4)


def _raw(leaf):
    is_key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)
