"""Initial weights of deep networks, in a program that compiles in seconds.

A deep network draws hundreds of kernels, and XLA compiles the random number generator anew for each
of them. For PyramidNet-272 this took minutes. `init_in_groups` compiles the generator about ten
times. It uses two facts:

1. Number i of a draw depends on the key and on i alone, if JAX's generator is "partitionable" (the
   default). A draw of n numbers is therefore the beginning of a draw of N > n numbers. Kernels of
   similar sizes, between two powers of two, form a group. A loop over the keys of a group draws as
   many numbers for each as its largest kernel has, N, and a kernel of n keeps the first n.
2. Linen derives the key of a kernel from the key of the network and a number, by
   `jax.random.fold_in`. All keys are derived together.

Each number passes through the operations of the plain initialisation in their order, so that its
bits are the same. Initializers mark their draws by calling `flatjax_draw`. Other initializers, and
all other operations, are evaluated as in the plain initialisation. The module can be removed when
`jax.jit(model.init)` compiles as fast for `pyramidnet272`.
"""

import collections
import functools
import math
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Initializer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxprs_in_params
from jax.typing import DTypeLike

# Kernels of up to 2^10 numbers form one group.
_SMALL = 10


@functools.partial(jax.jit, static_argnums=(1, 2))
def flatjax_draw(key: chex.PRNGKey, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Draws the numbers of `jax.random.normal` before its last product.

    Their variance is 1/2. The initializer multiplies them by the square root of two and by its
    scale, in the order of JAX's own function.
    """
    least = np.nextafter(np.array(-1, dtype), np.array(0, dtype))
    return jax.lax.erf_inv(jax.random.uniform(key, shape, dtype, least, 1))


def he_normal(fan: str) -> Initializer:
    """Makes the `variance_scaling(2.0, fan, "normal")` of flax, with a marked draw.

    Args:
      fan: `"fan_in"` or `"fan_out"`.

    Examples:
      >>> import flax.linen as nn
      >>> key, shape = jax.random.key(0), (3, 3, 4, 8)
      >>> plain = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
      >>> bool(jnp.all(he_normal("fan_in")(key, shape) == plain(key, shape)))
      True
    """
    axis = {"fan_in": -2, "fan_out": -1}[fan]

    def init(key, shape, dtype=jnp.float32):
        variance = jnp.array(2 / (math.prod(shape[:-2]) * shape[axis]), dtype)
        numbers, root = flatjax_draw(key, tuple(shape), dtype), np.array(math.sqrt(2), dtype)
        if jax.__version_info__ < (0, 12):  # the order of flax's products
            return root * numbers * jnp.sqrt(variance)
        return root * jnp.sqrt(variance) * numbers

    return init


def init_in_groups(
    init: jax.stages.Wrapped, key: chex.PRNGKey, inputs: jax.Array
) -> dict[str, chex.ArrayTree]:
    """Evaluates `init(key, inputs)`, with marked draws in groups.

    Args:
      init: the jitted initialisation of a network. It is traced once for each shape of the inputs.
      key: random key.
      inputs: inputs of the network.

    Returns:
      The same variables, bit for bit. With another generator, or if the weights depend on a loop or
      on a function with its own derivative, this is a call of `init`.
    """
    structs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (key, inputs)]
    traced = init.trace(*structs)
    needed = _needed(traced.jaxpr.jaxpr)
    if not _has_prefixes(key) or not all(map(_is_plain, needed)):
        return init(key, inputs)
    values = _evaluate(traced.jaxpr, needed, (key, inputs))
    return jax.tree.unflatten(jax.tree.structure(traced.out_info), values)


def _has_prefixes(key) -> bool:
    """Whether a draw is the beginning of a longer draw."""
    by_threefry = str(jax.random.key_impl(key)) == "threefry2x32"
    return by_threefry and jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]


def _needed(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """Returns the equations that the outputs need, without the forward pass."""
    needed, found = {v for v in jaxpr.outvars if not isinstance(v, Literal)}, []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or not needed.isdisjoint(eqn.outvars):
            found.append(eqn)
            needed.update(v for v in eqn.invars if not isinstance(v, Literal))
    return found[::-1]


def _is_plain(eqn: JaxprEqn) -> bool:
    """Whether the equation can be evaluated by `bind` with its parameters."""
    return eqn.primitive.name in ("jit", "pjit") or not any(jaxprs_in_params(eqn.params))


def _evaluate(
    closed: ClosedJaxpr, eqns: Sequence[JaxprEqn], args: Sequence[jax.Array]
) -> list[jax.Array]:
    """Evaluates equations in rounds: what is ready one by one, then in groups."""
    jaxpr = closed.jaxpr
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    known.update(zip(jaxpr.invars, args, strict=True))
    read = lambda v: v.val if isinstance(v, Literal) else known[v]
    while eqns:
        groups, later = collections.defaultdict(list), []
        for eqn in eqns:
            if not all(isinstance(v, Literal) or v in known for v in eqn.invars):
                later.append(eqn)
            elif group := _group_of(eqn):
                groups[group].append(eqn)
            else:
                found = eqn.primitive.bind(*map(read, eqn.invars), **eqn.params)
                several = eqn.primitive.multiple_results
                known.update(zip(eqn.outvars, found if several else [found], strict=True))
        for (evaluate, *static), members in groups.items():
            operands = [list(map(read, eqn.invars)) for eqn in members]
            avals: list[Any] = [eqn.outvars[0].aval for eqn in members]
            found = evaluate(operands, [aval.shape for aval in avals], *static)
            known.update(zip([eqn.outvars[0] for eqn in members], found, strict=True))
        eqns = later
    return [read(v) for v in jaxpr.outvars]


def _group_of(eqn):
    """Returns the function that evaluates its group, and static arguments."""
    is_draw = eqn.params.get("name") == flatjax_draw.__name__
    if not (is_draw or eqn.primitive.name == "random_fold_in") or not _is_one_key(eqn.invars[0]):
        return None
    if not is_draw:
        return (_fold_in_together,)
    out = eqn.outvars[0].aval
    return _draw_together, max((out.size - 1).bit_length(), _SMALL), out.dtype


def _is_one_key(variable) -> bool:
    """Whether the variable is one key; layers under `nn.vmap` have several."""
    aval = variable.aval
    return aval.ndim == (0 if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key) else 1)


def _fold_in_together(operands, shapes):
    """Derives keys, by fact 2."""
    del shapes
    keys, numbers = (jnp.stack(column) for column in zip(*operands, strict=True))
    return jax.vmap(jax.random.fold_in)(keys, numbers)


def _draw_together(operands, shapes, power, dtype):
    """Draws kernels of up to 2^power numbers, by fact 1."""
    del power
    sizes = [math.prod(shape) for shape in shapes]
    keys = jnp.stack([key for (key,) in operands])
    rows = jax.lax.map(lambda key: flatjax_draw(key, (max(sizes),), dtype), keys)
    kernels = zip(rows, sizes, shapes, strict=True)
    return [row[:size].reshape(shape) for row, size, shape in kernels]
