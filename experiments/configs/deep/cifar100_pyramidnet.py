"""CIFAR-100, PyramidNet-272 (widening 200) with ShakeDrop, AutoAugment, Cutout.

command:   python -m experiments reproduce cifar100-pyramidnet [--only SGD] [--seeds 5]
           python -m experiments reproduce cifar100-pyramidnet --reduced
hardware:  one GPU with 80 GB
hours:     5.6 a run at 20 TFLOP/s (three times that for x 3), more where the GPU waits
recipe:    batch 128, learning rate 0.1, divided by 10 at 1/2 and 3/4, Nesterov 0.9, weight decay
           1e-4, 300 epochs; AutoAugment, flip, crop and Cutout
ours:      the pull after the optimizer's step and the nominal decay; "rSGD, as published" has the
           paper's force and decay

reported by the paper, test error %, without eSGD: SGD 13.8 ± 0.1; rSGD 13.5 ± 0.1; rSGD x 3 12.7
"""

from experiments.engine.config import TrainConfig
from experiments.studies.reproduce.description import Row, algorithms, as_published

EPOCHS = 300.0

BASE = TrainConfig.of(
    dataset="cifar100",
    model="pyramidnet272",
    # Three replicas would keep 124 GB for the backward pass, with this option 18 GB.
    model_options=("remat=True",),
    schedule="milestones",
    milestones=(0.5, 0.75),
    milestone_factor=0.1,
    weight_decay=1e-4,
    augment=("autoaugment", "flip", "crop", "cutout"),
    learning_rate=0.1,
    epochs=EPOCHS,
    validation=0.0,
)

STUDY = Row(
    title="CIFAR-100, PyramidNet-272 + ShakeDrop",
    base=BASE,
    runs=algorithms(EPOCHS),
    variants=as_published(BASE),
    reported={"SGD": "13.8 ± 0.1", "rSGD": "13.5 ± 0.1", "rSGD x 3": "12.7"},
    seeds=3,
    num_classes=100,
    reduced_options=("depth=11", "width=8", "alpha=16"),
)
