"""The settings that all algorithms share: data, network, optimizer, measures."""

import dataclasses
import itertools
from typing import Literal

from experiments.engine.checks import check_fields

# Settings that are newer than recorded results. Configurations omit them at their defaults, so that
# the identities of those results do not change.
NEWER = (
    *("base_optimizer", "squares_decay"),
    *("reset_inner", "final_average", "distance", "ascent"),
)

Schedule = Literal["cosine", "constant", "milestones"]
Augmentation = Literal["flip", "crop", "cutout", "autoaugment"]


@dataclasses.dataclass(frozen=True)
class Data:
    """Training and held-out examples."""

    dataset: str = "digits"
    """digits (included), fashion_mnist, tiny_imagenet, or any image classification set of
    TensorFlow Datasets (cifar10, cifar100, ...). For your own images: folder:PATH
    (train/CLASS/*.jpg, test/...; folder,size=64,test=0.2:PATH resizes images and sets some aside
    for testing), npz:PATH (x_train, y_train, x_test, y_test; npz,task=regression:PATH) or
    npy:FOLDER (the same arrays, one npy file each; images stay there, and each process reads those
    of its replicas). For texts: text:PATH (a file or a folder;
    text,unit=characters,context=64:PATH) or tfds_text:NAME of TensorFlow Datasets. Or
    package.module:function, which returns a flatjax.data.Dataset, a TokenDataset or, for data that
    do not fit into memory, a Stream. See docs/your_data.md."""
    train_size: int | None = None
    """Train on a random subset of this size."""
    label_noise: float = 0.0
    """Fraction of training labels that are changed to another class."""
    augment: tuple[Augmentation, ...] = ()
    """Random changes of the training images."""
    rgb32: bool = False
    """Enlarge images to 32 x 32 with three channels, for networks made for CIFAR."""
    validation: float = 0.1
    """Fraction of the training set that is held out for validation."""
    evaluate_on: Literal["validation", "test"] = "test"
    """Examples on which the final errors are measured. Tune on validation."""
    held_out_size: int | None = None
    """Number of held-out examples for the final errors; the first ones are used."""
    data_seed: int = 0
    """Random seed of the validation set, the subset and the label noise."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.evaluate_on == "validation" and self.validation == 0:
            raise ValueError("validation must be > 0 to evaluate on it, got 0.")


@dataclasses.dataclass(frozen=True)
class Network:
    """The network."""

    model: str = "mlp"
    """A name of flatjax.models (mlp, small_convnet, resnet18, ...), or your own linen module,
    package.module:Class."""
    model_options: tuple[str, ...] = ()
    """Attributes of the network as name=value, for example batch_norm=True or dtype=bfloat16 (which
    computes in half precision; weights, their coupling and statistics stay in float32)."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Learning rate, momentum and regularization."""

    learning_rate: float = 0.05
    """Peak learning rate."""
    schedule: Schedule = "cosine"
    """Schedule of the learning rate: cosine to 0, constant, or lowered at milestones. swa has its
    own schedule: linear to half the rate, then constant while weights are averaged."""
    milestones: tuple[float, ...] = (0.5, 0.75, 0.875)
    """Fractions of training at which --schedule milestones lowers the learning rate."""
    milestone_factor: float = 0.2
    """Factor by which each milestone multiplies the learning rate."""
    warmup: float = 0.0
    """Fraction of training in which the learning rate grows linearly to its peak."""
    warmup_start: float = 0.1
    """Learning rate at the start of the warm-up, as a fraction of the peak."""
    momentum: float = 0.9
    """Nesterov momentum; for adamw, the decay of the mean of gradients."""
    weight_decay: float = 5e-4
    """Weight decay, added to the gradient; for adamw, to the step before the learning rate."""
    decay_matrices_only: bool = False
    """No weight decay of biases and scales of norms (all leaves except matrices and kernels)."""
    label_smoothing: float = 0.0
    """Weight of the uniform distribution in the training targets."""
    base_optimizer: Literal["sgd", "adamw"] = "sgd"
    """Base optimizer of each network, inside all algorithms; use adamw for transformers."""
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
        """Raises a ValueError if one of the fields has a value that is not used."""
        for field in fields.split():
            if field in self.changes():
                raise ValueError(f"{field} is only for {condition}, got {getattr(self, field)}.")

    def changes(self) -> dict[str, object]:
        """Returns the fields that differ from their defaults."""
        fields = [(field, getattr(self, field.name)) for field in dataclasses.fields(self)]
        return {field.name: value for field, value in fields if value != field.default}


@dataclasses.dataclass(frozen=True)
class Measures:
    """Measurements during training and of the final model."""

    curve_examples: int = 2000
    """Number of held-out examples for the error during training."""
    sigmas: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
    """Noise strengths of the local energy."""
    local_energy_samples: int = 20
    """Number of draws of the noise for each strength."""
    local_energy_examples: int = 2000
    """Number of training examples on which the local energy is measured."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not all(sigma >= 0 for sigma in self.sigmas):
            raise ValueError(f"sigmas must be >= 0, got {self.sigmas}.")
