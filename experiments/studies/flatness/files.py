"""Networks that were trained elsewhere: a linen module and its arrays."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import flax.linen
import flax.serialization
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine import datasets
from experiments.engine.task import eval_batch_size
from flatjax import data
from flatjax.models._network import make_network

FORMATS = ".npz, .safetensors, .msgpack (flax), or a folder that orbax wrote"


@dataclasses.dataclass(frozen=True)
class Description:
    """A network that was trained elsewhere, and its data.

    Attributes:
      model: a name of `flatjax.models`, or package.module:Name of a linen module.
      options: its attributes, as name=value.
      dataset: as `python -m experiments train` takes it.
      examples: training examples on which it is measured.
      scaled: images are given in [0, 1]; otherwise channels have mean 0 and standard deviation 1.
    """

    model: str
    options: tuple[str, ...]
    dataset: str
    examples: int
    scaled: bool


class Network(NamedTuple):
    """A network and its data.

    Attributes:
      module: the linen module.
      shapes: of its variables, by collection.
      train_batches: on which it is measured.
      test_batches: all test examples.
    """

    module: flax.linen.Module
    shapes: Mapping[str, chex.ArrayTree]
    train_batches: list[dict[str, jax.Array]]
    test_batches: list[dict[str, jax.Array]]


def load_network(description: Description) -> Network:
    """Makes the network and loads its data.

    Raises:
      ValueError: unknown model or data set.
    """
    dataset = datasets.load_in_memory(description.dataset)
    network = make_network(
        description.model, description.options, dataset.num_classes, dataset.image_shape
    )
    normalization = data.Normalization.from_images(dataset.train.image)
    if description.scaled:
        channels = dataset.image_shape[-1]
        normalization = dataclasses.replace(
            normalization, mean=(0.0,) * channels, std=(1.0,) * channels
        )
    train = dataset.train[: description.examples]
    # Sixteen batches at least, over which standard errors are.
    size = max(1, min(eval_batch_size(), len(train) // 16))
    images = jnp.zeros((1, *dataset.image_shape))
    return Network(
        module=network.module,
        shapes=jax.eval_shape(lambda: network.init(jax.random.key(0), images)),
        train_batches=data.eval_batches(train, normalization, size),
        test_batches=data.eval_batches(dataset.test, normalization, eval_batch_size()),
    )


def read_variables(
    path: pathlib.Path, shapes: Mapping[str, chex.ArrayTree]
) -> tuple[chex.ArrayTree, dict[str, chex.ArrayTree]]:
    """Parameters and other collections, such as batch statistics, of a file.

    Args:
      path: the file, or the folder that orbax wrote. Arrays are named by their paths,
        params/Dense_0/kernel, with `/` or `.`; without other collections `params` may be left out.
      shapes: of the network's variables.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: an unknown format, or arrays of another network.
    """
    flat = {name: np.asarray(array) for name, array in _read(path).items()}
    if flat and not any(name.startswith("params/") for name in flat):
        flat = {f"params/{name}": array for name, array in flat.items()}
    wanted = {
        name: leaf.shape
        for name, leaf in flax.traverse_util.flatten_dict(dict(shapes), sep="/").items()
    }
    for name in sorted(wanted.keys() | flat.keys()):
        found = flat[name].shape if name in flat else None
        if found != wanted.get(name):
            raise ValueError(
                f"{path} must hold the arrays of the network: at {name} expected "
                f"{wanted.get(name, 'nothing')}, got {'nothing' if found is None else found}."
            )
    variables = flax.traverse_util.unflatten_dict(
        {name: jnp.asarray(array) for name, array in flat.items()}, sep="/"
    )
    return variables.pop("params"), variables


def _read(path: pathlib.Path) -> dict[str, Any]:
    """The arrays of a file by their paths."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file of parameters.")
    if path.is_dir():
        import orbax.checkpoint

        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            return _flat(checkpointer.restore(path.resolve()))
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name.replace(".", "/"): archive[name] for name in archive.files}
    if path.suffix == ".safetensors":
        try:
            import safetensors.numpy
        except ImportError as error:
            raise ImportError(
                f"{path} needs safetensors, which is not installed: pip install 'flatjax[export]'."
            ) from error
        arrays = safetensors.numpy.load_file(path)
        return {name.replace(".", "/"): array for name, array in arrays.items()}
    if path.suffix == ".msgpack":
        return _flat(flax.serialization.msgpack_restore(path.read_bytes()))
    raise ValueError(f"params must be files of the formats {FORMATS}; got {path}.")


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(dict(tree), sep="/")
