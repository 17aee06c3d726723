"""Committees on two classes: the algorithms, their settings and the measures.

command:   python -m experiments committee
hardware:  2 CPU cores, about an hour; --small takes three minutes and shows only how it works

The validation error chooses settings, on subsets that are not used again. Test patterns are used
once. Slow solvers make ten times the steps of fast ones, with or without replicas.
"""

import dataclasses

from experiments.studies.committee.description import (
    CommitteeStudy,
    GradientSolver,
    MessagePassing,
    TwoClasses,
)

TASKS = {
    "fashion_mnist": TwoClasses(),  # Dress or Coat, 500 patterns
    "digits": TwoClasses("digits", (3, 8), num_train=100, num_validation=50),
}

SOLVERS = {
    "SGD fast": GradientSolver("sgd", epochs=100),
    "SGD slow": GradientSolver("sgd", epochs=1000),
    "rSGD fast": GradientSolver("rsgd", epochs=100, replicas=7),
    "rSGD slow": GradientSolver("rsgd", epochs=1000, replicas=7),
    "eSGD fast": GradientSolver("esgd", epochs=100),
    "eSGD slow": GradientSolver("esgd", epochs=1000),
    "fBP": MessagePassing(num_replicas=30),
    "fBP rising": MessagePassing(num_replicas=(2, 1e4)),
    "BP": MessagePassing(),
    # Nothing chose these: the learning rate is fixed, and uncoupled replicas are added to it.
    "SGD 0.3": GradientSolver("sgd", epochs=100, learning_rate=0.3),
    "rSGD 0.3": GradientSolver("rsgd", epochs=100, replicas=7, learning_rate=0.3, gamma=0.01),
}

_RATE = {"learning_rate": (0.3, 1.0, 3.0)}
# From 0.03 on replicas coincide from start to end, and the results equal those without replicas.
_REPLICAS = _RATE | {"gamma": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)}
_ANCHOR = _RATE | {"gamma": (0.01, 0.1, 1.0)}

SPACES = {
    "SGD fast": _RATE,
    "SGD slow": _RATE,
    "rSGD fast": _REPLICAS,
    "rSGD slow": _REPLICAS,
    "eSGD fast": _ANCHOR,
    "eSGD slow": _ANCHOR,
    "fBP": {"num_replicas": (10, 30, 100)},
    # With less at the end, errors remain, units stay equal, or the validation error is larger.
    "fBP rising": {"num_replicas": ((2, 1e3), (2, 1e4), (2, 1e5))},
}

STUDY = CommitteeStudy(
    task=TASKS["fashion_mnist"],
    num_units=9,
    solvers=SOLVERS,
    spaces=SPACES,
    subsets=(0, 1, 2, 3, 4),
    tuning_subsets=(100, 101),
    seeds=(0, 1, 2, 3),
    overlaps=(0.99, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3),
    sampled_overlaps=(0.9, 0.8, 0.6),
    sigmas=(0.25, 0.5, 0.75, 1.0, 1.5),
    num_samples=100,
    direct_samples=5000,
    betas=(0.3, 1.0, 2.0, 4.0),
    chain_steps=400,
)

# One subset, one seed, three solvers, no tuning.
SMALL = dataclasses.replace(
    STUDY,
    solvers={name: SOLVERS[name] for name in ("SGD fast", "rSGD fast", "fBP")},
    spaces={},
    subsets=(0,),
    seeds=(0,),
    overlaps=(0.95, 0.9, 0.8, 0.6),
    sampled_overlaps=(0.8,),
    chain_steps=25,
)
