"""What predicts robustness: its rules, fixed before the first run.

command:   python -m experiments robustness
hardware:  one CPU core, about an hour; --small takes a minute or two

Protocol
1. Question: which number, measured on the training data, tells before whether a network survives
   rounding, pruning, noise on its weights, and fine-tuning?
2. Solutions, group "20% noise": the MLP of the second contest (2,000 images of Fashion-MNIST, 20%
   wrong labels, batches of 32, 60 epochs). Five algorithms at the settings that the contest chose,
   and at all combinations of a third, one and three times the learning rate and the weight decay:
   45 configurations. The fresh seed 3,000, and five further seeds at the contest's choices.
3. Solutions, group "clean": the same network with right labels. The settings come from the
   flatness study (learning rate 0.03, weight decay 5e-3). A third and three times the rate, and a
   tenth of the decay, are added: 30 configurations, one seed. They were not tuned.
4. Outcomes: rises of the test error, in points, on the first 2,000 test images. Weights have 4 or
   3 bits (one range for each matrix), or 3 bits with a range for each channel or a clipped range.
   70% or 90% of the weights are pruned. Weights get noise, relative (0.3 of each weight) or
   absolute (0.02), ten draws. The network takes 100 steps of fine-tuning. Rises of the loss, 4 bits
   with other ranges, and other numbers of steps are recorded too.
5. Fine-tuning: the second task is Fashion-MNIST in a mirror. It has the same ten classes, so that
   no new head is needed. Shoes and bags change, and shirts hardly do: it is a related task, as
   tasks of fine-tuning are. Its 2,000 images have right labels and are the same for all solutions.
   Steps: SGD, learning rate 0.003, momentum 0.9, batches of 32. The error on the second task is
   recorded, because a network that learns it more slowly also forgets less. A pilot (seed 99, SGD
   and SAM) tried turned images, after which nothing was left of the first task, and learning rates
   of 0.001 to 0.01.
6. Predictors, all on the solution's own training images: local energy (rise of the training error
   at σ = 0.3, ten draws), SAM's sharpness (ρ = 0.05), the local learning coefficient, the norm of
   all parameters, and outliers. The coefficient has 500 examples, localization 1,000, and two
   chains of 150 steps after a warm-up of 150. Outliers are the mean over matrices of the log of the
   largest absolute weight over the root mean square. Exploratory: adaptive sharpness (ρ = 0.5),
   training loss, and small margins. These are minus the median gap between the two largest logits,
   in standard deviations of the example's logits.
7. Statistics, in each group alone: Kendall's tau-b of every predictor with every outcome, over all
   pairs of solutions, and over pairs of the same algorithm. The partial tau given norm and outliers
   comes from the inverse of the matrix of taus; for one of these two it is given the other one.
   Intervals are percentiles of 2,000 bootstrap samples of configurations, each with all its seeds.
   A tau is called clear if it exceeds z standard errors of the bootstrap, where z is that of a
   level of 0.05 over the number of planned cells (five predictors times nine outcomes).
8. Solutions whose test error exceeds 50%, or that diverged, are left out and counted. A learning
   coefficient that is not finite ties with all others. Estimates with a problem are used and
   counted: chains of this length are too short to settle.
9. Relative noise on the test error is nearly the local energy itself, measured on other images. Its
   tau with local energy is a check and no discovery.
10. Of the algorithms, the table has means over the six seeds of the contest's choices. The main
   answer on rounding and pruning comes from the contest's own records of 40 seeds.
"""

import dataclasses

from experiments.configs import contest, ladder
from experiments.studies.robustness.description import Group, Robustness

# The contest's choices for "MLP, 2k, 20% noise" (experiments/results/contest).
CHOICES = {
    "sgd": {"learning_rate": 0.00718, "weight_decay": 0.0293},
    "sam": {"learning_rate": 0.025, "weight_decay": 0.0142, "sam_rho": 0.0363},
    "swa": {"learning_rate": 0.0107, "weight_decay": 0.0306},
    "rsgd": {"learning_rate": 0.0586, "weight_decay": 0.00306, "gamma": 0.000127},
    "esgd": {
        "learning_rate": 0.17,
        "weight_decay": 0.011,
        "gamma": 1.84,
        "noise_scale": 0.000244,
        "averaging_decay": 0.5,
        "inner_steps": 20,
    },
}

# The flatness study's algorithms, at its smaller learning rate and larger weight decay.
_SGD = {"learning_rate": 0.03, "weight_decay": 5e-3}
CLEAN = {
    "sgd": _SGD,
    "sam": _SGD | {"sam_rho": 0.1},
    "swa": _SGD,
    "rsgd": _SGD | {"gamma": 1e-3},
    "esgd": _SGD | {"gamma": 0.1},
}

GROUPS = {
    "20% noise": Group(
        fields=ladder.SETTINGS["MLP, 2k, 20% noise"],
        centers=CHOICES,
        factors={"learning_rate": (1 / 3, 1, 3), "weight_decay": (1 / 3, 1, 3)},
        seeds=(3000,),
        center_seeds=(3001, 3002, 3003, 3004, 3005),
    ),
    "clean": Group(
        fields=ladder.SETTINGS["MLP, 2k, clean"],
        centers=CLEAN,
        factors={"learning_rate": (1 / 3, 1, 3), "weight_decay": (0.1, 1)},
        seeds=(3000,),
    ),
}

STUDY = Robustness(
    base=contest.STUDY.base,
    groups=GROUPS,
    outcomes=dataclasses.replace(
        contest.STUDY.outcomes, sigmas=(0.3,), noise_rises=(5.0,), sparsity=(0.7, 0.9)
    ),
    second_seed=2999,
    steps=(10, 30, 100, 300),
    rate=0.003,
    momentum=0.9,
    chains={"localization": 1000.0, "num_chains": 2, "num_steps": 150, "num_warmup": 150},
    chain_examples=500,
    chain_batch=50,
    collapsed=50.0,
)

# Two algorithms and few epochs, examples and steps.
SMALL = dataclasses.replace(
    STUDY,
    groups={
        "20% noise": dataclasses.replace(
            GROUPS["20% noise"],
            fields=ladder.SETTINGS["MLP, 500, 20% noise"] | {"epochs": 20},
            centers={name: CHOICES[name] for name in ("sgd", "esgd")},
            factors={"learning_rate": (1, 3), "weight_decay": (1, 3)},
            center_seeds=(3001,),
        )
    },
    outcomes=dataclasses.replace(STUDY.outcomes, noise_samples=2, examples=300),
    steps=(10, 100),
    chains=STUDY.chains | {"num_steps": 20, "num_warmup": 20},
    chain_examples=100,
)
