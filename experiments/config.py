"""One run, described: the configuration that every algorithm shares."""

import dataclasses
import math
from typing import Any, Literal, get_args

AlgorithmName = Literal["sgd", "sam", "swa", "ema", "esgd", "rsgd", "parle"]
Schedule = Literal["cosine", "constant", "milestones"]
Augmentation = Literal["flip", "crop", "cutout"]

REPLICATED = ("rsgd", "parle")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run. All algorithms share these settings; some concern only some of them."""

    algorithm: AlgorithmName = "rsgd"
    """sgd; sam (sharpness-aware); swa or ema (averages of SGD's weights); esgd (Entropy-SGD); rsgd
    (Replicated-SGD); parle (replicas of Entropy-SGD)."""
    dataset: str = "digits"
    """digits (embedded), fashion_mnist, or any image classification set of TensorFlow Datasets."""
    model: str = "mlp"
    """mlp or small_convnet."""
    batch_norm: bool = False
    """Batch norm, for the models that have it."""

    epochs: float = 30.0
    """Budget: passes over the training set, in gradient evaluations of all replicas together. With
    y replicas each makes epochs / y; for "rSGD x y" ask for y times as many."""
    batch_size: int = 128
    """Examples in each gradient evaluation."""
    learning_rate: float = 0.05
    """At its highest."""
    schedule: Schedule = "cosine"
    """Of the learning rate: cosine to 0, constant, or divided by 5 at 1/2, 3/4 and 7/8 of training
    (swa: linear to half the rate, constant while averaging)."""
    momentum: float = 0.9
    """Nesterov momentum."""
    weight_decay: float = 5e-4
    """Added to the gradient."""
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
    common_init: bool = False
    """Start all replicas from the same weights."""

    inner_steps: int = 5
    """L, gradients for each step of the anchor (esgd, parle)."""
    averaging_decay: float = 0.75
    """Weight of the old mean in the inner loop (esgd, parle)."""
    noise_scale: float = 1e-4
    """Langevin noise epsilon (esgd, parle)."""
    sam_rho: float = 0.05
    """Radius of the adversarial step (sam)."""
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
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} must be one of {allowed}, got {getattr(self, field)!r}.")
        unknown = [name for name in self.augment if name not in get_args(Augmentation)]
        if unknown:
            raise ValueError(f"augment must hold {get_args(Augmentation)}, got {unknown}.")
        for field in ("batch_size", "replicas", "inner_steps", "local_energy_examples"):
            self._require(field, lambda v: isinstance(v, int) and v >= 1, "a whole number >= 1")
        self._require("local_energy_samples", lambda v: v >= 2, ">= 2")
        for field in ("epochs", "learning_rate", "gamma_factor", "sam_rho"):
            self._require(field, lambda v: v > 0, "> 0")
        for field in ("weight_decay", "noise_scale", "gamma", "replica_gamma"):
            self._require(field, lambda v: v is None or v >= 0, ">= 0")
        for field in ("momentum", "averaging_decay", "label_noise", "validation", "ema_decay"):
            self._require(field, lambda v: 0 <= v < 1, "in [0, 1)")
        self._require("average_start", lambda v: 0 < v < 1, "in (0, 1)")
        self._require("train_size", lambda v: v is None or v >= 1, ">= 1")
        if self.evaluate_on == "validation" and self.validation == 0:
            raise ValueError("validation must be > 0 to evaluate on it, got 0.")
        if self.common_init and self.num_replicas > 1 and self.gamma is None:
            raise ValueError(
                "gamma must be given with common_init: replicas that start together have no "
                "coupling energy to balance the loss with."
            )

    def _require(self, field, is_valid, expected) -> None:
        value = getattr(self, field)
        is_number = isinstance(value, int | float) and math.isfinite(value)
        if not (value is None or is_number) or not is_valid(value):
            raise ValueError(f"{field} must be {expected}, got {value!r}.")

    @property
    def num_replicas(self) -> int:
        """Y: replicas for the algorithms that have them, else 1."""
        return self.replicas if self.algorithm in REPLICATED else 1

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }
