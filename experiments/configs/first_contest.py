"""The first contest: settings, search spaces and rules, fixed before it ran.

command:   python -m experiments first-contest
hardware:  2 CPU cores, about ten hours; --small takes two minutes and shows only how it works

Protocol
1. Settings: Fashion-MNIST, a small or a larger subset, clean or noisy labels, MLP or conv net.
2. All algorithms take the same number of gradients (SAM two, L for a step of the anchor, rSGD's
   replicas share them).
3. Tuning: the same number of trials for every algorithm, whatever the dimension of its space. They
   are drawn log-uniformly (Halton) from the spaces below, and run on the same two seeds. Each seed
   has its own subset, label noise and validation set. The trial of least mean validation error is
   chosen.
4. Test: the chosen setting of each algorithm runs once on ten fresh seeds, the same for all
   algorithms. Each seed has its own subset and label noise. The whole test set gives the error.
5. Report: mean, paired difference to SGD with its 95% interval (Student), paired t-tests, Holm's
   correction over all comparisons of the contest. Nothing is retuned after test errors were seen.
6. Variants of Replicated-SGD are hypotheses of how to improve it. They enter in the same way, and
   are compared with SGD and with SAM. Their comparisons are corrected among themselves.
7. SGD with four times the trials was added after the tests of the first three settings had been
   seen: in the second, its best candidate was at the edge of the twelve. It takes part in the same
   way, and shows how much of a difference to SGD comes from tuning.
8. Three variants of Entropy-SGD were added, too, after the tests of all three settings of the MLP.
   The first tunes the noise as well (until then 1e-4, almost none), the second has longer loops,
   and the third has SAM in its loop.
"""

import dataclasses

from experiments.engine.config import TrainConfig
from experiments.studies.first_contest.description import Contest

SETTINGS = {
    "MLP, 2k": {"model": "mlp", "epochs": 60},
    "MLP, 2k, 20% noise": {"model": "mlp", "epochs": 60, "label_noise": 0.2},
    "conv net, 2k": {"model": "small_convnet", "epochs": 30},
    "MLP, 10k, 20% noise": {
        "model": "mlp",
        "epochs": 30,
        "train_size": 10_000,
        "label_noise": 0.2,
    },
    "conv net, 2k, 20% noise": {"model": "small_convnet", "epochs": 30, "label_noise": 0.2},
}

_SGD = {"learning_rate": (0.01, 0.3), "weight_decay": (2e-4, 2e-2)}

ALGORITHMS = {
    "sgd": _SGD,
    "sam": _SGD | {"sam_rho": (0.02, 0.5)},
    "swa": _SGD,
    "esgd": _SGD | {"gamma": (1e-3, 3.0)},
    "rsgd": _SGD | {"gamma": (1e-5, 1e-1)},
    "parle": _SGD | {"gamma": (1e-3, 3.0), "replica_gamma": (1e-4, 1.0)},
}

_RSGD = ALGORITHMS["rsgd"]

# SGD with more candidates, which include the twelve; SAM inside the replicas; the force in the
# gradient instead of the pull; more replicas, each with fewer steps; a coupling that grows less.
# Entropy-SGD at a finite temperature, with longer loops, and with SAM inside.
VARIANTS = {
    "sgd, 48 trials": {"algorithm": "sgd"},
    "rsgd, SAM inside": {"algorithm": "rsam"},
    "rsgd, force": {"algorithm": "rsgd", "decoupled": False},
    "rsgd, y=5": {"algorithm": "rsgd", "replicas": 5},
    "rsgd, slow scoping": {"algorithm": "rsgd", "gamma_factor": 100.0},
    "esgd, noise tuned": {"algorithm": "esgd"},
    "esgd, L=20": {"algorithm": "esgd", "inner_steps": 20},
    "esgd, SAM inside": {"algorithm": "esam"},
}

OWN_SPACES = {
    "sgd, 48 trials": _SGD,
    "rsgd, SAM inside": _RSGD | {"sam_rho": (0.02, 0.5)},
    "rsgd, force": _RSGD | {"gamma": (1e-6, 1e-2)},
    "rsgd, y=5": _RSGD,
    "rsgd, slow scoping": _RSGD | {"gamma": (1e-4, 1.0)},
    "esgd, noise tuned": ALGORITHMS["esgd"] | {"noise_scale": (1e-3, 1e-1)},
    "esgd, L=20": ALGORITHMS["esgd"],
    "esgd, SAM inside": ALGORITHMS["esgd"] | {"sam_rho": (0.02, 0.5)},
}

STUDY = Contest(
    base=TrainConfig.of(
        dataset="fashion_mnist",
        batch_size=128,
        validation=0.1,
        train_size=2000,
        sigmas=(0.1, 0.3, 0.5),
        local_energy_samples=20,
        local_energy_examples=2000,
    ),
    settings=SETTINGS,
    spaces=ALGORITHMS | OWN_SPACES,
    variants=VARIANTS,
    trials=12,
    trials_of={"sgd, 48 trials": 48},
    against=("sgd, 48 trials", "sam"),
    tuning_seeds=(0, 1),
    test_seeds=tuple(range(100, 110)),
    sigma=0.3,
)

# One setting, no variants, few trials, seeds and epochs.
SMALL = dataclasses.replace(
    STUDY,
    settings={"MLP, 2k, 20% noise": {"model": "mlp", "epochs": 6, "label_noise": 0.2}},
    spaces=ALGORITHMS,
    variants={},
    trials=3,
    tuning_seeds=(0,),
    test_seeds=(100, 101, 102),
)
