"""CIFAR-10, ResNet-18: the CIFAR form (3 x 3 stem).

command:   python -m experiments reproduce cifar10-resnet18 [--only SGD] [--seeds 5]
           python -m experiments reproduce cifar10-resnet18 --reduced
hardware:  one GPU with 16 GB
hours:     0.42 a run at 20 TFLOP/s (three times that for x 3), more where the GPU waits
recipe:    batch 128, learning rate 0.1, Nesterov 0.9, weight decay 5e-4, cosine to 0, 200 epochs;
           flip and crop

reported by the paper, test error %: SGD 13.1 ± 0.3; rSGD 12.4 ± 0.3; eSGD 12.1 ± 0.3; rSGD x 3
    11.8 ± 0.1
"""

from experiments.engine.config import TrainConfig
from experiments.studies.reproduce.description import Row, algorithms

EPOCHS = 200.0

STUDY = Row(
    title="CIFAR-10, ResNet-18",
    base=TrainConfig.of(
        dataset="cifar10",
        model="resnet18",
        learning_rate=0.1,
        weight_decay=5e-4,
        augment=("flip", "crop"),
        epochs=EPOCHS,
        validation=0.0,
    ),
    runs=algorithms(EPOCHS),
    reported={
        "SGD": "13.1 ± 0.3",
        "rSGD": "12.4 ± 0.3",
        "eSGD": "12.1 ± 0.3",
        "rSGD x 3": "11.8 ± 0.1",
    },
    seeds=5,
    reduced_options=("width=8",),
)
