"""Digits (included in scikit-learn): a demonstration, not evidence.

command:   python -m experiments compare --dataset digits
hardware:  2 CPU cores, under 2 minutes
"""

from experiments.engine.config import TrainConfig
from experiments.studies.compare.description import Comparison

# Settings: the best on validation data in `python -m experiments tune --dataset digits`.
SGD = {"algorithm": "sgd", "learning_rate": 0.1, "weight_decay": 5e-3}
RSGD = {"algorithm": "rsgd", "learning_rate": 0.2, "gamma": 1e-3}

STUDY = Comparison(
    base=TrainConfig.of(
        dataset="digits", model="mlp", epochs=60, batch_size=64, learning_rate=0.05
    ),
    runs={
        "SGD": SGD,
        "SAM": {"algorithm": "sam", "learning_rate": 0.05, "sam_rho": 0.2},
        "SWA": {"algorithm": "swa", "learning_rate": 0.05},
        "eSGD": {"algorithm": "esgd", "learning_rate": 0.05, "gamma": 1e-2},
        "rSGD": RSGD,
        "Parle": {
            "algorithm": "parle",
            "learning_rate": 0.2,
            "gamma": 1e-3,
            "replica_gamma": 1e-2,
        },
        "SGD x 3": SGD | {"epochs": 180},
        "rSGD x 3": RSGD | {"epochs": 180},
    },
    seeds=5,
    sigma=0.4,
    conclusion=(
        "This shows that the algorithms run and learn, not which one is better. There are 500 test "
        "images, so that one image is 0.2 points. By the choice of the images alone, networks with "
        "3 % errors differ by about 1 point, more than most rows of this table. A lower local "
        "energy means a flatter minimum. For evidence see RESULTS.md and `python -m experiments "
        "contest`."
    ),
    grids={
        "SGD": {"learning_rate": (0.02, 0.05, 0.1, 0.2), "weight_decay": (5e-4, 5e-3)},
        "SAM": {"learning_rate": (0.05, 0.1, 0.2), "sam_rho": (0.05, 0.2)},
        "SWA": {"learning_rate": (0.05, 0.1, 0.2)},
        "eSGD": {"learning_rate": (0.05, 0.1, 0.2), "gamma": (1e-3, 1e-2, 0.1)},
        "rSGD": {"learning_rate": (0.05, 0.1, 0.2), "gamma": (1e-4, 1e-3, 1e-2)},
        "Parle": {
            "learning_rate": (0.1, 0.2),
            "gamma": (1e-3,),
            "replica_gamma": (1e-3, 1e-2, 0.1),
        },
    },
)
