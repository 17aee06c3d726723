"""One interface for networks of flatjax and for any linen module of the user."""

import ast
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from flatjax.models._create import create
from flatjax.models._initialization import init_in_groups


@dataclasses.dataclass(frozen=True)
class Network:
    """A linen module with one interface, independent of its own names of arguments.

    Attributes:
      module: its `__call__` takes images (B, H, W, C) and returns logits (B, classes), or takes
        tokens (B, T) and returns logits (B, T, classes). Its argument `train`, or flax's
        `deterministic` or `use_running_average`, is set if there is one.

    Raises:
      ValueError: a call of the module needs a further argument.
    """

    module: nn.Module

    def __post_init__(self) -> None:
        first, *others = inspect.signature(self.module.__call__).parameters.values()
        missing = [
            parameter.name
            for parameter in others
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            and parameter.name not in _MODES
        ]
        if missing:
            raise ValueError(
                f"model must be called with images ({first.name} here) and optionally one of "
                f"{', '.join(_MODES)}; {type(self.module).__name__} also needs {missing}."
            )

    @functools.cached_property
    def _mode(self) -> str | None:
        """Returns the argument that selects training or evaluation, if there is one."""
        known = inspect.signature(self.module.__call__).parameters
        return next((name for name in _MODES if name in known), None)

    def _apply(self, variables, images, train, **options):
        mode = {} if self._mode is None else {self._mode: train == _MODES[self._mode]}
        return self.module.apply(variables, images, **mode, **options)

    def init(self, key: chex.PRNGKey, images: jax.Array) -> dict[str, chex.ArrayTree]:
        """Makes the variables: `params`, and `batch_stats` if the network has any."""
        return init_in_groups(self.plain_init, key, images)

    @functools.cached_property
    def plain_init(self) -> Any:
        """The initialisation of linen, jitted, so that it is traced once for a shape."""
        mode: dict[str, Any] = {} if self._mode is None else {self._mode: not _MODES[self._mode]}
        return jax.jit(lambda key, images: dict(self.module.init(key, images, **mode)))

    def logits(self, variables: Mapping[str, chex.ArrayTree], images: jax.Array) -> jax.Array:
        """Returns logits in evaluation mode, (B, classes); for tokens (B, T, classes)."""
        return self._apply(variables, images, False)

    def train_logits(
        self, variables: Mapping[str, chex.ArrayTree], images: jax.Array, key: chex.PRNGKey
    ) -> tuple[jax.Array, chex.ArrayTree]:
        """Returns logits in training mode, and the new batch statistics.

        Args:
          variables: `params` and `batch_stats`.
          images: images (B, H, W, C), or tokens (B, T).
          key: PRNG key of the random parts of the network (linen's stream "dropout").
        """
        logits, updated = self._apply(
            variables, images, True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        return logits, updated.get("batch_stats", variables["batch_stats"])


# Names of the mode in modules, and the values that mean training.
_MODES = {"train": True, "training": True, "deterministic": False, "use_running_average": False}


def make_network(
    model: str,
    options: Sequence[str],
    num_classes: int,
    image_shape: Sequence[int],
    input_dtype: str = "float32",
) -> Network:
    """Builds a network and checks that it gives logits.

    Args:
      model: a name of `flatjax.models`, or "package.module:Name" of a linen module, its class, or
        a function that returns one.
      options: its attributes, as "name=value".
      num_classes: passed to the class or function if it takes `num_classes`.
      image_shape: shape of an image, (H, W, C); or (T,) for tokens.
      input_dtype: `"float32"` for images, `"int32"` for tokens.

    Raises:
      ValueError: there is no such model, or its output is not (B, classes), or
        (B, T, classes) for tokens.
      TypeError: it does not have one of the options, or is not a linen module.
    """
    parsed = dict(parse_option(option) for option in options)
    if ":" in model:
        module = _import(model, parsed, num_classes)
    else:
        module = create(model, num_classes, **parsed)
    network = Network(module)
    inputs = jnp.zeros((2, *image_shape), input_dtype)
    # Initialised with one example, as for training: both share a trace.
    logits = lambda key: network.logits(network.init(key, inputs[:1]), inputs)
    try:
        shape = jax.eval_shape(logits, jax.random.key(0)).shape
    except ValueError as error:
        if "must have shape" not in str(error):
            raise
        raise ValueError(f"model {model} is not for data of this kind: {error}") from None
    of_each = tuple(image_shape) if jnp.issubdtype(inputs.dtype, jnp.integer) else ()
    if shape != (2, *of_each, num_classes):
        expected = ", ".join(["B", *map(str, of_each), str(num_classes)])
        raise ValueError(
            f"model must give logits of shape ({expected}), got {shape} from {model} "
            "for a batch of 2."
        )
    return network


def foreign_module(model: str) -> str | None:
    """Returns the module and file of a foreign model; None for flatjax's own.

    Nothing is imported, so that a caller can first decide whether to trust the module.
    """
    module = model.partition(":")[0]
    top, *parts = module.split(".")
    if ":" not in model or top == "flatjax":
        return None
    spec = importlib.util.find_spec(top)
    if spec is None:
        return f"{module} (which is not installed)"
    for folder in spec.submodule_search_locations or ():
        path = pathlib.Path(folder, *parts)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.exists():
                return f"{module} ({file})"
    return f"{module} ({spec.origin})"


def parse_option(option: str) -> tuple[str, Any]:
    """Splits "name=value"; a value that is not a Python literal is a string.

    Raises:
      ValueError: there is no name or no equals sign.
    """
    name, equals, text = option.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"model_options must be written name=value, got {option!r}.")
    try:
        return name, ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return name, text


def _import(model, options, num_classes) -> nn.Module:
    """Imports the user's module, which runs its code."""
    module_name, _, name = model.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"model must be a name of flatjax.models or package.module:Name that Python can "
            f"import from here, got {model!r} ({error})."
        ) from error
    if callable(found) and not isinstance(found, nn.Module):
        takes = inspect.signature(found).parameters
        given = {"num_classes": num_classes} if "num_classes" in takes else {}
        found = found(**given, **options)
    elif options:
        raise TypeError(f"model_options are for a class or function; {model} is neither.")
    if not isinstance(found, nn.Module):
        raise TypeError(f"model must be a flax.linen.Module, got {type(found)} from {model}.")
    return found
