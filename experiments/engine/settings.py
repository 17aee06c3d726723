"""The settings that all algorithms share, in groups: data, network, optimizer, measures."""

import dataclasses
import itertools
from typing import Literal

from experiments.engine.checks import check_fields

# Settings that are newer than recorded results. At their defaults, configurations leave them out,
# so that the identities of those results stay what they are.
NEWER = ("base_optimizer", "squares_decay")

Schedule = Literal["cosine", "constant", "milestones"]
Augmentation = Literal["flip", "crop", "cutout", "autoaugment"]


@dataclasses.dataclass(frozen=True)
class Data:
    """Training and held-out examples."""

    dataset: str = "digits"
    """digits (embedded), fashion_mnist, tiny_imagenet, any image classification set of TensorFlow
    Datasets (cifar10, cifar100, ...), or your own data: folder:PATH (train/CLASS/*.jpg, test/...;
    folder,size=64,test=0.2:PATH brings images to one size and sets some aside for testing),
    npz:PATH (x_train, y_train, x_test, y_test; npz,task=regression:PATH), npy:FOLDER (the same, one
    npy file each; images stay there, and each process reads those of its replicas), text:PATH (a
    file or a folder; text,unit=characters,context=64:PATH), tfds_text:NAME of TensorFlow Datasets,
    or package.module:function, which returns a flatjax.data.Dataset, a TokenDataset or, if it does
    not fit into memory, a Stream. See docs/your_data.md."""
    train_size: int | None = None
    """Train on a random subset of this size."""
    label_noise: float = 0.0
    """Fraction of training labels that are changed to another class."""
    augment: tuple[Augmentation, ...] = ()
    """Random changes of the training images."""
    rgb32: bool = False
    """Present images as 32 x 32 with three channels, for networks made for CIFAR."""
    validation: float = 0.1
    """Fraction of the training set that is held out."""
    evaluate_on: Literal["validation", "test"] = "test"
    """Where the final errors are measured. Tune on validation."""
    held_out_size: int | None = None
    """Measure them on the first this many held-out examples only."""
    data_seed: int = 0
    """Draws the validation set, the subset and the label noise."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.evaluate_on == "validation" and self.validation == 0:
            raise ValueError("validation must be > 0 to evaluate on it, got 0.")


@dataclasses.dataclass(frozen=True)
class Network:
    """The network."""

    model: str = "mlp"
    """A name of flatjax.models (mlp, small_convnet, resnet18, ...), or a linen module of your own,
    package.module:Class."""
    model_options: tuple[str, ...] = ()
    """Attributes of the network as name=value, for example batch_norm=True or dtype=bfloat16 (which
    computes in half precision; weights, their coupling and statistics stay float32)."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Learning rate, momentum and regularization."""

    learning_rate: float = 0.05
    """Peak learning rate."""
    schedule: Schedule = "cosine"
    """Of the learning rate: cosine to 0, constant, or lowered at milestones. swa has a schedule of
    its own: linear to half the rate, then constant while weights are averaged."""
    milestones: tuple[float, ...] = (0.5, 0.75, 0.875)
    """When --schedule milestones lowers the learning rate, as fractions of training."""
    milestone_factor: float = 0.2
    """Factor by which each milestone multiplies the learning rate."""
    warmup: float = 0.0
    """Fraction of training in which the learning rate grows linearly to its peak."""
    warmup_start: float = 0.1
    """The learning rate with which warm-up starts, as a fraction of the peak."""
    momentum: float = 0.9
    """Nesterov momentum; of adamw, the decay of the mean of gradients."""
    weight_decay: float = 5e-4
    """Added to the gradient; of adamw, to the step before the learning rate multiplies it."""
    decay_matrices_only: bool = False
    """No weight decay of biases and of the scales of norms (all that is no matrix or kernel)."""
    label_smoothing: float = 0.0
    """Weight of the uniform distribution in the training targets."""
    base_optimizer: Literal["sgd", "adamw"] = "sgd"
    """What each network takes its steps with, inside all algorithms; adamw for transformers."""
    squares_decay: float = 0.95
    """Decay of adamw's mean of squared gradients."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not all(a < b for a, b in itertools.pairwise((0, *self.milestones, 1))):
            raise ValueError(
                f"milestones must be growing fractions of training, got {self.milestones}."
            )
        if self.schedule != "milestones":
            self._refuse("milestones milestone_factor", "schedule milestones")
        if self.warmup == 0:
            self._refuse("warmup_start", "warmup > 0")
        if self.base_optimizer != "adamw":
            self._refuse("squares_decay", "base_optimizer adamw")

    def _refuse(self, fields: str, condition: str) -> None:
        """Raises a ValueError if one of the fields has a value that nothing reads."""
        for field in fields.split():
            if field in self.changes():
                raise ValueError(f"{field} is only for {condition}, got {getattr(self, field)}.")

    def changes(self) -> dict[str, object]:
        """The fields that differ from their defaults."""
        fields = [(field, getattr(self, field.name)) for field in dataclasses.fields(self)]
        return {field.name: value for field, value in fields if value != field.default}


@dataclasses.dataclass(frozen=True)
class Measures:
    """Measurements during training and of the final model."""

    curve_examples: int = 2000
    """Held-out examples on which the error is followed during training."""
    sigmas: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
    """Noise strengths of the local energy."""
    local_energy_samples: int = 20
    """Draws of the noise for each strength."""
    local_energy_examples: int = 2000
    """Training examples on which the local energy is measured."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not all(sigma >= 0 for sigma in self.sigmas):
            raise ValueError(f"sigmas must be >= 0, got {self.sigmas}.")
