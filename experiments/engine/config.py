"""One run, described: the configuration that every algorithm shares."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

AlgorithmName = Literal["sgd", "sam", "swa", "ema", "esgd", "rsgd", "rsam", "esam", "parle"]
Schedule = Literal["cosine", "constant", "milestones"]
Augmentation = Literal["flip", "crop", "cutout", "autoaugment"]
CommunicationDtype = Literal["float32", "bfloat16", "int8"]

REPLICATED = ("rsgd", "rsam", "parle")
_OPTIONAL = ("gamma", "replica_gamma", "train_size", "held_out_size")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_seed(value: Any) -> bool:
    # JAX drops the bits above.
    return isinstance(value, int) and 0 <= value < 2**32


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run. All algorithms share these settings; some concern only some of them."""

    algorithm: AlgorithmName = "rsgd"
    """sgd; sam (sharpness-aware); swa or ema (averages of SGD's weights); esgd (Entropy-SGD); rsgd
    (Replicated-SGD); rsam (replicas of SAM, coupled); parle (replicas of Entropy-SGD); esam (SAM in
    the loop of Entropy-SGD)."""
    dataset: str = "digits"
    """digits (embedded), fashion_mnist, tiny_imagenet, any image classification set of TensorFlow
    Datasets (cifar10, cifar100, ...), or your own data: folder:PATH (train/CLASS/*.jpg, test/...;
    folder,size=64,test=0.2:PATH brings images to one size and sets some aside for testing) or
    npz:PATH (x_train, y_train, x_test, y_test), or package.module:function, which returns a
    flatjax.data.Dataset or, if it does not fit into memory, a Stream. See docs/your_data.md."""
    model: str = "mlp"
    """A name of flatjax.models (mlp, small_convnet, resnet18, ...), or a linen module of your own,
    package.module:Class."""
    model_options: tuple[str, ...] = ()
    """Attributes of the network as name=value, for example batch_norm=True or dtype=bfloat16 (which
    computes in half precision; weights, their coupling and statistics stay float32)."""
    rgb32: bool = False
    """Present images as 32 x 32 with three channels, for networks made for CIFAR."""

    epochs: float = 30.0
    """Budget: passes over the training set, in gradient evaluations of all replicas together. With
    y replicas each makes epochs / y; for "rSGD x y" ask for y times as many."""
    batch_size: int = 128
    """Examples in each gradient evaluation."""
    micro_batches: int = 1
    """Parts of a batch whose gradients are computed one after another, to save memory. Batch norm
    sees one part at a time."""
    learning_rate: float = 0.05
    """At its highest."""
    schedule: Schedule = "cosine"
    """Of the learning rate: cosine to 0, constant, or lowered at milestones
    (swa: linear to half the rate, constant while averaging)."""
    milestones: tuple[float, ...] = (0.5, 0.75, 0.875)
    """When milestones lower the learning rate, as fractions of training."""
    milestone_factor: float = 0.2
    """By which they multiply it."""
    warmup: float = 0.0
    """Fraction of training in which the learning rate grows linearly to its highest."""
    warmup_start: float = 0.1
    """The learning rate with which warm-up starts, as a fraction of the highest."""
    momentum: float = 0.9
    """Nesterov momentum."""
    weight_decay: float = 5e-4
    """Added to the gradient."""
    decay_matrices_only: bool = False
    """No weight decay of biases and of the scales of norms (all that is no matrix or kernel)."""
    label_smoothing: float = 0.0
    """Weight of the uniform distribution in the training targets."""
    augment: tuple[Augmentation, ...] = ()
    """Random changes of the training images."""

    replicas: int = 3
    """y, for rsgd and parle. Memory grows with y: parameters, momentum and activations."""
    gamma: float | None = None
    """Initial coupling gamma_0 (to the center for rsgd, to the anchor for esgd and parle); by
    default the one whose energy balances the initial loss."""
    replica_gamma: float | None = None
    """Initial coupling of parle's anchors to their center; by default automatic."""
    gamma_factor: float = 1e4
    """Total growth of the couplings during training."""
    decoupled: bool = True
    """Pull replicas (iterates) to the center (anchor) after the optimizer's step, stable for any
    gamma. With --no-decoupled the force joins the gradient, as in the paper: stable only while
    learning rate x gamma stays small."""
    period: int = 1
    """K, for rsgd: couple every K-th step, K times as strongly, and communicate only then."""
    communication_dtype: CommunicationDtype = "float32"
    """What replicas send each other (rsgd); bfloat16 and int8 are rounded."""
    delayed: bool = False
    """Pull by the center a step ago; in the gradient, couple by that of the coupling before
    (rsgd): nothing waits for the present one."""
    common_init: bool = False
    """Start all replicas from the same weights."""

    inner_steps: int = 5
    """L, gradients for each step of the anchor (esgd, parle)."""
    averaging_decay: float = 0.75
    """Weight of the old mean in the inner loop (esgd, parle)."""
    noise_scale: float = 1e-4
    """Langevin noise epsilon (esgd, parle)."""
    sam_rho: float = 0.05
    """Radius of the adversarial step (sam, rsam, esam)."""
    average_start: float = 0.75
    """Fraction of training after which weights are averaged (swa)."""
    ema_decay: float = 0.999
    """Decay of the average (ema)."""

    train_size: int | None = None
    """Train on a random subset of this size."""
    label_noise: float = 0.0
    """Fraction of training labels that are changed to another class."""
    validation: float = 0.1
    """Fraction of the training set that is held out."""
    evaluate_on: Literal["validation", "test"] = "test"
    """Where the final errors are measured. Tune on validation."""
    held_out_size: int | None = None
    """Measure them on the first this many held-out examples only."""
    curve_examples: int = 2000
    """Held-out examples on which the error is followed during training."""
    data_seed: int = 0
    """Draws the validation set, the subset and the label noise."""
    seed: int = 0
    """Draws the initial weights, the order of the data and all noise."""

    sigmas: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
    """Noise strengths of the local energy."""
    local_energy_samples: int = 20
    """Draws of the noise for each strength."""
    local_energy_examples: int = 2000
    """Training examples on which it is measured."""

    def __post_init__(self) -> None:
        """Refuses values that no run can have, naming the field."""
        for field, allowed in (
            ("algorithm", get_args(AlgorithmName)),
            ("schedule", get_args(Schedule)),
            ("evaluate_on", ("validation", "test")),
            ("communication_dtype", get_args(CommunicationDtype)),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} must be one of {allowed}, got {getattr(self, field)!r}.")
        self._require_types()
        unknown = [name for name in self.augment if name not in get_args(Augmentation)]
        if unknown:
            raise ValueError(f"augment must hold {get_args(Augmentation)}, got {unknown}.")
        whole = lambda v: isinstance(v, int) and v >= 1
        for fields, is_valid, expected in (
            ("batch_size micro_batches replicas inner_steps period", whole, "a whole number >= 1"),
            ("local_energy_examples train_size", whole, "a whole number >= 1"),
            ("held_out_size curve_examples", whole, "a whole number >= 1"),
            ("local_energy_samples", lambda v: whole(v) and v >= 2, "a whole number >= 2"),
            ("seed data_seed", _is_seed, "a whole number from 0 to 2^32 - 1"),
            ("epochs learning_rate gamma_factor sam_rho milestone_factor", lambda v: v > 0, "> 0"),
            ("weight_decay noise_scale gamma replica_gamma", lambda v: v >= 0, ">= 0"),
            ("momentum averaging_decay ema_decay warmup", lambda v: 0 <= v < 1, "in [0, 1)"),
            ("label_noise label_smoothing validation", lambda v: 0 <= v < 1, "in [0, 1)"),
            ("warmup_start", lambda v: 0 <= v <= 1, "in [0, 1]"),
            ("average_start", lambda v: 0 < v < 1, "in (0, 1)"),
        ):
            for field in fields.split():
                self._require(field, is_valid, expected)
        if not all(a < b for a, b in itertools.pairwise((0, *self.milestones, 1))):
            raise ValueError(
                f"milestones must be growing fractions of training, got {self.milestones}."
            )
        if not all(sigma >= 0 for sigma in self.sigmas):
            raise ValueError(f"sigmas must be >= 0, got {self.sigmas}.")
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"micro_batches must divide batch_size ({self.batch_size}), "
                f"got {self.micro_batches}."
            )
        if self.evaluate_on == "validation" and self.validation == 0:
            raise ValueError("validation must be > 0 to evaluate on it, got 0.")
        if self.algorithm in ("rsam", "esam") and self.gamma is None:
            raise ValueError(
                f"gamma must be given for {self.algorithm}: it cannot be balanced with the loss."
            )
        if self.common_init and self.num_replicas > 1 and self.gamma is None:
            raise ValueError(
                "gamma must be given with common_init: replicas that start together have no "
                "coupling energy to balance the loss with."
            )

    def _require_types(self) -> None:
        """Of the fields that are no single numbers."""
        switches = [field.name for field in dataclasses.fields(self) if field.type is bool]
        is_text = lambda value: isinstance(value, str)
        tuple_of = lambda is_one: lambda value: isinstance(value, tuple) and all(map(is_one, value))
        for fields, is_valid, expected in (
            ("dataset model", is_text, "a name"),
            ("model_options augment", tuple_of(is_text), "a tuple of strings"),
            ("milestones sigmas", tuple_of(_is_number), "a tuple of finite numbers"),
            (" ".join(switches), lambda value: isinstance(value, bool), "True or False"),
        ):
            for field in fields.split():
                if not is_valid(value := getattr(self, field)):
                    raise ValueError(f"{field} must be {expected}, got {value!r}.")

    def _require(self, field, is_valid, expected) -> None:
        value = getattr(self, field)
        if value is None and field in _OPTIONAL:
            return
        if not _is_number(value) or not is_valid(value):
            raise ValueError(f"{field} must be {expected}, got {value!r}.")

    @property
    def num_replicas(self) -> int:
        """Y: replicas for the algorithms that have them, else 1."""
        return self.replicas if self.algorithm in REPLICATED else 1

    def to_arguments(self) -> list[str]:
        """Options of `python -m experiments train` for the fields that have not their defaults."""
        defaults, arguments = TrainConfig().to_json(), []
        for name, value in self.to_json().items():
            flag = name.replace("_", "-")
            if value == defaults[name]:
                continue
            if isinstance(value, bool):
                arguments.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                values = value if isinstance(value, list) else [value]
                arguments += [f"--{flag}", *map(str, values)]
        return arguments

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "TrainConfig":
        """The inverse of `to_json`; fields that are missing have their defaults.

        Raises:
          ValueError: there are fields of another version, or a value that no run can have.
        """
        if unknown := sorted(fields.keys() - {field.name for field in dataclasses.fields(cls)}):
            raise ValueError(f"the configuration has fields of another version: {unknown}.")
        as_tuple = lambda value: tuple(value) if isinstance(value, list) else value
        return cls(**{name: as_tuple(value) for name, value in fields.items()})

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }
