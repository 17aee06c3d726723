"""Trained models on disk: a folder with arrays and a readable description.

model.json   network and options, normalization of the images, names of classes; a fingerprint of
             a network that is not one of flatjax's; the SHA-256 sum of the arrays, and a digest of
             the description itself
arrays.npz   the arrays by their paths: params/Dense_0/kernel, batch_stats/BatchNorm_0/mean, ...
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from flatjax._checks import check_choice, check_class_names
from flatjax._normalization import Normalization
from flatjax.models._fingerprint import differs, fingerprint_of, warn_of_change
from flatjax.models._network import Network, foreign_module, make_network

DESCRIPTION, ARRAYS = "model.json", "arrays.npz"
_FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A network with its preprocessing, as a pure function of its variables.

    Call:
      `predict(params, state, images)` gives logits (B, num_classes) in evaluation mode. Images have
      shape ``(B, *image_shape)`` and the original values of the data set (uint8, or float32 for
      data of floats); `predict` normalizes them. It may be jitted, vmapped and differentiated.
      A model of language takes tokens (B, T), integers, and returns logits (B, T, num_classes).

    Attributes:
      image_shape: (H, W, C); of tokens (T,), the length of the sequences in training.
      num_classes: number of logits.
      class_names: names of the classes, or None.
      normalization: normalization of the images; None if the network takes them as they are.
      about: further information that was saved with the model.
      network: the network, with a common interface.
      input_dtype: `"float32"` for images, `"int32"` for tokens.
      target_normalization: normalization of the targets of a regression; outputs are scaled back
        by it.

    See Also:
      `load` (makes it), `LoadedModel` (holds it).
    """

    image_shape: tuple[int, ...]
    num_classes: int
    class_names: tuple[str, ...] | None
    normalization: Normalization | None
    about: Mapping[str, Any]
    network: Network
    input_dtype: str = "float32"
    target_normalization: Normalization | None = None

    def __call__(
        self, params: chex.ArrayTree, state: Mapping[str, chex.ArrayTree], images: Any
    ) -> jax.Array:
        """Returns the logits; see the class."""
        if self.input_dtype == "int32":
            return self.network.logits({"params": params, **state}, jnp.asarray(images))
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(f"images must have shape (B, *{self.image_shape}), got {images.shape}")
        if self.normalization is not None:
            images = self.normalization.normalize(images)
        outputs = self.network.logits({"params": params, **state}, jnp.asarray(images))
        if (scale := self.target_normalization) is None:
            return outputs
        return outputs * jnp.asarray(scale.std) + jnp.asarray(scale.mean)


class LoadedModel(NamedTuple):
    """A trained model.

    Attributes:
      predict: `predict(params, state, images)` gives logits; see `Predictor`.
      params: the parameters.
      state: the other variables by collection, such as `"batch_stats"`; often empty.
    """

    predict: Predictor
    params: chex.ArrayTree
    state: dict[str, chex.ArrayTree]


def save(
    path: str | os.PathLike[str],
    params: chex.ArrayTree,
    state: Mapping[str, chex.ArrayTree] | None = None,
    *,
    model: str,
    options: Sequence[str] = (),
    num_classes: int,
    image_shape: Sequence[int],
    input_dtype: str = "float32",
    normalization: Normalization | None = None,
    target_normalization: Normalization | None = None,
    class_names: Sequence[str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Saves a trained model, so that `load` can make it again.

    Args:
      path: a folder. It is created if necessary, and a model in it is replaced.
      params: the parameters, a tree of dicts.
      state: the other variables by collection, such as `{"batch_stats": ...}`.
      model: a key of `CONSTRUCTORS`, or `"package.module:Name"` of a linen module.
      options: its attributes, as `"name=value"`.
      num_classes: number of logits.
      image_shape: (H, W, C); or (T,) for tokens.
      input_dtype: `"float32"` for images, `"int32"` for tokens.
      normalization: normalization of the images, `flatjax.data.Normalization`.
      target_normalization: normalization of the targets of a regression, which the network
        predicts normalized.
      class_names: names of the classes, if there are any.
      about: further information, as JSON.

    Raises:
      ValueError: the arrays do not belong to the network, or the numbers of names and classes
        differ.

    Examples:
      >>> import tempfile
      >>> import jax, jax.numpy as jnp
      >>> from flatjax import models
      >>> network = models.create("mlp", 3, hidden=(8,))
      >>> images = jnp.ones((2, 4, 4, 1))
      >>> variables = network.init(jax.random.key(0), images, train=False)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     given = {"model": "mlp", "options": ["hidden=(8,)"], "num_classes": 3}
      ...     models.save(folder, variables["params"], **given, image_shape=(4, 4, 1))
      ...     predict, params, state = models.load(folder)
      >>> predict(params, state, images).shape
      (2, 3)

    See Also:
      `load` (reads it), `create` (makes the network).
    """
    check_choice("input_dtype", input_dtype, ("float32", "int32"))
    check_class_names(class_names, num_classes)
    network = make_network(model, options, num_classes, image_shape, input_dtype)
    arrays = _flat({"params": params, **(state or {})})
    example = jax.ShapeDtypeStruct((1, *image_shape), input_dtype)
    _check_arrays(arrays, network, example, "params and state")
    folder = Path(path).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{os.getpid()}.npz"
    np.savez(temporary, **arrays)  # type: ignore[arg-type]
    description = {
        "format": _FORMAT,
        "model": model,
        "options": list(options),
        "num_classes": num_classes,
        "image_shape": list(image_shape),
        "input_dtype": input_dtype,
        "normalization": None if normalization is None else dataclasses.asdict(normalization),
        "target_normalization": target_normalization and dataclasses.asdict(target_normalization),
        "class_names": None if class_names is None else list(class_names),
        "about": dict(about or {}),
        "fingerprint": _fingerprint(network, model, image_shape, input_dtype),
        "dtypes": {name: array.dtype.name for name, array in arrays.items()},
        "sha256": hashlib.sha256(temporary.read_bytes()).hexdigest(),
    }
    text = json.dumps(description | {"digest": _digest(description)}, indent=1) + "\n"
    (folder / DESCRIPTION).unlink(missing_ok=True)  # until the arrays are there
    temporary.replace(folder / ARRAYS)
    temporary = temporary.with_suffix(".json")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(folder / DESCRIPTION)


def load(path: str | os.PathLike[str], *, trust: bool = False) -> LoadedModel:
    """Loads a trained model.

    Args:
      path: a folder written by `save`, or the folder of a run of `python -m experiments train`,
        which holds its final model in a folder `model`.
      trust: whether to import the module of a network that is not one of flatjax's. Importing it
        runs its code.

    Returns:
      `(predict, params, state)`: `predict(params, state, images)` gives logits. Warns if a network
      that is not one of flatjax's now computes something else than when it was saved.

    Raises:
      FileNotFoundError: there is no model.
      ValueError: a file is damaged, or the two files do not belong together. Or the model needs a
        module that is not trusted. The message names the file.

    Examples:
      >>> import tempfile
      >>> import jax, jax.numpy as jnp
      >>> from flatjax import models
      >>> images = jnp.ones((2, 4, 4, 1))
      >>> variables = models.create("mlp", 3).init(jax.random.key(0), images, train=False)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     given = {"model": "mlp", "num_classes": 3, "class_names": ["cat", "dog", "fox"]}
      ...     models.save(folder, variables["params"], **given, image_shape=(4, 4, 1))
      ...     predict, params, state = models.load(folder)
      >>> predict(params, state, images).shape, predict.class_names
      ((2, 3), ('cat', 'dog', 'fox'))

    See Also:
      `save` (writes the model), `create` (a fresh network).
    """
    folder = Path(path).expanduser()
    if not (folder / DESCRIPTION).exists() and (folder / "model" / DESCRIPTION).exists():
        folder = folder / "model"
    if not (folder / DESCRIPTION).exists():
        raise FileNotFoundError(
            f"{path} holds no model ({DESCRIPTION}): give a folder that flatjax.models.save wrote, "
            "or the folder of a complete run"
        )
    description = _read_description(folder / DESCRIPTION)
    if not trust and (module := foreign_module(description["model"])) is not None:
        raise ValueError(
            f"{folder}: the model {description['model']} is not one of flatjax: to load it, the "
            f"module {module} would be imported and run. If you trust it, pass trust=True"
        )
    num_classes, image_shape = description["num_classes"], tuple(description["image_shape"])
    input_dtype = description.get("input_dtype", "float32")  # files may be older
    network = make_network(
        description["model"], description["options"], num_classes, image_shape, input_dtype
    )
    before = description.get("fingerprint")
    if before and differs(
        before, _fingerprint(network, description["model"], image_shape, input_dtype)
    ):
        warn_of_change(description["model"], folder)
    arrays = _read_arrays(folder / ARRAYS, description)
    example = jax.ShapeDtypeStruct((1, *image_shape), input_dtype)
    _check_arrays(arrays, network, example, f"{folder / ARRAYS}")
    variables = flax.traverse_util.unflatten_dict(
        {name: jnp.asarray(array) for name, array in arrays.items()}, sep="/"
    )
    names, normalization = description["class_names"], description["normalization"]
    targets = description.get("target_normalization")
    predict = Predictor(
        image_shape=image_shape,
        num_classes=num_classes,
        class_names=None if names is None else tuple(names),
        normalization=None if normalization is None else Normalization(**normalization),
        about=description["about"],
        network=network,
        input_dtype=input_dtype,
        target_normalization=None if targets is None else Normalization(**targets),
    )
    return LoadedModel(predict, variables.pop("params"), variables)


def _fingerprint(
    network: Network, model: str, image_shape: Sequence[int], input_dtype: str
) -> dict[str, str]:
    """Returns the fingerprint of a foreign network; flatjax's own have none."""
    if foreign_module(model) is None:
        return {}
    return fingerprint_of(network, image_shape, input_dtype, training=False)


def _flat(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays by path, without empty collections."""
    flat = flax.traverse_util.flatten_dict(dict(variables), sep="/")
    return {name: np.asarray(jax.device_get(array)) for name, array in flat.items()}


def _check_arrays(
    arrays: Mapping[str, np.ndarray], network: Network, example: jax.ShapeDtypeStruct, place: str
) -> None:
    """Refuses arrays of another network."""
    wanted = jax.eval_shape(network.init, jax.random.key(0), example)
    shapes = {
        name: leaf.shape for name, leaf in flax.traverse_util.flatten_dict(wanted, sep="/").items()
    }
    for name in sorted(shapes.keys() | arrays.keys()):
        found = arrays[name].shape if name in arrays else None
        if found != shapes.get(name):
            raise ValueError(
                f"{place} must hold the arrays of {type(network.module).__name__}: at {name} "
                f"expected {_shown(shapes.get(name))}, got {_shown(found)}"
            )


def _shown(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else f"shape {shape}"


# --- files --------------------------------------------------------------------------------------


def _digest(description: Mapping[str, Any]) -> str:
    text = json.dumps(json.loads(json.dumps(description)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_bytes().decode())
        digest = description.pop("digest")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is damaged: no description of a model ({error!r})") from error
    if digest != _digest(description):
        raise ValueError(f"{path} is damaged: its digest does not fit its content")
    if description["format"] != _FORMAT:
        raise ValueError(
            f"{path} has the format {description['format']}, this version of flatjax reads "
            f"{_FORMAT}"
        )
    return description


def _read_arrays(path: Path, description: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file, but a {DESCRIPTION}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != description["sha256"]:
        raise ValueError(f"{path} is damaged or does not fit {DESCRIPTION}: its SHA-256 differs")
    with np.load(path, allow_pickle=False) as archive:
        # NumPy does not know bfloat16, and returns its bytes.
        return {
            name: archive[name].view(jnp.dtype(dtype))
            for name, dtype in description["dtypes"].items()
        }
