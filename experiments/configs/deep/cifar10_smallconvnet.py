"""CIFAR-10, SmallConvNet: two convolutions, no augmentation.

command:   python -m experiments reproduce cifar10-smallconvnet [--only SGD] [--seeds 5]
           python -m experiments reproduce cifar10-smallconvnet --reduced
hardware:  one GPU
hours:     0.0026 a run at 20 TFLOP/s (three times that for x 3), more where the GPU waits
recipe:    batch 128, learning rate 0.05, Nesterov 0.9, weight decay 5e-4, cosine to 0, 100 epochs
           of all replicas together; no augmentation

reported by the paper, test error %: SGD 16.5 ± 0.2; rSGD 15.6 ± 0.3; eSGD 14.7 ± 0.3; rSGD x 3
    14.9 ± 0.2
"""

from experiments.engine.config import TrainConfig
from experiments.studies.reproduce.description import Row, algorithms

EPOCHS = 100.0

STUDY = Row(
    title="CIFAR-10, SmallConvNet",
    base=TrainConfig.of(
        dataset="cifar10",
        model="small_convnet",
        model_options=("features=(32, 64)", "hidden=(256,)"),
        learning_rate=0.05,
        augment=("flip", "crop"),
        weight_decay=5e-4,
        epochs=EPOCHS,
        validation=0.0,
    ),
    runs=algorithms(EPOCHS),
    reported={
        "SGD": "16.5 ± 0.2",
        "rSGD": "15.6 ± 0.3",
        "eSGD": "14.7 ± 0.3",
        "rSGD x 3": "14.9 ± 0.2",
    },
    seeds=5,
    reduced_options=("features=(16, 32)", "hidden=(64,)"),
)
