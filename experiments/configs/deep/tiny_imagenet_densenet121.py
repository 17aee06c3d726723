"""Tiny ImageNet, DenseNet-121: growth 32, stem for small images.

command:   python -m experiments reproduce tiny-imagenet-densenet121 [--only SGD] [--seeds 5]
           python -m experiments reproduce tiny-imagenet-densenet121 --reduced
hardware:  one GPU with 80 GB
hours:     3 a run at 20 TFLOP/s (three times that for x 3), more where the GPU waits
recipe:    batch 128, learning rate 0.1, Nesterov 0.9, weight decay 5e-4, cosine to 0, 100 epochs;
           flip and crop
ours:      the pull after the optimizer's step and the nominal decay; "rSGD, as published" and
           "eSGD, as published" have the paper's force and decay

reported by the paper, test error %: SGD 41.4 ± 0.3; rSGD 39.8 ± 0.2; eSGD 38.6 ± 0.4; rSGD x 3
    38.9 ± 0.3
"""

from experiments.engine.config import TrainConfig
from experiments.studies.reproduce.description import Row, algorithms, as_published

EPOCHS = 100.0

BASE = TrainConfig.of(
    dataset="tiny_imagenet",
    model="densenet121",
    learning_rate=0.1,
    weight_decay=5e-4,
    augment=("flip", "crop"),
    epochs=EPOCHS,
    validation=0.0,
)

STUDY = Row(
    title="Tiny ImageNet, DenseNet-121",
    base=BASE,
    runs=algorithms(EPOCHS),
    variants=as_published(BASE),
    reported={
        "SGD": "41.4 ± 0.3",
        "rSGD": "39.8 ± 0.2",
        "eSGD": "38.6 ± 0.4",
        "rSGD x 3": "38.9 ± 0.3",
    },
    seeds=3,
    num_examples=100_000,
    image_side=64,
    num_classes=200,
    reduced_options=("stage_sizes=(2, 2, 2)", "growth=8"),
)
