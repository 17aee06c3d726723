"""Flatness at matched training error: does it tell the test error? The rules.

command:   python -m experiments matched-flatness
hardware:  one CPU core, two hours, in units of minutes; --small takes two minutes
reaches:   docs/results/matched_flatness.md
cost:      MLPs: 0.8 hours each. A run of 3,720 gradients takes 9 s (SGD, SWA), 14 s (SAM), 26 s
           (Entropy-SGD) and 40 s (rSGD x 3), in units of 24 runs on a busy core. Conv nets: 1.6
           hours, and 1.9 with batch norm. A gradient of 32 images takes 16 CPU ms, with batch norm
           20, so that a run of 40 epochs takes 40 to 50 s, and rSGD x 3 three times as long

Protocol, fixed before the first run
1. Question: among solutions that have learned their training images, does local energy tell the
   test error? Is there information in it beyond training loss, norm and margins?
2. Networks: on 2,000 images of Fashion-MNIST the MLP with right labels (60 epochs) and with 20%
   wrong ones (60), and the conv net without and with batch norm (40). Batches of 32.
3. Solutions: SGD, SAM, SWA, Entropy-SGD, and Replicated-SGD with three times the gradients. Each
   has settings that are log-uniform (Halton) in the ranges below: 6 for the MLP, 4 for the conv
   net. Nothing is tuned. All settings run on the same five data samples: the seeds 4,000 to 4,004,
   each with its own subset and wrong labels.
4. Matched: solutions with at most 1% training error are ranked. The error is that on all training
   images, with their wrong labels. Where fewer than five settings match, nothing is ranked.
5. Predictors, on the solution's own training images (2,000; 500 for local energy of the conv net):
   local energy at σ = 0.3 (20 draws) is planned. The others are exploratory: SAM's sharpness
   (ρ = 0.05), adaptive sharpness (ρ = 0.5), training loss, norm of all parameters, small margins.
   Small margins are minus the median gap between the two largest logits, in standard deviations of
   the example's logits. Noise leaves the statistics of batch norm as they are.
6. Statistics: Kendall's tau-b over pairs on the same data sample, with the test error; the test
   loss is exploratory. The partial tau is given training loss, norm and small margins (without the
   predictor itself). Intervals are percentiles of 2,000 bootstrap samples of configurations, each
   with all its data samples.
7. A tau is called clear if it exceeds z standard errors of the bootstrap. z belongs to a level of
   0.05 over 8 cells: local energy, four networks, tau and partial tau.
8. The solutions of the second contest are not used: their weights are not stored, and they have one
   configuration for each algorithm.
"""

import dataclasses

from experiments.configs import ladder
from experiments.studies.matched_flatness.description import MatchedFlatness
from experiments.studies.spaces import Range

_MLP = ladder.SETTINGS["MLP, 2k, clean"]
_CONV = ladder.SETTINGS["conv net, 2k, clean"] | {"epochs": 40, "local_energy_examples": 500}
_SGD: dict[str, Range] = {"learning_rate": (0.01, 0.1), "weight_decay": (1e-4, 5e-3)}

STUDY = MatchedFlatness(
    base=ladder.STUDY.base.changed(evaluate_on="test", local_energy_samples=20),
    networks={
        "MLP": _MLP,
        "MLP, 20% noise": _MLP | {"label_noise": 0.2},
        "conv net": _CONV,
        "conv net, batch norm": _CONV | {"model_options": ("batch_norm=True",)},
    },
    algorithms={
        "SGD": {"algorithm": "sgd"},
        "SAM": {"algorithm": "sam"},
        "SWA": {"algorithm": "swa"},
        "eSGD": {"algorithm": "esgd"},
        "rSGD x 3": {"algorithm": "rsgd", "epochs": 3},
    },
    spaces={
        "SGD": _SGD,
        "SAM": _SGD | {"sam_rho": (0.02, 0.2)},
        "SWA": _SGD,
        "eSGD": _SGD | {"gamma": (0.01, 1.0)},
        "rSGD x 3": _SGD | {"gamma": (1e-4, 1e-2)},
    },
    trials={"MLP": 6, "MLP, 20% noise": 6, "conv net": 4, "conv net, batch norm": 4},
    seeds=(4000, 4001, 4002, 4003, 4004),
    sigma=0.3,
    matched=1.0,
)

# One network, two algorithms, few images and epochs; compilation takes most of the time.
SMALL = dataclasses.replace(
    STUDY,
    base=STUDY.base.changed(local_energy_samples=2, local_energy_examples=200),
    networks={"MLP": ladder.SETTINGS["MLP, 500, clean"] | {"epochs": 10}},
    algorithms={name: STUDY.algorithms[name] for name in ("SGD", "eSGD")},
    trials={"MLP": 3},
    seeds=(4000, 4001),
    matched=100.0,
)
