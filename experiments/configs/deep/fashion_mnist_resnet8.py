"""Fashion-MNIST, ResNet-8: the largest comparison for two CPU cores.

command:   python -m experiments reproduce fashion-mnist-resnet8
           python -m experiments tune --dataset fashion-mnist-resnet8 --seeds 1
hardware:  2 CPU cores; a run takes ten minutes of one core (20,000 images, 18 epochs)
recipe:    batch 128, Nesterov 0.9, cosine to 0. Learning rate, weight decay and the coupling of the
           other algorithms come from eight candidates each, on validation data, with 5,000 images
           and as many epochs (a quarter of the steps)

reported by the paper, test error %: nothing (not in the paper)
"""

from experiments.engine.config import TrainConfig
from experiments.studies.reproduce.description import Row

# The best of the grids below; the best two of SGD and eSGD differ by less than the noise.
SGD = {"algorithm": "sgd", "learning_rate": 0.2, "weight_decay": 4e-3}
ESGD = {"algorithm": "esgd", "learning_rate": 0.8, "weight_decay": 5e-4, "gamma": 1e-3}
RSGD = {"algorithm": "rsgd", "learning_rate": 0.4, "weight_decay": 2e-3, "gamma": 3e-2}

STUDY = Row(
    title="Fashion-MNIST (20k), ResNet-8",
    base=TrainConfig.of(
        dataset="fashion_mnist",
        model="resnet18",
        model_options=("stage_sizes=(1, 1, 1)", "width=8"),
        train_size=20_000,
        epochs=18,
        validation=0.0,
        sigmas=(0.1, 0.2, 0.3, 0.4, 0.5),
        local_energy_samples=10,
        local_energy_examples=1000,
    ),
    runs={"SGD": SGD, "eSGD": ESGD, "rSGD": RSGD},
    reported={},
    seeds=3,
    sigma=0.1,  # at 0.3, with batch norm, every network is close to chance
    num_examples=20_000,
    image_side=28,
    channels=1,
    reduced_options=("width=4",),
    tuning={"train_size": 5000, "local_energy_samples": 2, "local_energy_examples": 500},
    grids={
        "SGD": {"learning_rate": (0.2, 0.4), "weight_decay": (5e-4, 1e-3, 2e-3, 4e-3)},
        "eSGD": {"learning_rate": (0.4, 0.8), "gamma": (1e-3, 1e-2), "weight_decay": (5e-4, 2e-3)},
        "rSGD": {"learning_rate": (0.2, 0.4), "gamma": (3e-2, 1e-1), "weight_decay": (5e-4, 2e-3)},
    },
)
