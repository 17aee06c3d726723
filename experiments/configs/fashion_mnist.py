"""Fashion-MNIST, 60,000 training images, small convolutional network, 10 epochs.

command:   python -m experiments compare --dataset fashion_mnist
"""

from experiments.engine.config import TrainConfig
from experiments.studies.compare.description import Comparison

# Settings: the best on validation data in
#   python -m experiments tune --dataset fashion_mnist --seeds 1
# which trains on a fifth of the images. rSGD's replicas make 310 steps there, and gamma acts on
# every step. It is therefore divided by the ratio of steps: 0.03 * 310 / 1562, and / 4687.
SGD = {"algorithm": "sgd", "learning_rate": 0.1, "weight_decay": 2e-3}
ESGD = {"algorithm": "esgd", "learning_rate": 0.1, "weight_decay": 5e-4, "gamma": 1e-2}
RSGD = {"algorithm": "rsgd", "learning_rate": 0.1, "weight_decay": 5e-4, "gamma": 6e-3}

STUDY = Comparison(
    base=TrainConfig.of(dataset="fashion_mnist", model="small_convnet", epochs=10, validation=0),
    runs={
        "SGD": SGD,
        "eSGD": ESGD,
        "rSGD": RSGD,
        "SGD x 3": SGD | {"epochs": 30},
        "rSGD x 3": RSGD | {"epochs": 30, "gamma": 2e-3},
    },
    seeds=3,
    sigma=0.3,
    # A fifth of the images, and almost no local energy, so that the search takes minutes.
    tuning={"train_size": 12_000, "local_energy_samples": 2, "local_energy_examples": 500},
    grids={
        "SGD": {"learning_rate": (0.05, 0.1), "weight_decay": (5e-4, 2e-3)},
        "eSGD": {"learning_rate": (0.1, 0.2), "weight_decay": (5e-4,), "gamma": (1e-2,)},
        "rSGD": {"learning_rate": (0.1, 0.2), "weight_decay": (5e-4,), "gamma": (3e-2, 0.1)},
    },
)
