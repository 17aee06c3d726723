"""The description of a run: the settings of all algorithms and those of its own.

Every setting has a unique name. The command line, studies and records therefore address it without
its group.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar

from experiments.engine.algorithm_settings import (
    SETTINGS,
    AlgorithmSettings,
    refuse_others,
    settings_of,
    takers,
)
from experiments.engine.checks import check_fields
from experiments.engine.settings import NEWER, Data, Measures, Network, Optimizer

_GROUPS = {"data": Data, "network": Network, "optimizer": Optimizer, "measures": Measures}
_DEFAULT = settings_of("rsgd")
_names = lambda kind: [field.name for field in dataclasses.fields(kind)]
_OWNER = {name: group for group, kind in _GROUPS.items() for name in _names(kind)}

A = TypeVar("A", bound=AlgorithmSettings, covariant=True)


@dataclasses.dataclass(frozen=True)
class TrainConfig(Generic[A]):
    """A training run.

    Examples:
      >>> config = TrainConfig.of(algorithm="rsgd", replicas=2, dataset="digits")
      >>> config.algorithm.replicas, config.data.dataset
      (2, 'digits')
      >>> TrainConfig.of(algorithm="sgd", replicas=2)
      Traceback (most recent call last):
      ...
      ValueError: replicas is not a setting of sgd, but of rsgd, rsam, parle, ...
    """

    algorithm: A
    epochs: float = 30.0
    """Budget: passes over the training set, in gradient evaluations of all replicas together. Each
    of y replicas makes epochs / y passes; for "rSGD x y" ask for y times as many."""
    batch_size: int = 128
    """Examples in each gradient evaluation."""
    micro_batches: int = 1
    """Parts of a batch whose gradients are computed one after another, to save memory. Batch norm
    uses the statistics of one part at a time."""
    seed: int = 0
    """Random seed of the initial weights, the order of the data and all noise."""
    data: Data = dataclasses.field(default_factory=Data)
    network: Network = dataclasses.field(default_factory=Network)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    measures: Measures = dataclasses.field(default_factory=Measures)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"micro_batches must divide batch_size ({self.batch_size}), "
                f"got {self.micro_batches}."
            )
        given = self.optimizer.changes().keys() & {"schedule", "warmup"}
        if (name := self.algorithm.name) in ("swa", "fork") and given:
            raise ValueError(f"{min(given)} is not a setting of {name}: it has its own schedule.")

    @property
    def num_replicas(self) -> int:
        """The number of replicas, y, or 1 for algorithms without replicas."""
        return self.algorithm.num_replicas

    # --- by the names of settings ---------------------------------------------------------------

    @classmethod
    def of(cls, **settings: Any) -> "TrainConfig[Any]":
        """Makes the configuration with these settings and other defaults; see `changed`."""
        return cls(_DEFAULT).changed(**({"algorithm": _DEFAULT.name} | settings))

    def changed(self, **settings: Any) -> "TrainConfig[Any]":
        """Returns the configuration with some settings changed.

        Args:
          **settings: settings by their names, in any group. If `algorithm` is among them, the
            settings of that algorithm start from their defaults.

        Raises:
          ValueError: a setting is unknown, does not belong to the algorithm, or has a value that no
            run can have; the message names it.
        """
        is_new = "algorithm" in settings
        name = settings.pop("algorithm", self.algorithm.name)
        refuse_others(name, settings)
        parts: dict[str, dict[str, Any]] = {part: {} for part in ("", "algorithm", *_GROUPS)}
        for setting, value in settings.items():
            parts[_owner(setting)][setting] = value
        own, direct = parts.pop("algorithm"), parts.pop("")
        algorithm: Any = settings_of(name, **own) if is_new else replace(self.algorithm, **own)
        groups = {
            group: replace(getattr(self, group), **changes) for group, changes in parts.items()
        }
        return replace(self, algorithm=algorithm, **groups, **direct)

    def flat(self) -> dict[str, Any]:
        """Returns every setting by its name; `algorithm` is the name of the algorithm."""
        fields = {name: getattr(self, name) for name in _names(TrainConfig)}
        algorithm, groups = fields.pop("algorithm"), [fields.pop(group) for group in _GROUPS]
        parts = [dataclasses.asdict(part) for part in (algorithm, *groups)]
        return {"algorithm": algorithm.name} | fields | {k: v for p in parts for k, v in p.items()}

    def to_arguments(self) -> list[str]:
        """Returns options of `python -m experiments train` for all non-default settings."""
        arguments = ["--algorithm", self.algorithm.name]
        defaults = _defaults(type(self.algorithm))
        for name, value in self.flat().items():
            flag = name.replace("_", "-")
            if name == "algorithm" or value == defaults[name]:
                continue
            if isinstance(value, bool):
                arguments.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                values = value if isinstance(value, tuple) else [value]
                arguments += [f"--{flag}", *map(str, values)]
        return arguments

    # --- as JSON --------------------------------------------------------------------------------

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "TrainConfig[Any]":
        """Makes a configuration from the result of `to_json`.

        Raises:
          ValueError: there are settings of another version, or a value that no run can have.
        """
        known = {name for kind in SETTINGS.values() for name in _defaults(kind)}
        if unknown := sorted(fields.keys() - known - {"algorithm"}):
            raise ValueError(
                f"the configuration must have fields of this version, got unknown ones: {unknown}."
            )
        as_tuple = lambda value: tuple(value) if isinstance(value, list) else value
        return cls.of(**{name: as_tuple(value) for name, value in fields.items()})

    def to_json(self) -> dict[str, Any]:
        """Returns the settings by their names, as values for JSON."""
        defaults = _defaults(type(self.algorithm))
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self.flat().items()
            if name not in NEWER or value != defaults[name]
        }


def _owner(setting: str) -> str:
    """Returns the group of a setting; "" for settings of `TrainConfig` itself."""
    if takers(setting):
        return "algorithm"
    if setting in _OWNER:
        return _OWNER[setting]
    if setting in {"epochs", "batch_size", "micro_batches", "seed"}:
        return ""
    raise ValueError(f"settings must be known ones, got {setting!r}.")


def _defaults(algorithm: type[Any]) -> dict[str, Any]:
    """Returns the defaults of all settings of an algorithm."""
    kinds = (TrainConfig, *_GROUPS.values(), algorithm)
    fields = [field for kind in kinds for field in dataclasses.fields(kind)]
    return {field.name: field.default for field in fields if field.name not in _GROUPS}
