"""CIFAR-10, a small vision transformer, which is not in the paper.

command:   python -m experiments reproduce cifar10-vit [--only SGD] [--seeds 5]
           python -m experiments reproduce cifar10-vit --reduced
hardware:  one GPU with 16 GB
hours:     0.23 a run at 20 TFLOP/s (three times that for x 3), more where the GPU waits
recipe:    batch 128, learning rate 0.05 after a warm-up, Nesterov 0.9, weight decay 1e-4
           (matrices only), cosine to 0, 200 epochs; AutoAugment, flip and crop

reported by the paper, test error %: nothing (not in the paper)
"""

from experiments.engine.config import TrainConfig
from experiments.studies.reproduce.description import Row, algorithms

EPOCHS = 200.0

STUDY = Row(
    title="CIFAR-10, ViT (small)",
    base=TrainConfig.of(
        dataset="cifar10",
        model="vit",
        learning_rate=0.05,
        weight_decay=1e-4,
        decay_matrices_only=True,
        warmup=0.05,
        warmup_start=0.01,
        augment=("autoaugment", "flip", "crop"),
        epochs=EPOCHS,
        validation=0.0,
    ),
    runs=algorithms(EPOCHS),
    reported={},
    seeds=3,
    reduced_options=("depth=2", "width=48"),
)
