"""Fine-tuning on new classes, and what is lost of the old ones.

command:   python -m experiments fine-tuning
hardware:  one CPU core, about 15 minutes; --small takes two to three minutes

Protocol
1. Tasks: classes 0-4 of Fashion-MNIST are old, 5-9 are new. For each seed, a network with two
   hidden layers of 128 is trained on the old classes (600 gradients of 64 images), and then on
   500 images of the new ones. Each seed has its own images, network and validation images.
2. Measured: the error of the new classes among each other, and of the old classes among each other.
   Each task has its own last layer (head); the old one is kept. What is lost is therefore what the
   change of the hidden layers destroys. The error among all ten classes is recorded, but says
   little: the two heads were never trained to compete, whatever the algorithm.
3. Two modes: the last layers (the second hidden layer and the new head), and LoRA (changes of rank
   4 of both hidden layers, and the new head).
4. Budget: 600 gradients of 32 images, over all replicas. Of rSGD and the soup, three replicas take
   200 steps each. A step of SAM takes two gradients. Learning rates fall to 0 (cosine). All methods
   but SGD use AdamW inside. The couplings of rSGD and eSGD grow by a factor of 1,000.
5. Tuning, by the validation error of the new classes only, with the rules of the second contest
   (`experiments.configs.contest`): 12 candidates on 2 seeds, the best 4 on 4, the best 2 on 8. If
   the choice is in the outermost tenth of a range, the range grows there by a third, and 3
   candidates are added; at most three times. At the lower ends of weight decay and couplings, the 3
   candidates have 0.
6. Test: the choice runs once on 12 fresh seeds from 1,000, the same for all methods.
7. Primary: the new classes' test errors of rSGD and eSGD against AdamW's, in both modes, by paired
   t-tests; Holm's method corrects these four. All other comparisons are exploratory, and corrected
   in families of one quantity and one reference.
8. Variants with the same choices and three times the gradients tell whether the budget decides:
   AdamW, and the soup of three runs of 600 gradients.
9. With LoRA, the final model of replicas is the mean of their products A B. Replicas of rSGD start
   with the same A, members of the soup with their own. The mean of factors is recorded, too.
10. Nothing is retuned after test errors were seen.
"""

import dataclasses

from experiments.studies.contest.description import Contestant
from experiments.studies.fine_tuning.description import (
    LAST_LAYERS,
    LORA,
    Data,
    FineTuning,
    Longer,
    Pretraining,
)
from experiments.studies.spaces import Choice, Range

_ADAMW: dict[str, Range] = {"learning_rate": (1e-4, 3e-2), "weight_decay": (1e-3, 1.0)}
_REPLICAS = {"replicas": 3}

CONTESTANTS = {
    "AdamW": Contestant({"method": "adamw"}, _ADAMW),
    "SGD": Contestant(
        {"method": "sgd"}, {"learning_rate": (1e-3, 0.3), "weight_decay": (1e-5, 1e-1)}
    ),
    "SAM": Contestant({"method": "sam"}, _ADAMW | {"sam_rho": (0.005, 0.5)}),
    "rSGD": Contestant({"method": "rsgd"} | _REPLICAS, _ADAMW | {"pull": (1e-6, 1e-1)}),
    "eSGD": Contestant(
        {"method": "esgd"}, _ADAMW | {"gamma": (1e-3, 1e2), "inner_steps": Choice((5, 20))}
    ),
    "soup": Contestant({"method": "soup", "common": False} | _REPLICAS, _ADAMW),
}

STUDY = FineTuning(
    contestants=CONTESTANTS,
    trials=12,
    rounds=((12, 2), (4, 4), (2, 8)),
    edge=0.1,
    extension=1 / 3,
    extension_trials=3,
    extensions=3,
    ends_at_zero=("weight_decay", "pull", "gamma"),
    data=Data(),
    pretraining=Pretraining(),
    hidden=(128, 128),
    modes=(LAST_LAYERS, LORA),
    rank=4,
    gradients=600,
    batch_size=32,
    longer={"AdamW x 3": Longer("AdamW", 3), "soup x 3": Longer("soup", 3)},
    first_test_seed=1000,
    test_seeds=12,
    baseline="AdamW",
    references=("SAM", "soup"),
    primary=("rSGD", "eSGD"),
    sigmas=(0.2, 0.4),
    noise_samples=6,
)

SMALL = dataclasses.replace(
    STUDY,
    contestants={name: CONTESTANTS[name] for name in ("AdamW", "rSGD", "eSGD", "soup")},
    trials=2,
    rounds=((2, 1),),
    extensions=0,
    pretraining=Pretraining(steps=100),
    gradients=60,
    test_seeds=2,
    noise_samples=2,
)
