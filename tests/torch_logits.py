"""Compares linen networks with the logits that `torch_reference` holds; needs no PyTorch."""

import functools
import pathlib

import flax.linen as nn
import jax
import numpy as np
from torch_reference import weights

_FOLDER = pathlib.Path(__file__).parent / "torch_reference"


@functools.cache
def reference(family: str) -> dict[str, np.ndarray]:
    """What `make_reference.py` wrote for a family."""
    with np.load(_FOLDER / f"{family}.npz") as arrays:
        return dict(arrays)


@functools.cache
def init_shapes(model: nn.Module, size: int):
    """Shapes of the variables for images of `size` x `size` pixels and three channels."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    init = functools.partial(model.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), images)


def count(model: nn.Module, size: int) -> int:
    """Number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(init_shapes(model, size)["params"]))


def assert_logits_agree(expected, model, size, module_name, *, train=False):
    """Compares logits to within 1e-5 of the largest, 1e-4 if `train`.

    Args:
      expected: PyTorch's.
      model: the linen network; draws no random numbers.
      size: height and width of the images.
      module_name: see `weights.variables`.
      train: by statistics of the batch (whose small variances magnify rounding)?
    """
    variables = weights.variables(init_shapes(model, size), module_name)
    apply = jax.jit(functools.partial(model.apply, train=train, mutable=["batch_stats"]))
    logits, _ = apply(variables, weights.images(2, size, size, 3))
    tolerance = (1e-4 if train else 1e-5) * np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)
    # If the logits of two images were as close, this would have compared little.
    assert np.abs(expected[0] - expected[1]).max() > 50 * tolerance
