"""Networks that were trained elsewhere: a linen module and its arrays."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import flax.serialization
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

import flatjax
from experiments.engine import datasets
from experiments.engine.problems import Problem, make_problem
from experiments.engine.task import eval_batch_size
from experiments.studies.flatness.merging import Evaluation
from flatjax import data
from flatjax.models._network import Network, make_network

FORMATS = ".npz, .safetensors, .msgpack (flax), or a folder that orbax wrote"


@dataclasses.dataclass(frozen=True)
class Description:
    """A network that was trained elsewhere, and its data.

    Attributes:
      model: a name of `flatjax.models`, or package.module:Name of a linen module.
      options: its attributes, as name=value.
      dataset: as `python -m experiments train` takes it.
      examples: training examples on which it is measured.
      scaled: images are given in [0, 1], other inputs and targets as they are; otherwise channels
        and targets have mean 0 and standard deviation 1.
    """

    model: str
    options: tuple[str, ...]
    dataset: str
    examples: int
    scaled: bool


class Foreign(NamedTuple):
    """A network and its data.

    Attributes:
      shapes: of its variables, by collection.
      evaluation: functions of parameters and of the other collections; and batches.
    """

    shapes: Mapping[str, chex.ArrayTree]
    evaluation: Evaluation


def load_network(description: Description) -> Foreign:
    """Makes the network and loads its data.

    Raises:
      ValueError: unknown model or data set.
    """
    dataset = datasets.load_in_memory(description.dataset)
    problem = make_problem(dataset.train, dataset.num_classes, None)
    if description.scaled:
        problem = dataclasses.replace(problem, normalization=_unscaled(problem.normalization))
    network = make_network(
        *(description.model, description.options, dataset.num_classes),
        image_shape=problem.input_shape,
        input_dtype=problem.input_dtype,
    )
    train = dataset.train[: description.examples]
    # Sixteen batches at least, over which standard errors are.
    size = max(1, min(eval_batch_size(), len(train) // 16))
    batches = lambda split, size: data.eval_batches(split, problem.normalization, size)
    train_batches = batches(train, size)
    whole = train_batches[: len(train) // size]
    inputs = jnp.zeros((1, *problem.input_shape), problem.input_dtype)
    return Foreign(
        jax.eval_shape(lambda: network.init(jax.random.key(0), inputs)),
        Evaluation(
            _eval_fn(network, problem, description.scaled),
            functools.partial(_restated, _update_stats(network, problem), whole),
            train_batches,
            batches(dataset.test, eval_batch_size()),
        ),
    )


def _unscaled(normalization: data.Normalization | None) -> data.Normalization | None:
    """A normalization that leaves images of bytes in [0, 1], and others as they are."""
    if normalization is None:
        return None
    channels = len(normalization.mean)
    return dataclasses.replace(normalization, mean=(0.0,) * channels, std=(1.0,) * channels)


def _eval_fn(network: Network, problem: Problem, scaled: bool) -> flatjax.EvalFn:
    """Sums loss and error; targets of a regression are scaled like images."""

    @jax.jit
    def eval_fn(params, batch, state):
        outputs = network.logits({"params": params, **state}, problem.inputs(batch))
        if scaled and problem.target_normalization is not None:
            outputs = problem.target_normalization.normalize(outputs)
        return problem.sums(outputs, batch)

    return eval_fn


def _update_stats(network: Network, problem: Problem) -> Callable[..., chex.ArrayTree]:
    """Makes a forward pass in training mode that returns batch statistics."""

    @jax.jit
    def update(params, state, batch):
        variables = {"params": params, **state}
        return network.train_logits(variables, problem.inputs(batch), jax.random.key(0))[1]

    return update


def _restated(update, batches, params, state) -> tuple[dict[str, chex.ArrayTree]]:
    """Re-estimates batch statistics; other collections stay."""
    if "batch_stats" not in state:
        return (state,)
    of = lambda params, stats, batch: update(params, {**state, "batch_stats": stats}, batch)
    stats = flatjax.batch_stats.reestimate(of, params, state["batch_stats"], batches)
    return ({**state, "batch_stats": stats},)


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
