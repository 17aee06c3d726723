"""Fashion-MNIST, all 60,000 images, small convolutional network."""

from experiments.config import TrainConfig
from experiments.configs import Study

STUDY = Study(
    base=TrainConfig(
        dataset="fashion_mnist", model="small_convnet", epochs=10, learning_rate=0.05, validation=0
    ),
    runs={
        "SGD": {"algorithm": "sgd"},
        "eSGD": {"algorithm": "esgd", "gamma": 0.3},
        "rSGD": {"algorithm": "rsgd", "gamma": 1e-3},
        "SGD x 3": {"algorithm": "sgd", "epochs": 30},
        "rSGD x 3": {"algorithm": "rsgd", "gamma": 1e-3, "epochs": 30},
    },
    seeds=3,
    sigma=0.3,
    # A fifth of the images, so that the search takes minutes.
    tuning={"train_size": 12_000},
    grids={
        "SGD": {"learning_rate": (0.02, 0.05, 0.1), "weight_decay": (5e-4, 2e-3)},
        "eSGD": {"learning_rate": (0.05, 0.1), "gamma": (1e-3, 1e-2, 0.1)},
        "rSGD": {"learning_rate": (0.05, 0.1), "gamma": (1e-4, 1e-3, 1e-2)},
    },
)
