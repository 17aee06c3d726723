"""Fashion-MNIST, all 60,000 training images, small convolutional network, 10 epochs.

command:   python -m experiments compare --dataset fashion_mnist
"""

from experiments.config import TrainConfig
from experiments.configs import Study

SGD = {"algorithm": "sgd", "learning_rate": 0.05, "weight_decay": 5e-4}
ESGD = {"algorithm": "esgd", "learning_rate": 0.05, "gamma": 1e-2}
RSGD = {"algorithm": "rsgd", "learning_rate": 0.1, "gamma": 1e-3}

STUDY = Study(
    base=TrainConfig(dataset="fashion_mnist", model="small_convnet", epochs=10, validation=0),
    runs={
        "SGD": SGD,
        "eSGD": ESGD,
        "rSGD": RSGD,
        "SGD x 3": SGD | {"epochs": 30},
        "rSGD x 3": RSGD | {"epochs": 30},
    },
    seeds=3,
    sigma=0.3,
    # A fifth of the images, and no local energy to speak of, so that the search takes minutes.
    tuning={"train_size": 12_000, "local_energy_samples": 2, "local_energy_examples": 500},
    grids={
        "SGD": {"learning_rate": (0.02, 0.05, 0.1), "weight_decay": (5e-4, 2e-3)},
        "eSGD": {
            "learning_rate": (0.05,),
            "weight_decay": (5e-4, 2e-3),
            "gamma": (1e-2, 0.3, 3.0),
        },
        "rSGD": {
            "learning_rate": (0.05,),
            "weight_decay": (5e-4, 2e-3),
            "gamma": (3e-4, 3e-3, 3e-2),
        },
    },
)
