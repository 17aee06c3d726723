"""Whether flatness predicts the test error, for many settings and measures.

command:   python -m experiments flatness-study
hardware:  2 CPU cores, about four hours; --small takes three minutes
"""

import dataclasses

from experiments.engine.config import TrainConfig
from experiments.studies.flatness_study.description import FlatnessStudy

# Networks and data; the solutions of each are ranked separately.
TASKS = {
    "MLP, clean": {"model": "mlp"},
    "MLP, 20% noise": {"model": "mlp", "label_noise": 0.2},
    "conv net, clean": {"model": "small_convnet", "epochs": 30, "local_energy_examples": 500},
}

# A product with the Hessian of a convolutional network takes ten times as long as one of the MLP.
EFFORTS = {"conv net, clean": {"num_matvecs": 15, "num_probes": 10}}

# Couplings with which learning rates of 0.03 to 0.1 train well.
ALGORITHMS = {
    "SGD": {"algorithm": "sgd"},
    "SAM": {"algorithm": "sam", "sam_rho": 0.1},
    "SWA": {"algorithm": "swa"},
    "eSGD": {"algorithm": "esgd", "gamma": 0.1},
    "rSGD": {"algorithm": "rsgd", "gamma": 1e-3},
    "rSGD x 3": {"algorithm": "rsgd", "gamma": 3e-4, "epochs": 3},
    "Parle": {"algorithm": "parle", "gamma": 0.1, "replica_gamma": 1e-2},
}

STUDY = FlatnessStudy(
    base=TrainConfig.of(
        dataset="fashion_mnist",
        train_size=2000,
        validation=0,
        local_energy_examples=2000,
        epochs=60,
    ),
    tasks=TASKS,
    algorithms=ALGORITHMS,
    factors={"learning_rate": (0.03, 0.1), "weight_decay": (5e-4, 5e-3)},
    batch_sizes=(32, 128),
    seeds=(0, 1),
    efforts=EFFORTS,
)

SMALL = dataclasses.replace(
    STUDY,
    tasks={
        "MLP, 20% noise": {
            "model": "mlp",
            "label_noise": 0.2,
            "epochs": 5,
            "local_energy_examples": 500,
        }
    },
    algorithms={name: ALGORITHMS[name] for name in ("SGD", "SAM", "rSGD")},
    batch_sizes=(128,),
    seeds=(0,),
)
