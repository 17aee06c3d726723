"""CIFAR-100, EfficientNet-B0: with the stem of stride 1 for small images.

command:   python -m experiments reproduce cifar100-efficientnet [--only SGD] [--seeds 5]
           python -m experiments reproduce cifar100-efficientnet --reduced
hardware:  one GPU with 16 GB
hours:     0.026 a run at 20 TFLOP/s (three times that for x 3), more where the GPU waits
recipe:    batch 128, learning rate 0.1, Nesterov 0.9, weight decay 5e-4, cosine to 0, 200 epochs;
           AutoAugment, flip, crop and Cutout
ours:      the pull after the optimizer's step and the nominal decay; "rSGD, as published" and
           "eSGD, as published" have the paper's force and decay

reported by the paper, test error %: SGD 20.5; rSGD 20.6; eSGD 20.1 ± 0.2; rSGD x 3 19.5
"""

from experiments.engine.config import TrainConfig
from experiments.studies.reproduce.description import Row, algorithms, as_published

EPOCHS = 200.0

BASE = TrainConfig.of(
    dataset="cifar100",
    model="efficientnet_b0",
    model_options=("stem=small",),
    augment=("autoaugment", "flip", "crop", "cutout"),
    learning_rate=0.1,
    weight_decay=5e-4,
    epochs=EPOCHS,
    validation=0.0,
)

STUDY = Row(
    title="CIFAR-100, EfficientNet-B0",
    base=BASE,
    runs=algorithms(EPOCHS),
    variants=as_published(BASE),
    reported={"SGD": "20.5", "rSGD": "20.6", "eSGD": "20.1 ± 0.2", "rSGD x 3": "19.5"},
    seeds=3,
    num_classes=100,
    reduced_options=("width_multiplier=0.25", "depth_multiplier=0.3"),
)
