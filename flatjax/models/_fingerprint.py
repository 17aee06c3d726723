"""Fingerprints of networks: of what they compute, not of the text of their code.

The module of a user can change between two commands. A fingerprint tells whether its network still
computes the same. It is a digest of the traced operations, with their constants, and of the names
and shapes of the variables. Comments, names of functions and the order of definitions do not
matter. Versions of jax, flax and flatjax trace one network to different operations, so that
fingerprints of different versions say nothing about each other.
"""

import hashlib
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from flatjax import _version
from flatjax.models._network import Network

# Parameters of an operation that name functions and places of the code.
_NAMES = {"name", "debug_info", "name_and_src_info"}
_ADDRESS = re.compile(r"0x[0-9a-f]+")


def fingerprint_of(
    network: Network, image_shape: Sequence[int], input_dtype: str, *, training: bool
) -> dict[str, str]:
    """Computes the fingerprint of a network, with the versions of the libraries.

    Nothing is compiled. The fingerprint is the same in all processes and on all devices, if the
    network does not ask for them.

    Args:
      network: the network.
      image_shape: shape of an image, (H, W, C); or (T,) for tokens.
      input_dtype: `"float32"` for images, `"int32"` for tokens.
      training: whether initial weights, the forward pass in training and its gradient count, too;
        otherwise only the predictions do.
    """

    def train(variables, images, key):
        """Returns outputs and statistics in training, and the gradient of the parameters."""
        variables = {"batch_stats": {}, **variables}
        outputs = lambda w: network.train_logits(variables | {"params": w}, images, key)
        logits, pull, stats = jax.vjp(outputs, variables["params"], has_aux=True)
        return logits, stats, pull(logits)

    key = jax.eval_shape(lambda: jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, *image_shape), input_dtype)
    variables = jax.eval_shape(network.plain_init, key, images)
    parts: list[Any] = [_operations(network.logits, variables, images)]
    if training:
        parts.append(_operations(network.plain_init, key, images))
        parts.append(_operations(train, variables, images, key))
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    parts += [(jax.tree_util.keystr(path), leaf.shape, str(leaf.dtype)) for path, leaf in leaves]
    versions = {"jax": jax.__version__, "flax": flax.__version__, "flatjax": _version.__version__}
    return {"digest": _digest(parts)} | versions


def differs(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Whether fingerprints differ; False if they belong to different versions."""
    without = lambda one: {name: value for name, value in one.items() if name != "digest"}
    return without(before) == without(now) and before["digest"] != now["digest"]


def warn_of_change(model: str, place: object) -> None:
    """Warns that a network is not the network that was trained.

    Args:
      model: name of the network.
      place: where its parameters are.
    """
    warnings.warn(
        f"{place}: the code of {model} has changed since this model was trained. The network now "
        "computes something else with the same parameters: restore the earlier code, or train the "
        "network again in another directory.",
        stacklevel=3,
    )


def _digest(parts: Any) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def _operations(function: Any, *arguments: Any) -> str:
    """Computes a digest of the operations of a function."""
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments), {})


def _of_jaxpr(closed: ClosedJaxpr | Jaxpr, known: dict[int, Any]) -> str:
    """Computes a digest of a jaxpr; variables count by order, not by name.

    Args:
      closed: the jaxpr, with or without constants.
      known: digests of jaxprs by their identity, as many calls share one. It is extended, and keeps
        the jaxprs, so that an identity is not used again.
    """
    if id(closed) in known:
        return known[id(closed)][1]
    jaxpr = closed.jaxpr if isinstance(closed, ClosedJaxpr) else closed
    consts = closed.consts if isinstance(closed, ClosedJaxpr) else []
    numbers: dict[Any, int] = {}

    def atom(one):
        if isinstance(one, Literal):
            return _value(one.val, known)
        return numbers.setdefault(one, len(numbers)), _kind(one.aval)

    parts: list[Any] = [_value(list(consts), known)]
    parts.append([atom(one) for one in (*jaxpr.constvars, *jaxpr.invars)])
    for equation in jaxpr.eqns:
        inputs = [atom(one) for one in equation.invars]
        options = {k: v for k, v in equation.params.items() if k not in _NAMES}
        outputs = [atom(one) for one in equation.outvars]
        parts.append((equation.primitive.name, inputs, _value(options, known), outputs))
    parts.append([atom(one) for one in jaxpr.outvars])
    known[id(closed)] = closed, (found := _digest(parts))
    return found


def _kind(aval: Any) -> str:
    is_array = hasattr(aval, "shape") and hasattr(aval, "dtype")
    return f"{aval.dtype}{aval.shape}" if is_array else _ADDRESS.sub("", str(aval))


def _value(value: Any, known: dict[int, Any]) -> Any:
    """Returns a parameter or constant as text that does not depend on the process."""
    if isinstance(value, ClosedJaxpr | Jaxpr):
        return _of_jaxpr(value, known)
    if isinstance(value, dict):
        return sorted((str(name), repr(_value(one, known))) for name, one in value.items())
    if isinstance(value, set | frozenset):
        return sorted(repr(_value(one, known)) for one in value)
    if isinstance(value, tuple | list):
        return [_value(one, known) for one in value]
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.ascontiguousarray(value)
        return str(array.dtype), array.shape, hashlib.blake2b(array.tobytes()).hexdigest()
    return _ADDRESS.sub("", str(value))
