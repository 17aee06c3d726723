"""The settings of each algorithm. Algorithms share parts: replicas, coupling, inner loop, SAM."""

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
    """Initial coupling gamma_0, to the center of the replicas or to the anchor of Entropy-SGD; by
    default the one whose energy balances the initial loss."""
    gamma_factor: float = 1e4
    """Total growth of the couplings during training."""
    decoupled: bool = True
    """Pull replicas (iterates) to the center (anchor) after the optimizer's step, stable for any
    gamma. With --no-decoupled the force joins the gradient, as in the paper: stable only while
    learning rate x gamma stays small."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Replicated(_Coupled):
    replicas: int = 3
    """The number of replicas, y. Memory grows with y: parameters, momentum and activations."""
    common_init: bool = False
    """Start all replicas from the same weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.common_init and self.replicas > 1 and self.gamma is None:
            raise ValueError(
                "gamma must be given with common_init: replicas that start together have no "
                "coupling energy to balance the loss with."
            )

    @property
    def num_replicas(self) -> int:
        """The number of replicas, y."""
        return self.replicas


@dataclasses.dataclass(frozen=True, kw_only=True)
class _InnerLoop(_Coupled):
    inner_steps: int = 5
    """L, gradients for each step of the anchor."""
    averaging_decay: float = 0.75
    """Weight of the old mean in the inner loop."""
    noise_scale: float = 1e-4
    """Langevin noise epsilon."""


# --- the algorithms -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sgd(_Settings):
    """SGD with Nesterov momentum; it has no settings of its own."""

    name = "sgd"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sam(_Sam):
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
class Esgd(_InnerLoop):
    """Entropy-SGD."""

    name = "esgd"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rsgd(_Replicated):
    """Replicated-SGD."""

    name = "rsgd"
    period: int = 1
    """K: couple every K-th step, K times as strongly, and communicate only then."""
    communication_dtype: CommunicationDtype = "float32"
    """Type of the numbers that replicas send each other; bfloat16 and int8 are rounded."""
    delayed: bool = False
    """Pull by the center of the previous step; in the gradient, couple by the center of the
    previous coupling. No step then waits for communication."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rsam(_Sam, Rsgd):
    """Replicas of SAM, coupled."""

    name = "rsam"
    gamma: float = dataclasses.field()
    """Initial coupling gamma_0 to the center of the replicas; SAM cannot measure it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Esam(_Sam, Esgd):
    """SAM in the loop of Entropy-SGD."""

    name = "esam"
    gamma: float = dataclasses.field()
    """Initial coupling gamma_0 to the anchor of Entropy-SGD; SAM cannot measure it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parle(_InnerLoop, _Replicated):
    """Parle: replicas of Entropy-SGD, whose anchors are coupled."""

    name = "parle"
    replica_gamma: float | None = None
    """Initial coupling of the anchors to their center; by default automatic."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diloco(_Settings):
    """DiLoCo: replicas train alone and take a common outer step every K steps."""

    name = "diloco"
    replicas: int = 4
    """The number of replicas, y."""
    common_init: bool = True
    """Start all replicas from the same weights."""
    period: int = 16
    """K: steps between outer steps."""
    outer_learning_rate: float = 0.7
    """Learning rate of the outer step."""
    outer_momentum: float = 0.9
    """Nesterov momentum of the outer step."""

    @property
    def num_replicas(self) -> int:
        """The number of replicas, y."""
        return self.replicas


AlgorithmSettings: TypeAlias = Sgd | Sam | Swa | Ema | Esgd | Rsgd | Rsam | Esam | Parle | Diloco
AlgorithmName = Literal[
    "sgd", "sam", "swa", "ema", "esgd", "rsgd", "rsam", "esam", "parle", "diloco"
]
SETTINGS: dict[str, type[AlgorithmSettings]] = {
    kind.name: kind for kind in (Sgd, Sam, Swa, Ema, Esgd, Rsgd, Rsam, Esam, Parle, Diloco)
}


def settings_of(algorithm: str, **given: Any) -> AlgorithmSettings:
    """The settings of an algorithm, at their defaults where no value is given.

    Raises:
      ValueError: there is no such algorithm; a setting is missing, belongs to other algorithms, or
        has a value that no run can have.
    """
    refuse_others(algorithm, given)
    kind = SETTINGS[algorithm]
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.name not in given:
            raise ValueError(f"{field.name} must be given for {algorithm}.")
    return kind(**given)


def takers(field: str) -> list[str]:
    """The algorithms that have a setting of this name.

    Examples:
      >>> takers("replicas")
      ['rsgd', 'rsam', 'parle', 'diloco']
    """
    return [
        name
        for name, kind in SETTINGS.items()
        if field in {own.name for own in dataclasses.fields(kind)}
    ]


def refuse_others(algorithm: str, fields: Iterable[str]) -> None:
    """Raises a ValueError if one of the fields is a setting of other algorithms only.

    Also if there is no algorithm of that name.
    """
    if algorithm not in tuple(SETTINGS):
        raise ValueError(f"algorithm must be one of {tuple(SETTINGS)}, got {algorithm!r}.")
    for field in sorted(fields):
        if (known := takers(field)) and algorithm not in known:
            raise ValueError(
                f"{field} is not a setting of {algorithm}, but of {', '.join(known)}: leave it "
                "out, or choose one of these algorithms."
            )
