"""Test error with cheaper communication: Fashion-MNIST (10k), MLP, rSGD.

command:   python -m experiments compare --dataset communication
hardware:  2 CPU cores, about ten minutes

The contest chose the settings on validation data for "MLP, 2k". gamma acts on every step. It is
therefore multiplied by the ratio of the steps: a replica takes 300 there and 781 here.
"""

from experiments.engine.config import TrainConfig
from experiments.studies.compare.description import Comparison

STUDY = Comparison(
    base=TrainConfig.of(
        algorithm="rsgd",
        dataset="fashion_mnist",
        model="mlp",
        train_size=10_000,
        epochs=30,
        learning_rate=0.09,
        weight_decay=6e-4,
        gamma=0.0439 * 300 / 781,
        validation=0,
    ),
    runs={
        "every step, float32": {},
        "K = 4": {"period": 4},
        "K = 16": {"period": 16},
        "K = 64": {"period": 64},
        "bfloat16": {"communication_dtype": "bfloat16"},
        "int8": {"communication_dtype": "int8"},
        "delayed": {"delayed": True},
        "K = 16, int8, delayed": {"period": 16, "communication_dtype": "int8", "delayed": True},
        "never": {"gamma": 0.0},
    },
    seeds=5,
    sigma=0.3,
)
