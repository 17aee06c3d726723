"""The order in which XLA's CPU backend runs independent operations.

Both functions return some of their arguments, unchanged in value. On a single CPU device they add a
dependence that the compiler must respect; elsewhere they leave no trace in the compiled program.
With several devices there is no dependence: replicas then run next to each other on purpose, and
the devices would have to send each other the values for which they wait.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from flatjax._cpu._lowering import register_lowerings


def after(done: chex.ArrayTree, args: Any) -> Any:
    """Returns the arguments, which a single CPU device uses only after `done`.

    XLA's CPU backend runs independent operations at the same time. Convolutions of several replicas
    (or a convolution and a draw of noise) then share cores and caches, and take a third longer than
    in sequence. The backend drops `lax.optimization_barrier` before it schedules. The dependence
    must therefore be one of data: on a number that is always False, also for NaN, which the
    compiler does not know. It can be removed when unrolled replicas of the convolutional network
    take as long as y plain steps without it (`python -m experiments.benchmarks.steps`).

    Args:
      done: a pytree; the device waits for each of its arrays.
      args: a pytree; its numeric arrays wait.

    Returns:
      `args`, unchanged in value.
    """
    # Leaves may be Python scalars, too.
    has_dtype = lambda leaf, kind: hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, kind)
    done = [x for x in jax.tree.leaves(done) if has_dtype(x, jnp.floating) and x.size]
    leaves, treedef = jax.tree.flatten(args)
    waiting = [i for i, leaf in enumerate(leaves) if has_dtype(leaf, jnp.number)]
    if not done or not waiting:
        return args
    waited = _after_p.bind(*done, *[leaves[i] for i in waiting], num_control=len(done))
    for i, leaf in zip(waiting, waited, strict=True):
        leaves[i] = leaf
    return jax.tree.unflatten(treedef, leaves)


def once(values: chex.ArrayTree, count: jax.Array) -> Any:
    """Returns values that a single CPU device computes once, for any number of uses.

    XLA's CPU backend fuses an elementwise function into each operation that uses it, and computes
    it again there. For example, it would compute the noise of Entropy-SGD, an expensive function of
    a counter, for each of the arrays that it moves. No fusion crosses a conditional whose predicate
    the compiler does not know. This can be removed when the step of Entropy-SGD for a perceptron is
    as fast without it.

    Args:
      values: a pytree of arrays.
      count: an integer array that is never negative; the compiler does not know this.

    Returns:
      `values`, unchanged.
    """
    treedef: Any
    leaves, treedef = jax.tree.flatten(values)
    return treedef.unflatten(_once_p.bind(count, *leaves, num_control=1)) if leaves else values


def _wait(*operands, num_control):
    done, args = operands[:num_control], operands[num_control:]
    # No fusion crosses a sort. A sum of the operands would be computed again in every array that
    # waits, which made compile times grow with the square of the number of replicas.
    last = jnp.sort(jnp.stack([x.ravel()[0].astype(jnp.float32) for x in done]))[0]
    never = last < -jnp.abs(last)
    return [jnp.where(never, jnp.zeros_like(leaf), leaf) for leaf in args]


def _compute_once(count, *values, num_control):
    del num_control
    zeros = lambda values: [jnp.zeros_like(leaf) for leaf in values]
    return jax.lax.cond(count.ravel()[0] >= 0, list, zeros, values)


# --- primitives: operands are the controlling values, and the values that are returned ------------


def _define(name: str, single_cpu: Callable[..., Any]) -> Primitive:
    primitive = Primitive(name)
    primitive.multiple_results = True

    def returned(*operands, num_control):
        return list(operands[num_control:])

    def jvp(primals, tangents, *, num_control):
        control, tangents = primals[:num_control], tangents[num_control:]
        moved = [i for i, t in enumerate(tangents) if type(t) is not ad.Zero]
        if moved:
            waited = primitive.bind(
                *control, *[tangents[i] for i in moved], num_control=num_control
            )
            tangents = list(tangents)
            for i, tangent in zip(moved, waited, strict=True):
                tangents[i] = tangent
        return primitive.bind(*primals, num_control=num_control), tangents

    def transpose(cotangents, *operands, num_control):
        there = [i for i, ct in enumerate(cotangents) if type(ct) is not ad.Zero]
        cotangents = list(cotangents)
        given = [cotangents[i] for i in there]
        waited = primitive.bind(*operands[:num_control], *given, num_control=num_control)
        for i, cotangent in zip(there, waited, strict=True):
            cotangents[i] = cotangent
        return [None] * num_control + cotangents

    def batch(operands, axes, *, num_control):
        return primitive.bind(*operands, num_control=num_control), axes[num_control:]

    primitive.def_impl(returned)
    primitive.def_abstract_eval(returned)
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = batch
    register_lowerings(primitive, single_cpu=single_cpu, elsewhere=returned)
    return primitive


_after_p = _define("after", _wait)
_once_p = _define("once", _compute_once)
