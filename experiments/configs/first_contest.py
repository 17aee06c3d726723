"""The first contest of the algorithms: settings, search spaces and rules, fixed before it was run.

command:   python -m experiments first-contest
hardware:  2 CPU cores, about ten hours; --small takes two minutes and shows only how it works

Protocol
1. Settings: Fashion-MNIST, a small or a larger subset, clean or noisy labels, MLP or conv net.
2. All algorithms take the same number of gradients (SAM two, L for a step of the anchor, rSGD's
   replicas share them).
3. Tuning: the same number of trials for every algorithm, whatever the dimension of its space, drawn
   log-uniformly (Halton) from the spaces below; each on the same two seeds, each seed with its own
   subset, label noise and validation set. The trial of least mean validation error is chosen.
4. Test: the chosen setting of each algorithm, once, on ten fresh seeds, each with its own subset
   and label noise, the same for all algorithms; the error on the whole test set.
5. Report: mean, paired difference to SGD with its 95% interval (Student), paired t-tests, Holm's
   correction over all comparisons of the contest. Nothing is retuned after test errors were seen.
6. Variants of Replicated-SGD, each a hypothesis of how to improve it, enter in the same way, and
   are compared with SGD and with SAM; their comparisons are corrected among themselves.
7. SGD with four times the trials was added after the tests of the first three settings had been
   seen: in the second its best candidate lay at the edge of the twelve. It takes part in the same
   way, and says how much of a difference to SGD is one of tuning.
8. So were three variants of Entropy-SGD, after the tests of all three settings of the MLP: one
   whose noise is tuned as well (until then 1e-4, which is next to none), one with longer loops, and
   one with SAM in its loop.
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

# SGD with more candidates, the twelve among them; SAM inside the replicas; the force in the
# gradient instead of the pull; more replicas, each with fewer steps; a coupling that is more even
# in time. Entropy-SGD that really is at a temperature; that explores for longer; with SAM inside.
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
