"""The settings of each algorithm, made of shared parts (replicas, coupling, ...)."""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, TypeAlias

from experiments.engine.checks import check_fields

CommunicationDtype = Literal["float32", "bfloat16", "int8"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings:
    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def num_replicas(self) -> int:
        """The number of networks that are trained together, y."""
        return 1


# --- parts that algorithms share ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sam(_Settings):
    sam_rho: float = 0.05
    """Radius of the adversarial step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Coupled(_Settings):
    gamma: float | None = None
    """Initial coupling gamma_0 to the center of the replicas or the anchor of Entropy-SGD. By
    default it is measured: its coupling energy equals the initial loss."""
    gamma_factor: float = 1e4
    """Total growth of the couplings during training."""
    decoupled: bool = True
    """Pull replicas to the center (iterates to the anchor) after the optimizer's step, stable for
    every gamma. With --no-decoupled the force joins the gradient, as in the paper: this is stable
    only while learning rate x gamma is small."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Replicas(_Settings):
    replicas: int = 3
    """The number of replicas, y. Memory grows with y: parameters, momentum and activations."""
    common_init: bool = False
    """Start all replicas from the same weights."""

    @property
    def num_replicas(self) -> int:
        """The number of replicas, y."""
        return self.replicas


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Replicated(_Replicas, _Coupled):
    def __post_init__(self) -> None:
        super().__post_init__()
        name, start = self.replica_coupling
        if self.common_init and self.replicas > 1 and start is None:
            raise ValueError(
                f"{name} must be given with common_init: replicas that start together have no "
                "coupling energy that could balance the loss."
            )

    @property
    def replica_coupling(self) -> tuple[str, float | None]:
        """Name and value of the setting that couples replicas; None if it is measured."""
        return "gamma", self.gamma


@dataclasses.dataclass(frozen=True, kw_only=True)
class _InnerLoop(_Coupled):
    inner_steps: int = 5
    """L, the number of gradients for each step of the anchor."""
    averaging_decay: float = 0.75
    """Weight of the old mean in the inner loop."""
    noise_scale: float = 1e-4
    """Strength epsilon of the Langevin noise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Averaged(_Settings):
    final_average: float | None = None
    """Fraction of training after which complete steps (of sam, or of the anchor of esgd) are
    averaged, for the final model. By default it is the last one."""


# --- the algorithms -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sgd(_Settings):
    """SGD with Nesterov momentum; it has no other settings."""

    name = "sgd"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sam(_Averaged, _Sam):
    """SAM: sharpness-aware minimization."""

    name = "sam"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Swa(_Settings):
    """SWA: the average of SGD's weights in the last part of training."""

    name = "swa"
    average_start: float = 0.75
    """Fraction of training after which weights are averaged."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ema(_Settings):
    """The exponential moving average of SGD's weights."""

    name = "ema"
    ema_decay: float = 0.999
    """Decay of the average."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Esgd(_Averaged, _InnerLoop):
    """Entropy-SGD."""

    name = "esgd"
    reset_inner: bool = True
    """Start each inner loop with a momentum of 0, as the paper does."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rsgd(_Replicated):
    """Replicated-SGD."""

    name = "rsgd"
    period: int = 1
    """K: couple every K-th step, K times as strongly, and communicate only then."""
    communication_dtype: CommunicationDtype = "float32"
    """Number format of the messages between replicas; bfloat16 and int8 round them."""
    delayed: bool = False
    """Pull by the center of the previous step; in the gradient, use the center of the previous
    coupling. Then no step waits for communication."""
    distance: float | None = None
    """Instead of gamma: largest relative distance of the replicas at the start. It falls linearly
    to 0, see `flatjax.limit_distance`."""
    ascent: float | None = None
    """Radius rho: take gradients at w_a + rho (w_a - center) / r, where r is the root mean square
    distance of the replicas. This is a direction in which the loss rises, without a second
    gradient. By default they are taken at w_a."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distance is not None and (self.gamma is not None or self.delayed):
            raise ValueError("distance excludes gamma and delayed: leave them out.")

    @property
    def replica_coupling(self) -> tuple[str, float | None]:
        """Name and value of the coupling: a limit of the distance replaces gamma."""
        return super().replica_coupling if self.distance is None else ("distance", self.distance)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rsam(_Sam, Rsgd):
    """Coupled replicas of SAM."""

    name = "rsam"
    gamma: float = dataclasses.field()
    """Initial coupling gamma_0 to the center of the replicas. With SAM it must be given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Esam(_Sam, Esgd):
    """SAM in the loop of Entropy-SGD."""

    name = "esam"
    gamma: float = dataclasses.field()
    """Initial coupling gamma_0 to the anchor of Entropy-SGD. With SAM it must be given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parle(_InnerLoop, _Replicated):
    """Parle: replicas of Entropy-SGD with coupled anchors."""

    name = "parle"
    replica_gamma: float | None = None
    """Initial coupling of the anchors to their center; measured by default."""

    @property
    def replica_coupling(self) -> tuple[str, float | None]:
        """Name and value of the coupling: gamma only holds each replica to its anchor."""
        return "replica_gamma", self.replica_gamma


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diloco(_Replicas):
    """DiLoCo: replicas of SGD train alone, and an optimizer moves their center."""

    name = "diloco"
    common_init: bool = True
    """Start all replicas from the same weights."""
    period: int = 20
    """K: the center moves at every K-th step, and replicas communicate only then."""
    outer_learning_rate: float = 0.7
    """Learning rate of the center."""
    outer_momentum: float = 0.9
    """Nesterov momentum of the center."""
    blend: float = 0.0
    """Share of its own weights that a replica keeps when it continues from the center."""
    delay: int = 0
    """Number of steps between the messages and the step of the center that uses them."""
    communication_dtype: CommunicationDtype = "float32"
    """Number format of the messages between replicas; bfloat16 and int8 round them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fork(_Replicas):
    """A late fork: one network becomes several, whose mean is the result.

    This is SWAP [Gupta et al., 2020, arXiv:2001.02312]. The learning rate falls linearly to half
    until the fork, and is constant after it.
    """

    name = "fork"
    common_init: bool = True
    """Start all replicas from the same weights."""
    fork_at: float = 0.5
    """Fraction of training after which the replicas are independent."""


AlgorithmSettings: TypeAlias = (
    Sgd | Sam | Swa | Ema | Esgd | Rsgd | Rsam | Esam | Parle | Diloco | Fork
)
AlgorithmName = Literal[
    "sgd", "sam", "swa", "ema", "esgd", "rsgd", "rsam", "esam", "parle", "diloco", "fork"
]
SETTINGS: dict[str, type[AlgorithmSettings]] = {
    kind.name: kind for kind in (Sgd, Sam, Swa, Ema, Esgd, Rsgd, Rsam, Esam, Parle, Diloco, Fork)
}


def settings_of(algorithm: str, **given: Any) -> AlgorithmSettings:
    """Makes the settings of an algorithm; values that are not given are defaults.

    Raises:
      ValueError: there is no such algorithm. Or a setting is missing, belongs only to other
        algorithms, or has a value that no run can have.
    """
    refuse_others(algorithm, given)
    kind = SETTINGS[algorithm]
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.name not in given:
            raise ValueError(f"{field.name} must be given for {algorithm}.")
    return kind(**given)


def takers(field: str) -> list[str]:
    """Lists the algorithms that have a setting of this name.

    Examples:
      >>> takers("replicas")
      ['rsgd', 'rsam', 'parle', 'diloco', 'fork']
    """
    return [
        name
        for name, kind in SETTINGS.items()
        if field in {own.name for own in dataclasses.fields(kind)}
    ]


def refuse_others(algorithm: str, fields: Iterable[str]) -> None:
    """Raises a ValueError if one of the fields is a setting of other algorithms only.

    This includes unknown algorithms.
    """
    if algorithm not in tuple(SETTINGS):
        raise ValueError(f"algorithm must be one of {tuple(SETTINGS)}, got {algorithm!r}.")
    for field in sorted(fields):
        if (known := takers(field)) and algorithm not in known:
            raise ValueError(
                f"{field} is not a setting of {algorithm}, but of {', '.join(known)}: leave it "
                "out, or choose one of these algorithms."
            )
