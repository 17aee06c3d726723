"""Checks of settings: errors name the field whose value no run can have."""

import dataclasses
import math
import types
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

_Check = tuple[Callable[[Any], bool], str]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


# JAX drops the higher bits of a seed.
_SEED = (lambda v: isinstance(v, int) and 0 <= v < 2**32, "a whole number from 0 to 2^32 - 1")

# The numbers of all settings. Their names are unique.
_NUMBERS: dict[str, _Check] = {
    name: check
    for names, check in (
        (
            "batch_size micro_batches replicas inner_steps period",
            (_is_whole, "a whole number >= 1"),
        ),
        ("local_energy_examples train_size", (_is_whole, "a whole number >= 1")),
        ("held_out_size curve_examples", (_is_whole, "a whole number >= 1")),
        ("local_energy_samples", (lambda v: _is_whole(v) and v >= 2, "a whole number >= 2")),
        ("seed data_seed", _SEED),
        (
            "epochs learning_rate outer_learning_rate gamma_factor sam_rho ascent milestone_factor",
            (lambda v: v > 0, "> 0"),
        ),
        ("weight_decay noise_scale gamma replica_gamma", (lambda v: v >= 0, ">= 0")),
        ("delay", (lambda v: isinstance(v, int) and v >= 0, "a whole number >= 0")),
        (
            "momentum averaging_decay ema_decay warmup outer_momentum blend squares_decay",
            (lambda v: 0 <= v < 1, "in [0, 1)"),
        ),
        ("label_noise label_smoothing validation", (lambda v: 0 <= v < 1, "in [0, 1)")),
        ("warmup_start", (lambda v: 0 <= v <= 1, "in [0, 1]")),
        ("average_start final_average fork_at distance", (lambda v: 0 < v < 1, "in (0, 1)")),
    )
    for name in names.split()
}


def check_fields(settings: Any) -> None:
    """Checks every field of a dataclass of settings against its type and its bounds.

    Raises:
      ValueError: a value is refused; the message names the field.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if not dataclasses.is_dataclass(value):
            _check(field.name, field.type, value)


def _check(name: str, kind: Any, value: Any) -> None:
    if isinstance(kind, types.UnionType):  # optional
        if value is None:
            return
        kind, _ = get_args(kind)
    is_valid, expected = _check_of(name, kind)
    if not is_valid(value):
        raise ValueError(f"{name} must be {expected}, got {value!r}.")


def _check_of(name: str, kind: Any) -> _Check:
    if get_origin(kind) is Literal:
        return (lambda value: value in get_args(kind)), f"one of {get_args(kind)}"
    if get_origin(kind) is tuple:
        is_entry, entries = _check_of("", get_args(kind)[0])
        is_tuple = lambda value: isinstance(value, tuple) and all(map(is_entry, value))
        return is_tuple, f"a tuple, each entry {entries}"
    if kind is bool:
        return (lambda value: isinstance(value, bool)), "True or False"
    if kind is str:
        return (lambda value: isinstance(value, str)), "a name"
    is_valid, expected = _NUMBERS[name] if name else ((lambda value: True), "a finite number")
    return (lambda value: _is_number(value) and is_valid(value)), expected
