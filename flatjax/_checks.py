"""Checks of arguments. Errors say what was expected and what was given."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

LARGEST_COUNT = 2**31 - 1  # JAX counts steps in 32-bit integers


def check_number(
    name: str,
    value: Any,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    exclusive_minimum: bool = False,
    exclusive_maximum: bool = False,
    finite: bool = True,
    expected: str = "a number",
) -> float:
    """Returns `value` as a float; raises unless it is a scalar in the bounds."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name} must be {expected} that is not traced, got {value}. Inside "
            "optax.inject_hyperparams, list it in static_args."
        )
    is_number = isinstance(value, numbers.Real | np.ndarray | jax.Array)
    if isinstance(value, bool) or not is_number:
        raise TypeError(f"{name} must be {expected}, got {value!r}.")
    if np.ndim(value) != 0:
        raise ValueError(f"{name} must be a scalar, got shape {np.shape(value)}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.copysign(math.inf, value)
    low_enough = number > minimum if exclusive_minimum else number >= minimum
    high_enough = number < maximum if exclusive_maximum else number <= maximum
    if not (low_enough and high_enough) or (finite and not math.isfinite(number)):
        low = f"{'>' if exclusive_minimum else '>='} {minimum:g}"
        high = f"{'<' if exclusive_maximum else '<='} {maximum:g}"
        if math.isfinite(minimum) and math.isfinite(maximum):
            opening, closing = "[("[exclusive_minimum], "])"[exclusive_maximum]
            required = f"in {opening}{minimum:g}, {maximum:g}{closing}"
        else:
            bounds = [low] * math.isfinite(minimum) + [high] * math.isfinite(maximum)
            required = ", ".join(["finite"] * finite + bounds)
        raise ValueError(f"{name} must be {required}, got {number}.")
    return number


def check_schedule(name: str, value: Any, **bounds: Any) -> Any:
    """Returns `value`; raises unless it is a schedule or passes `check_scalar`."""
    if callable(value):
        return value
    return check_scalar(name, value, expected="a real number or a schedule", **bounds)


def check_scalar(
    name: str,
    value: Any,
    *,
    minimum: float = 0.0,
    expected: str = "a real number",
    **bounds: Any,
) -> Any:
    """Returns `value`; raises unless it is traced, or a scalar within the bounds.

    A traced value (from `optax.inject_hyperparams`) cannot be read here and is accepted. The bounds
    are those of `check_number`. An integer is returned as a float, because JAX accepts no integers
    beyond 32 bits.
    """
    if isinstance(value, jax.core.Tracer):
        return value
    number = check_number(name, value, minimum=minimum, expected=expected, **bounds)
    if math.isfinite(number) and abs(number) > _largest_float():
        raise ValueError(f"{name} must be finite in JAX's default float type, got {number}.")
    is_array = jnp.issubdtype(getattr(value, "dtype", int), jnp.floating)
    return value if is_array else number


def _largest_float() -> float:
    return float(jnp.finfo(jax.dtypes.canonicalize_dtype(float)).max)


def check_flag(name: str, value: Any) -> None:
    """Raises unless `value` is True or False and not traced."""
    if isinstance(value, jax.core.Tracer | jax.Array):
        raise TypeError(
            f"{name} must be True or False, got {value}. It shapes the program: inside "
            f"optax.inject_hyperparams, list it in static_args."
        )
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}.")


