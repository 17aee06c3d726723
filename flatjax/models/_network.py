"""Networks by name behind one interface: flatjax's own, or any linen module of the user's."""

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


@dataclasses.dataclass(frozen=True)
class Network:
    """A linen module behind one interface, whatever its own arguments are called.

    Attributes:
      module: its `__call__` takes images (B, H, W, C) and returns logits (B, classes), or takes
        tokens (B, T) and returns logits (B, T, classes). If it has an argument `train`, or flax's
        `deterministic` or `use_running_average`, that is set.

    Raises:
      ValueError: the module is called with something else besides.
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
                f"model must be called with images ({first.name} here) and, if it likes, one of "
                f"{', '.join(_MODES)}; {type(self.module).__name__} also needs {missing}."
            )

    @functools.cached_property
    def _mode(self) -> str | None:
        """The argument that tells training from evaluation, if there is one."""
        known = inspect.signature(self.module.__call__).parameters
        return next((name for name in _MODES if name in known), None)

    def _apply(self, variables, images, train, **options):
        mode = {} if self._mode is None else {self._mode: train == _MODES[self._mode]}
        return self.module.apply(variables, images, **mode, **options)

    def init(self, key: chex.PRNGKey, images: jax.Array) -> dict[str, chex.ArrayTree]:
        """Variables: `params`, and `batch_stats` if the network has any."""
        mode: dict[str, Any] = {} if self._mode is None else {self._mode: not _MODES[self._mode]}
        return dict(self.module.init(key, images, **mode))

    def logits(self, variables: Mapping[str, chex.ArrayTree], images: jax.Array) -> jax.Array:
        """Logits in evaluation mode, (B, classes); of tokens (B, T, classes)."""
        return self._apply(variables, images, False)

    def train_logits(
        self, variables: Mapping[str, chex.ArrayTree], images: jax.Array, key: chex.PRNGKey
    ) -> tuple[jax.Array, chex.ArrayTree]:
        """Logits in training mode, and the new batch statistics.

        Args:
          variables: `params` and `batch_stats`.
          images: (B, H, W, C), or tokens (B, T).
          key: of whatever is random in the network (linen's stream "dropout").
        """
        logits, updated = self._apply(
            variables, images, True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        return logits, updated.get("batch_stats", variables["batch_stats"])


# How modules name the mode, and the value that means training.
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
      num_classes: passed on, where the class or function takes `num_classes`.
      image_shape: (H, W, C), or (T,) of tokens.
      input_dtype: `"float32"` of images, `"int32"` of tokens.

    Raises:
      ValueError: there is no such model, or its output is not (B, classes), of tokens (B, T,
        classes).
      TypeError: it does not have one of the options, or is no linen module.
    """
    parsed = dict(parse_option(option) for option in options)
    if ":" in model:
        module = _import(model, parsed, num_classes)
    else:
        module = create(model, num_classes, **parsed)
    network = Network(module)
    inputs = jnp.zeros((2, *image_shape), input_dtype)
    logits = lambda key: network.logits(network.init(key, inputs), inputs)
    shape = jax.eval_shape(logits, jax.random.key(0)).shape
    of_each = tuple(image_shape) if jnp.issubdtype(inputs.dtype, jnp.integer) else ()
    if shape != (2, *of_each, num_classes):
        expected = ", ".join(["B", *map(str, of_each), str(num_classes)])
        raise ValueError(
            f"model must give logits of shape ({expected}), got {shape} from {model} "
            "for a batch of 2."
        )
    return network


def foreign_module(model: str) -> str | None:
    """The module of a model that is not flatjax's, and its file; None for flatjax's own.

    Nothing is imported: this is for those who have to decide whether it shall be.
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
    """The name and the value of "name=value"; what is no Python literal is a string.

    Raises:
      ValueError: there is no name, or no equals sign.
    """
    name, equals, text = option.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"model_options must be written name=value, got {option!r}.")
    try:
        return name, ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return name, text


def _import(model, options, num_classes) -> nn.Module:
    """The user's module; importing it runs their code, as they asked for."""
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
