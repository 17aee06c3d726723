"""Where do flat committees test better? Sizes and label noise, and the rules.

command:   python -m experiments committee-flatness
hardware:  one CPU core, half an hour; 12 cells of two minutes; --small takes two minutes
reaches:   docs/results/committees.md
cost:      2,160 solutions. A run of 4,000 gradients takes 0.6 to 0.8 CPU s (SGD, Entropy-SGD) or
           1.0 to 1.2 (three replicas), measured with 100 and 3,000 patterns. Local energy takes 0.1
           to 1 CPU s, test error 0.1, and compilation of a setting 4, once for each size: 144 times

Protocol, fixed before the first run
1. Question: for which numbers of patterns and of wrong labels do flat committees test better, at
   equal training error? The study of committees found the contrary for 500 patterns.
2. Cells: 100, 300, 1,000 or 3,000 patterns of Dress and Coat, with 0, 10 or 20% wrong labels. The
   committee has nine units. Test labels are right.
3. Solutions: SGD, Replicated-SGD with three replicas and Entropy-SGD, 12 settings of each,
   log-uniform (Halton) in the ranges below, on five subsets of patterns. Nothing is tuned. Each
   replica takes 4,000 gradients, so that rSGD takes three times as many as the others.
4. Starts are independent: each run has its own initial weights, and so has each of its replicas.
5. Measures: training error, test error, and local energy under multiplicative noise of σ = 1 (100
   draws), the planned predictor. σ = 0.5 and 2, and the overlap of the units, are recorded.
6. Matched: of each cell, the solutions in the range of training errors, one point wide, that holds
   most of them (the lowest such range). Kendall's tau-b counts pairs on the same subset. Where
   fewer than five settings match, the cell is empty.
7. Also, for all solutions of a cell: tau within subsets, and the partial tau given the training
   error.
8. Intervals are percentiles of 2,000 bootstrap samples of settings, each with all its subsets. A
   tau is called clear if it exceeds z standard errors of the bootstrap. z belongs to a level of
   0.05 over 12 cells. The matched taus are the main result, the others are exploratory.
9. Pilots: 11 runs on subset 7 with 100 and 3,000 patterns, for times and training errors. With
   3,000 patterns and 20% wrong labels the training error stays above 20%, hence rule 6.
"""

import dataclasses

from experiments.studies.committee.description import GradientSolver, TwoClasses
from experiments.studies.committee_flatness.description import CommitteeFlatness
from experiments.studies.spaces import Choice, Range

_SGD: dict[str, Range] = {"learning_rate": (0.1, 3.0), "batch_size": Choice((20, 50))}

STUDY = CommitteeFlatness(
    task=TwoClasses(),
    num_units=9,
    sizes=(100, 300, 1000, 3000),
    noises=(0.0, 0.1, 0.2),
    solvers={
        "SGD": GradientSolver("sgd"),
        "rSGD": GradientSolver("rsgd", replicas=3, common_start=False),
        "eSGD": GradientSolver("esgd"),
    },
    spaces={
        "SGD": _SGD,
        "rSGD": _SGD | {"gamma": (0.01, 0.3)},
        "eSGD": _SGD | {"gamma": (0.01, 1.0), "inner_steps": Choice((5, 20))},
    },
    trials=12,
    steps=4000,
    subsets=(0, 1, 2, 3, 4),
    sigmas=(1.0, 0.5, 2.0),
    num_samples=100,
    width=1.0,
)

# One size and two noises, few settings, gradients and draws; compilation takes most of the time.
SMALL = dataclasses.replace(
    STUDY, sizes=(100,), noises=(0.0, 0.2), trials=2, steps=400, subsets=(0, 1), num_samples=10
)