def real_array(name: str, values: Any) -> np.ndarray:
    """The values as an array of float64; raises unless they are real numbers."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if not any(
        jax.dtypes.issubdtype(array.dtype, kind) for kind in (np.floating, np.integer, bool)
    ):
        raise TypeError(f"{name} must be real numbers, got {values!r}.")
    return array.astype(float)


def check_count(name: str, value: Any, *, minimum: int = 1, maximum: float = LARGEST_COUNT) -> int:
    """Returns `value` as an int; raises if it is traced or out of range."""
    if isinstance(value, jax.core.Tracer | jax.Array):
        raise TypeError(
            f"{name} must be a Python int, got {value}. It shapes the program: inside "
            f"optax.inject_hyperparams, list it in static_args."
        )
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an int, got {value!r}.")
    count = int(value)
    if count < minimum:
        raise ValueError(f"{name} must be >= {minimum}, got {count}.")
    if count > maximum:
        raise ValueError(f"{name} must be <= {maximum}, got {count}.")
    return count


def check_optional_count(name: str, value: Any, *, minimum: int = 1) -> None:
    """Raises unless `value` is None or an int that `check_count` accepts."""
    if value is not None:
        check_count(name, value, minimum=minimum)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raises unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def described(array: object) -> str:
    """Describes an array by dtype and shape, or another object by its type."""
    if hasattr(array, "dtype") and hasattr(array, "shape"):
        return f"{array.dtype}{tuple(array.shape)}"
    return type(array).__name__


def check_key(name: str, key: Any) -> None:
    """Raises unless `key` is one random key (of either style) or an integer seed."""
    is_seed = isinstance(key, numbers.Integral) and not isinstance(key, bool)
    dtype = np.dtype(int) if is_seed else getattr(key, "dtype", None)
    kinds = (jax.dtypes.prng_key, np.integer)
    if dtype is None or not any(jax.dtypes.issubdtype(dtype, kind) for kind in kinds):
        raise TypeError(f"{name} must be a random key or an integer seed, got {key!r}.")
    if np.ndim(key) != 0 and not (np.ndim(key) == 1 and dtype == np.uint32):
        raise ValueError(f"{name} must be one key, got shape {np.shape(key)} of {dtype}.")
    if (is_seed or _is_host_number(key)) and not -(2**63) <= int(key) < 2**63:
        raise ValueError(f"{name} must be a seed of 64 bits, in [-2**63, 2**63), got {key}.")


def _is_host_number(key):
    return isinstance(key, np.ndarray) and key.ndim == 0


def check_replica_placement(axis_name: str | None, replica_axis: int | None) -> None:
    """Raises unless `axis_name` or `replica_axis` says where the replicas are."""
    if axis_name is None and replica_axis is None:
        raise ValueError(
            "axis_name or replica_axis must be given: axis_name='replica' where each program holds "
            "one replica (vmap, pmap, shard_map), replica_axis=0 where params are stacked."
        )
    if replica_axis is not None:
        check_count("replica_axis", replica_axis, minimum=0)


def check_communication_dtype(dtype: DTypeLike | None, name: str = "communication_dtype") -> None:
    """Raises unless the dtype is None, floating point or int8."""
    if dtype is None:
        return
    try:
        is_known = jnp.issubdtype(dtype, jnp.floating) or jnp.dtype(dtype) == jnp.int8
    except TypeError:
        is_known = False
    if not is_known:
        raise ValueError(f"{name} must be None, a floating-point dtype or int8, got {dtype!r}.")


def check_updates(updates: Any, params: Any) -> None:
    """Raises if `update` got no parameters, or updates that do not match them."""
    if params is None:
        raise ValueError("params must be passed to update(updates, state, params), got None.")
    structure: Any = jax.tree.structure(updates)
    expected: Any = jax.tree.structure(params)
    if structure != expected:
        raise ValueError(f"updates must have the structure of params, {expected}, got {structure}.")
    _check_shapes("updates", updates, params)


def check_state(name: str, tree: Any, params: Any) -> None:
    """Raises if a tree in a state belongs to parameters of other shapes.

    Otherwise the state of one replica would be broadcast to all, without an error.
    """
    hint = " For another number of replicas, see flatjax.resize_replicas."
    _check_shapes(f"state.{name}", tree, params, hint)


def _check_shapes(name, tree, params, hint=""):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for (path, param), leaf in zip(leaves, jax.tree.leaves(tree), strict=False):
        if np.shape(leaf) != np.shape(param):
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} must have the shape of params, "
                f"{np.shape(param)}, got {np.shape(leaf)}.{hint}"
            )


def check_class_names(
    class_names: Sequence[str] | None, num_classes: int, of: str = "class"
) -> None:
    """Raises unless there is one name for each class, or there are none."""
    if class_names is not None and len(class_names) != num_classes:
        raise ValueError(
            f"class_names must be {num_classes}, one for each {of}, got {len(class_names)}"
        )
